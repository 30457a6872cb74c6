package admin

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/rls"
	"evenkeel.io/controlplane/internal/translate"
)

// Limits are the rules that the rate limit service of this process knows. Those of scope Proxy are never asked about.
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

// LimitView is a limit as it is counted here, or of scope Proxy, as it is served.
type LimitView struct {
	rls.Limit
	// Adapt is why the factor is what it is, of a limit that follows its backends.
	Adapt *adapt.Decision `json:"adapt,omitempty"`
	// Statistics say where a limit of scope Proxy is counted: not here.
	Statistics *EnvoyStatistics `json:"statistics,omitempty"`
}

// EnvoyStatistics are counters that each Envoy of a fleet has for itself.
type EnvoyStatistics struct {
	// Prefix of their names, such as "evenkeel.bucket.3.http_local_rate_limit": after it come ".enabled", the
	// requests that were looked at, ".enforced", those that were refused, and ".shadow_mode", those that a limit
	// in Shadow would have refused.
	Prefix string `json:"prefix"`
	// Shared are the other limits of the fleet, by rule, that the same counters count.
	Shared []string `json:"shared,omitempty"`
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
	if m.Limits != nil {
		for _, l := range m.Limits.Limits() {
			if scope := l.Configured.Scope; scope != nil && *scope == v1alpha1.ScopeProxy {
				continue
			}
			view := LimitView{Limit: l}
			if d, ok := m.Factors(l.Fleet)[l.Rule]; ok {
				view.Adapt = &d
			}
			views = append(views, view)
		}
	}
	for _, fleet := range m.model.Fleets() {
		views = append(views, m.limitsOfProxies(fleet)...)
	}
	slices.SortStableFunc(views, func(a, b LimitView) int {
		return cmp.Or(strings.Compare(a.Fleet, b.Fleet), strings.Compare(a.Rule, b.Rule))
	})
	return views
}

// limitsOfProxies are the limits of scope Proxy that a fleet is served.
func (m moment) limitsOfProxies(fleet string) (views []LimitView) {
	served, _, ok := m.model.Snapshot(fleet)
	if !ok {
		return nil
	}
	counting := map[string][]string{} // rules by their counters
	for _, r := range served.Get(translate.Limits, fleet).Rules() {
		if r.Scope() != v1alpha1.ScopeProxy {
			continue
		}
		rate, prefix := r.Limit.Rate, translate.BucketStatistics(r)
		counting[prefix] = append(counting[prefix], r.ID)
		views = append(views, LimitView{
			Limit: rls.Limit{
				Fleet: fleet, Rule: r.ID, Configured: r.Limit, Factor: 1, Top: []rls.TopKey{},
				Now: rls.Bound{Rate: float64(rate.Requests) / rate.Per.Seconds(), Burst: *rate.Burst},
			},
			Statistics: &EnvoyStatistics{Prefix: prefix},
		})
	}
	for _, view := range views {
		for _, rule := range counting[view.Statistics.Prefix] {
			if rule != view.Rule {
				view.Statistics.Shared = append(view.Statistics.Shared, rule)
			}
		}
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
		if view.Statistics != nil {
			return nil, badRequest("rule %q is of scope Proxy: each Envoy counts for itself, and says how many in its statistics %s", rule, view.Statistics.Prefix)
		}
		explanation, err := m.Limits.Explain(r.Context(), fleet, rule, values)
		if err != nil {
			return nil, badRequest("%v", err)
		}
		return ExplainLimitView{Limit: view, Explanation: explanation}, nil
	}
	return nil, notFound("fleet %q has no rule %q that is counted here", fleet, rule)
}
