package v1alpha1

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The bounds of a LimitPolicy.
const (
	maxTargets        = 16
	maxLimits         = 32
	maxSelectors      = 16 // of each kind in a When
	maxKeyParts       = 4
	maxValues         = 64
	maxReplyHeaders   = 16
	maxText           = 1024 // of a path, the value of a header or of a part of a key, in characters
	maxReplyBody      = 4096
	maxRequests       = 1_000_000_000
	maxConcurrency    = 1_000_000
	maxReplicas       = 100_000
	maxAdaptQuery     = 1024
	maxFactor         = 10
	minStep           = 0.01
	shortest, longest = time.Second, 24 * time.Hour // of Rate.Per
)

// Validate says what of the policy cannot be: what an API server would refuse, and beyond that regular
// expressions and CEL expressions that an Envoy would. It looks at this policy alone.
func (p *LimitPolicy) Validate() field.ErrorList {
	spec := field.NewPath("spec")
	s := &p.Spec
	errs := slices.Concat(
		validateLimitTargets(spec.Child("targetRefs"), s.TargetRefs),
		oneOf(spec.Child("onError"), s.OnError, OnErrorAllow, OnErrorDeny),
	)
	if s.Override != nil && *s.Override && slices.ContainsFunc(s.TargetRefs, func(r gatewayv1.LocalPolicyTargetReferenceWithSectionName) bool { return r.Kind != "Gateway" }) {
		errs = append(errs, field.Invalid(spec.Child("override"), true, "must be left out where a target is no Gateway: a route's limits have nothing to override"))
	}
	limits := spec.Child("limits")
	switch {
	case len(s.Limits) == 0:
		return append(errs, field.Required(limits, "must hold at least one limit"))
	case len(s.Limits) > maxLimits:
		errs = append(errs, field.TooMany(limits, len(s.Limits), maxLimits))
	}
	seen := map[string]bool{}
	for i := range s.Limits {
		l := &s.Limits[i]
		errs = append(errs, l.validate(limits.Index(i))...)
		if seen[l.Name] && l.Name != "" {
			errs = append(errs, field.Duplicate(limits.Index(i).Child("name"), l.Name))
		}
		seen[l.Name] = true
	}
	return errs
}

func validateLimitTargets(path *field.Path, refs []gatewayv1.LocalPolicyTargetReferenceWithSectionName) (errs field.ErrorList) {
	if len(refs) == 0 {
		return field.ErrorList{field.Required(path, "must name the HTTPRoutes or Gateways that the policy is for")}
	}
	if len(refs) > maxTargets {
		errs = append(errs, field.TooMany(path, len(refs), maxTargets))
	}
	type target struct {
		kind    gatewayv1.Kind
		name    gatewayv1.ObjectName
		section gatewayv1.SectionName
	}
	seen := map[target]bool{}
	for i, ref := range refs {
		at := path.Index(i)
		if kinds := []string{"Gateway", "HTTPRoute", "GRPCRoute"}; !slices.Contains(kinds, string(ref.Kind)) {
			errs = append(errs, field.NotSupported(at.Child("kind"), ref.Kind, kinds))
		} else if ref.Group != gatewayv1.GroupName {
			errs = append(errs, field.NotSupported(at.Child("group"), ref.Group, []string{gatewayv1.GroupName}))
		}
		errs = append(errs, objectName(at.Child("name"), string(ref.Name))...)
		t := target{kind: ref.Kind, name: ref.Name}
		if ref.SectionName != nil {
			t.section = *ref.SectionName
			if ref.Kind == "Gateway" {
				errs = append(errs, field.Invalid(at.Child("sectionName"), t.section, "must be left out for a Gateway: limits hold on all of its listeners"))
			} else if problems := validation.IsDNS1123Subdomain(string(t.section)); problems != nil {
				errs = append(errs, field.Invalid(at.Child("sectionName"), t.section, "must be the name of a rule: "+problems[0]))
			}
		}
		if seen[t] {
			errs = append(errs, field.Duplicate(at, strings.TrimSpace(fmt.Sprintf("%s %s %s", t.kind, t.name, t.section))))
		}
		seen[t] = true
	}
	return errs
}

func objectName(path *field.Path, name string) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(path, "must be the name of the target")}
	}
	for _, problem := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, field.Invalid(path, name, problem))
	}
	return errs
}

func (l *Limit) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if l.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must be the name of the limit"))
	} else {
		for _, problem := range validation.IsDNS1123Label(l.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), l.Name, problem))
		}
	}
	if (l.Rate == nil) == (l.Concurrency == nil) {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "must have exactly one of rate and concurrency"))
	}
	errs = slices.Concat(errs,
		l.When.validate(path.Child("when")),
		validateKey(path.Child("key"), l.Key),
		oneOf(path.Child("missing"), l.Missing, MissingGlobal, MissingSkip, MissingDeny),
		l.Rate.validate(path.Child("rate")),
		within(path.Child("concurrency"), l.Concurrency, 1, maxConcurrency),
		l.validateValues(path.Child("values")),
		oneOf(path.Child("scope"), l.Scope, ScopeFleet, ScopeProxy),
		l.Adapt.validate(path.Child("adapt")),
		oneOf(path.Child("mode"), l.Mode, LimitEnforce, LimitShadow, LimitOff),
		l.Reply.validate(path.Child("reply")),
	)
	if l.Scope != nil && *l.Scope == ScopeProxy {
		if l.When != nil && len(l.When.Backends) > 0 {
			errs = append(errs, field.Invalid(path.Child("when", "backends"), field.OmitValueType{}, "must be left out with scope Proxy: a single Envoy's buckets do not have it"))
		}
		for _, f := range []struct {
			name string
			set  bool
		}{{"concurrency", l.Concurrency != nil}, {"adapt", l.Adapt != nil}, {"reply", l.Reply != nil}} {
			if f.set {
				errs = append(errs, field.Invalid(path.Child(f.name), field.OmitValueType{}, "must be left out with scope Proxy: a single Envoy's buckets do not have it"))
			}
		}
	}
	return errs
}

func (r *Rate) validate(path *field.Path) (errs field.ErrorList) {
	if r == nil {
		return nil
	}
	errs = slices.Concat(
		within(path.Child("requests"), &r.Requests, 1, maxRequests),
		within(path.Child("burst"), r.Burst, 1, maxRequests),
	)
	if d := r.Per.Duration; d < shortest || d > longest || d%time.Second != 0 {
		errs = append(errs, field.Invalid(path.Child("per"), d.String(), "must be between 1s and 24h, in whole seconds"))
	}
	return errs
}

func (l *Limit) validateValues(path *field.Path) (errs field.ErrorList) {
	switch {
	case len(l.Values) > maxValues:
		return field.ErrorList{field.TooMany(path, len(l.Values), maxValues)}
	case len(l.Values) > 0 && len(l.Key) == 0:
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "must be left out of a limit without a key")}
	}
	for i := range l.Values {
		v, at := &l.Values[i], path.Index(i)
		match := at.Child("match")
		if len(v.Match) == 0 {
			errs = append(errs, field.Required(match, "must give a value to a part of the key"))
		}
		given := map[string]string{}
		for _, name := range slices.Sorted(maps.Keys(v.Match)) {
			switch parts := partsNamed(l.Key, name); len(parts) {
			case 0:
				errs = append(errs, field.Invalid(match.Key(name), name, "must be a part of the key: "+strings.Join(l.Key, ", ")))
			case 1:
				if other, twice := given[parts[0]]; twice {
					errs = append(errs, field.Invalid(match.Key(name), name, fmt.Sprintf("must be given once; %s is the same part of the key", other)))
				}
				given[parts[0]] = name
			default:
				errs = append(errs, field.Invalid(match.Key(name), name, "must be one part of the key, could be "+strings.Join(parts, " or ")))
			}
			errs = append(errs, plainText(match.Key(name), v.Match[name])...)
		}
		bounds := 0
		for _, set := range []bool{v.Rate != nil, v.Concurrency != nil, v.Unlimited != nil} {
			if set {
				bounds++
			}
		}
		switch {
		case bounds != 1:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "must have exactly one of rate, concurrency and unlimited"))
		case v.Unlimited != nil && !*v.Unlimited:
			errs = append(errs, field.Invalid(at.Child("unlimited"), false, "must be true, or left out for a rate"))
		case v.Rate != nil && l.Rate == nil:
			errs = append(errs, field.Invalid(at.Child("rate"), field.OmitValueType{}, "must be left out of a limit of concurrency"))
		case v.Concurrency != nil && l.Concurrency == nil:
			errs = append(errs, field.Invalid(at.Child("concurrency"), field.OmitValueType{}, "must be left out of a limit of rate"))
		}
		errs = append(errs, v.Rate.validate(at.Child("rate"))...)
		errs = append(errs, within(at.Child("concurrency"), v.Concurrency, 1, maxConcurrency)...)
	}
	return errs
}

// partsNamed are the parts of the key that a name in ValueLimit.Match may mean: the part itself, or else
// those of which it is what comes after the colon.
func partsNamed(key []string, name string) (parts []string) {
	for _, part := range key {
		if samePart(part, name) {
			return []string{part}
		}
	}
	for _, part := range key {
		kind, rest, _ := strings.Cut(part, ":")
		if rest != "" && (rest == name || kind == partHeader && strings.EqualFold(rest, name)) {
			parts = append(parts, part)
		}
	}
	return parts
}

// PartNamed is the part of the limit's key that a name in a ValueLimit's Match means, "" for none. In a
// valid limit there is one.
func (l *Limit) PartNamed(name string) string {
	if parts := partsNamed(l.Key, name); len(parts) == 1 {
		return parts[0]
	}
	return ""
}

func (a *Adapt) validate(path *field.Path) (errs field.ErrorList) {
	if a == nil {
		return nil
	}
	filled := (&Limit{Adapt: a}).WithDefaults().Adapt
	ceil := *filled.Ceil
	errs = slices.Concat(
		oneOf(path.Child("by"), &a.By, AdaptByHealth, AdaptByReplicas, AdaptByMetric),
		number(path.Child("ceil"), a.Ceil, "must be more than 0 and at most 10", func(v float64) bool { return v > 0 && v <= maxFactor }),
		number(path.Child("floor"), a.Floor, "must be more than 0 and at most the ceil", func(v float64) bool { return v > 0 && v <= maxFactor }),
		number(path.Child("step"), a.Step, "must be between 0.01 and 1", func(v float64) bool { return v >= minStep && v <= 1 }),
		between(path.Child("hold"), a.Hold, time.Second, time.Hour),
		within(path.Child("replicas"), a.Replicas, 1, maxReplicas),
	)
	if *filled.Floor > ceil {
		errs = append(errs, field.Invalid(path.Child("floor"), *filled.Floor, fmt.Sprintf("must be at most the ceil, %v", ceil)))
	}
	if (a.By == AdaptByReplicas) != (a.Replicas != nil) {
		errs = append(errs, field.Invalid(path.Child("replicas"), field.OmitValueType{}, "must be set with by: Replicas, and with it alone"))
	}
	if (a.By == AdaptByMetric) != (a.Metric != nil) {
		errs = append(errs, field.Invalid(path.Child("metric"), field.OmitValueType{}, "must be set with by: Metric, and with it alone"))
	}
	return append(errs, a.Metric.validate(path.Child("metric"))...)
}

func (m *AdaptMetric) validate(path *field.Path) (errs field.ErrorList) {
	if m == nil {
		return nil
	}
	errs = slices.Concat(
		prometheusServer(path.Child("server"), m.Server),
		promQL(path.Child("query"), (*PromQL)(&m.Query)),
		number(path.Child("down"), &m.Down, "must be a number", finite),
		number(path.Child("up"), &m.Up, "must be a number", finite),
		between(path.Child("for"), m.For, 0, time.Hour),
	)
	if len(m.Query) > maxAdaptQuery {
		errs = append(errs, field.TooLong(path.Child("query"), m.Query, maxAdaptQuery))
	}
	if m.Up > m.Down {
		errs = append(errs, field.Invalid(path.Child("up"), m.Up, fmt.Sprintf("must be at most down, %v", m.Down)))
	}
	return errs
}

func finite(v float64) bool { return v-v == 0 }

func (r *Reply) validate(path *field.Path) (errs field.ErrorList) {
	if r == nil {
		return nil
	}
	errs = within(path.Child("status"), r.Status, 400, 599)
	headers := path.Child("headers")
	if len(r.Headers) > maxReplyHeaders {
		errs = append(errs, field.TooMany(headers, len(r.Headers), maxReplyHeaders))
	}
	errs = append(errs, headerNames(headers, r.Headers)...)
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		if slices.Contains(framing, strings.ToLower(name)) {
			errs = append(errs, field.Invalid(headers.Key(name), name, "must be left out: it is Envoy's to set"))
		}
		errs = append(errs, plainText(headers.Key(name), r.Headers[name])...)
	}
	if r.Body != nil && len(*r.Body) > maxReplyBody {
		errs = append(errs, field.TooLong(path.Child("body"), *r.Body, maxReplyBody))
	}
	return errs
}

// within checks a whole number. A nil value is absent.
func within[T int32 | int64](path *field.Path, value *T, low, high T) field.ErrorList {
	if value == nil || low <= *value && *value <= high {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *value, fmt.Sprintf("must be between %d and %d", low, high))}
}
