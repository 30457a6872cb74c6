package admin

import (
	"context"
	"net/http"
	"strings"

	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/rls"
)

// Limits are the rules that the rate limit service of this process counts by.
type Limits interface {
	Limits() []rls.Limit
	// Explain says what a rule makes of a request with these values of its key, without counting it.
	Explain(ctx context.Context, fleet, rule string, key map[string]string) (rls.Explanation, error)
}

// LimitsView answers /limits, sorted by fleet and rule.
type LimitsView struct {
	Limits []LimitView `json:"limits"`
	// Follows names the replica that counts, if another one does.
	Follows string `json:"follows,omitempty"`
}

// LimitView is a limit as it is counted here.
type LimitView struct {
	rls.Limit
	// Adapt is why the factor is what it is, of a limit that follows its backends.
	Adapt *adapt.Decision `json:"adapt,omitempty"`
}

// ExplainLimitView answers /limits/explain.
type ExplainLimitView struct {
	Limit       LimitView       `json:"limit"`
	Explanation rls.Explanation `json:"explanation"`
}

func (m moment) limits(*http.Request) (any, error) {
	return LimitsView{Limits: m.limitViews(), Follows: m.Follows()}, nil
}

func (m moment) limitViews() []LimitView {
	views := []LimitView{}
	if m.Limits == nil {
		return views
	}
	for _, l := range m.Limits.Limits() {
		view := LimitView{Limit: l}
		if d, ok := m.Factors(l.Fleet)[l.Rule]; ok {
			view.Adapt = &d
		}
		views = append(views, view)
	}
	return views
}

// explainLimit takes fleet, rule, and the values of the key, each as key=PART=VALUE.
func (m moment) explainLimit(r *http.Request) (any, error) {
	query := r.URL.Query()
	fleet, rule := query.Get("fleet"), query.Get("rule")
	values := map[string]string{}
	for _, given := range query["key"] {
		part, value, ok := strings.Cut(given, "=")
		if !ok {
			return nil, badRequest("key: %q: expected PART=VALUE, such as X-Tenant=acme", given)
		}
		values[part] = value
	}
	for _, view := range m.limitViews() {
		if view.Fleet != fleet || view.Rule != rule {
			continue
		}
		explanation, err := m.Limits.Explain(r.Context(), fleet, rule, values)
		if err != nil {
			return nil, badRequest("%v", err)
		}
		return ExplainLimitView{Limit: view, Explanation: explanation}, nil
	}
	return nil, notFound("fleet %q has no rule %q that is counted here", fleet, rule)
}
