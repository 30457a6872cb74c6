package v1alpha1

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WithDefaults is the spec with every default filled in: Override, OnError and the limits may be followed
// unchecked. It shares nothing with s that it changes.
func (s LimitPolicySpec) WithDefaults() LimitPolicySpec {
	s.Override = orDefault(s.Override, false)
	s.OnError = orDefault(s.OnError, OnErrorAllow)
	limits := s.Limits
	s.Limits = make([]Limit, len(limits))
	for i, l := range limits {
		s.Limits[i] = l.WithDefaults()
	}
	return s
}

// WithDefaults is the limit with every default filled in. Missing, Scope and Mode are set then, and where
// they are there at all, Rate.Burst and the fields of Adapt (of Replicas and Metric the one that By names). It
// shares nothing with l that it changes.
func (l Limit) WithDefaults() Limit {
	l.Missing = orDefault(l.Missing, defaultMissing(l.Key))
	l.Scope = orDefault(l.Scope, ScopeFleet)
	l.Mode = orDefault(l.Mode, LimitEnforce)
	l.Rate = l.Rate.withDefaults()
	if values := l.Values; values != nil {
		l.Values = make([]ValueLimit, len(values))
		for i, v := range values {
			v.Rate = v.Rate.withDefaults()
			l.Values[i] = v
		}
	}
	if l.Adapt != nil {
		a := *l.Adapt
		a.Floor = orDefault(a.Floor, 0.2)
		a.Ceil = orDefault(a.Ceil, 1)
		a.Step = orDefault(a.Step, 0.05)
		a.Hold = orDefault(a.Hold, metav1.Duration{Duration: 10 * time.Second})
		if a.Metric != nil {
			m := *a.Metric
			m.For = orDefault(m.For, metav1.Duration{})
			a.Metric = &m
		}
		l.Adapt = &a
	}
	return l
}

// defaultMissing is Global, for a client could otherwise leave a limit by leaving out a header. Which
// requests lack the value of a CEL expression an Envoy cannot tell, so there it is Skip.
func defaultMissing(key []string) Missing {
	if slices.ContainsFunc(key, func(part string) bool { return strings.HasPrefix(part, partCEL+":") }) {
		return MissingSkip
	}
	return MissingGlobal
}

func (r *Rate) withDefaults() *Rate {
	if r == nil {
		return nil
	}
	filled := *r
	filled.Burst = orDefault(r.Burst, r.Requests)
	return &filled
}

// orDefault is p, or a new pointer to the default.
func orDefault[T any](p *T, d T) *T {
	if p == nil {
		return &d
	}
	return p
}
