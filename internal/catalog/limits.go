package catalog

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/source"
)

// limits is the stage of LimitPolicies. It puts limits on the routes of the routing stage, which knows
// nothing of them.
type limits struct {
	routing *routing // of which it was made
	admitted[*v1alpha1.LimitPolicy]
	// rules of each policy in force, in the order of its limits.
	rules    map[*v1alpha1.LimitPolicy][]*rlsconfig.Rule
	fleets   map[string]*Fleet
	verdicts []Verdict
}

func buildLimits(wasStore *source.Store, was *limits, store *source.Store, routing *routing) *limits {
	// A routing that is the same was made of the same Namespaces.
	if was.fleets != nil && was.routing == routing && sameObjects(wasStore.LimitPolicies, store.LimitPolicies) {
		return was
	}
	l := &limits{routing: routing, rules: map[*v1alpha1.LimitPolicy][]*rlsconfig.Rule{}, fleets: map[string]*Fleet{}}
	l.admitted = admit(was.inForce, store.LimitPolicies, func(p *v1alpha1.LimitPolicy) *refusal { return l.compile(was, p) })
	for _, kept := range l.inForce {
		if l.rules[kept] == nil {
			l.rules[kept] = was.rules[kept]
		}
	}
	a := &attacher{limits: l, store: store, held: claim(l.admitted, limited), at: map[target][]attached{}, seen: map[attachedTo]*sight{}, backends: map[target]map[string]bool{}}
	a.layOut()
	for name, fleet := range routing.fleets {
		l.fleets[name] = share(was.fleets[name], a.fleet(fleet))
	}
	for _, object := range store.LimitPolicies {
		l.verdicts = append(l.verdicts, l.judge(object, source.KindLimitPolicy, limitTargets(object), a.missing,
			func(field string, t target, v *Verdict) { a.say(field, t, v, object) })...)
	}
	slices.SortFunc(l.verdicts, compareVerdicts)
	return l
}

// compile makes the rules of a policy, or says why there are none. A rule that is as before is the same
// pointer.
func (l *limits) compile(was *limits, object *v1alpha1.LimitPolicy) *refusal {
	if rules := was.rules[object]; rules != nil {
		l.rules[object] = rules
		return nil
	}
	if why := validate(object); why != nil {
		return why
	}
	before := map[string]*rlsconfig.Rule{}
	for _, r := range was.rules[was.inForce[nameOf(object)]] {
		before[r.ID] = r
	}
	spec := object.Spec.WithDefaults()
	rules := make([]*rlsconfig.Rule, len(spec.Limits))
	for i, limit := range spec.Limits {
		rule, err := rlsconfig.Compile(object.Namespace+"/"+object.Name+"/"+limit.Name, *spec.OnError, limit)
		if err != nil {
			first, more, _ := strings.Cut(err.Error(), "\n") // a problem to a line, each begins with its field
			path, message, _ := strings.Cut(first, ": ")
			if more != "" {
				message += fmt.Sprintf(" (and %d more)", strings.Count(more, "\n")+1)
			}
			return refuse(ReasonInvalid, fmt.Sprintf("spec.limits[%d].%s", i, path), "%s", message)
		}
		rules[i] = share(before[rule.ID], rule)
	}
	l.rules[object] = rules
	return nil
}

// attachedTo is a limit of some name at a target, of which there is one.
type attachedTo struct {
	target target
	limit  string
}

// limited is all that a policy would have.
func limited(p *v1alpha1.LimitPolicy) iter.Seq[attachedTo] {
	return func(yield func(attachedTo) bool) {
		for _, t := range limitTargets(p) {
			for i := range p.Spec.Limits {
				if !yield(attachedTo{t, p.Spec.Limits[i].Name}) {
					return
				}
			}
		}
	}
}

func limitTargets(p *v1alpha1.LimitPolicy) (targets []target) {
	for _, ref := range p.Spec.TargetRefs {
		t := target{Kind: string(ref.Kind), Namespace: p.Namespace, Name: string(ref.Name)}
		if ref.SectionName != nil {
			t.Section = string(*ref.SectionName)
		}
		targets = append(targets, t)
	}
	return targets
}

// attacher is the work on one limits stage.
type attacher struct {
	limits *limits
	store  *source.Store
	held   map[attachedTo]*v1alpha1.LimitPolicy
	at     map[target][]attached // by name of the limit
	// What came of it: where the limits hold, and what is behind each target that limits reach.
	seen     map[attachedTo]*sight
	backends map[target]map[string]bool // names of Services
}

// attached is a limit at a target.
type attached struct {
	to       attachedTo
	rule     *rlsconfig.Rule
	override bool
}

// sight is how a limit fares in the rules of routes that its target covers.
type sight struct {
	holds int // where it is the one of its name, even if Off
	lost  int // where another one is
	to    attachedTo
}

// layOut lists what is held by target.
func (a *attacher) layOut() {
	for to, policy := range a.held {
		i := slices.IndexFunc(policy.Spec.Limits, func(l v1alpha1.Limit) bool { return l.Name == to.limit })
		override := policy.Spec.Override != nil && *policy.Spec.Override
		a.at[to.target] = append(a.at[to.target], attached{to, a.limits.rules[policy][i], override})
		a.seen[to] = &sight{}
	}
	for _, list := range a.at {
		slices.SortFunc(list, func(x, y attached) int { return strings.Compare(x.to.limit, y.to.limit) })
	}
}

// fleet is f with its limits; f itself where none holds.
func (a *attacher) fleet(f *Fleet) *Fleet {
	if len(a.at) == 0 {
		return f
	}
	type place struct {
		route source.Ref
		rule  string
	}
	known := map[place][]RouteLimit{}
	rules := map[string]*rlsconfig.Rule{}
	with := *f
	with.Listeners = slices.Clone(f.Listeners)
	for i := range with.Listeners {
		l := &with.Listeners[i]
		l.VirtualHosts = slices.Clone(l.VirtualHosts)
		for j := range l.VirtualHosts {
			v := &l.VirtualHosts[j]
			v.Routes = slices.Clone(v.Routes)
			for k := range v.Routes {
				r := &v.Routes[k]
				at := place{r.Object, r.rule()}
				limits, ok := known[at]
				if !ok {
					limits = a.on(f.Object, r)
					known[at] = limits
				}
				r.Limits = limits
				for _, limit := range limits {
					rules[limit.Rule.ID] = limit.Rule
				}
			}
		}
	}
	if len(rules) == 0 {
		return f
	}
	with.Rules = nil
	for _, id := range slices.Sorted(maps.Keys(rules)) {
		with.Rules = append(with.Rules, rules[id])
	}
	return &with
}

// on are the limits of a rule of a route behind a Gateway: by name the most specific, but of a Gateway that
// overrides.
func (a *attacher) on(gateway source.Ref, r *Route) (limits []RouteLimit) {
	whole := target{Kind: r.Object.Kind, Namespace: r.Object.Namespace, Name: r.Object.Name}
	levels := []target{{Kind: gateway.Kind, Namespace: gateway.Namespace, Name: gateway.Name}, whole}
	route := a.limits.routing.routes[whole.name()]
	rule := route.ruleNamed(r.rule())
	if name := route.sectionOf(rule); name != "" {
		section := whole
		section.Section = name
		levels = append(levels, section)
	}
	sendsTo := route.serviceNames(rule)
	chosen := map[string]attached{}
	for _, level := range levels {
		if a.at[level] != nil {
			a.behind(level, sendsTo)
		}
		for _, next := range a.at[level] {
			last, taken := chosen[next.to.limit]
			loser := last
			if taken && last.override {
				loser, next = next, last
			}
			if taken {
				a.seen[loser.to].lost++
				a.seen[loser.to].to = next.to
			}
			chosen[next.to.limit] = next
		}
	}
	for _, c := range chosen {
		a.seen[c.to].holds++
		if limit := &c.rule.Limit; *limit.Mode != v1alpha1.LimitOff && counts(limit, sendsTo) {
			limits = append(limits, RouteLimit{Rule: c.rule, Labels: a.labels(limit, r.Object.Namespace)})
		}
	}
	slices.SortFunc(limits, func(x, y RouteLimit) int { return strings.Compare(x.Rule.ID, y.Rule.ID) })
	return limits
}

// counts tells whether a limit has anything to count where requests are sent to these Services.
func counts(limit *v1alpha1.Limit, services []string) bool {
	return limit.When == nil || len(limit.When.Backends) == 0 ||
		slices.ContainsFunc(limit.When.Backends, func(name string) bool { return slices.Contains(services, name) })
}

func (a *attacher) behind(t target, services []string) {
	if a.backends[t] == nil {
		a.backends[t] = map[string]bool{}
	}
	for _, name := range services {
		a.backends[t][name] = true
	}
}

// labels are those of the namespace that the key of the limit names.
func (a *attacher) labels(limit *v1alpha1.Limit, namespace string) (labels map[string]string) {
	object := a.store.Namespaces[types.NamespacedName{Name: namespace}]
	for _, part := range limit.Key {
		label, ok := strings.CutPrefix(part, "namespace:")
		if !ok || object == nil {
			continue
		}
		if value, ok := object.Labels[label]; ok {
			if labels == nil {
				labels = map[string]string{}
			}
			labels[label] = value
		}
	}
	return labels
}

func (a *attacher) missing(field string, t target) *refusal {
	switch t.Kind {
	case source.KindGateway:
		if a.limits.routing.gateways[t.name()] == nil {
			return refuse(ReasonTargetNotFound, field, "Gateway %s does not exist, or another controller answers for it", t.name())
		}
		return nil
	case source.KindHTTPRoute:
	default:
		return unsupported(field+".kind", "%ss are not supported; expected Gateway or HTTPRoute, which takes gRPC as well", t.Kind)
	}
	object := a.store.HTTPRoutes[t.name()]
	if object == nil {
		return refuse(ReasonTargetNotFound, field, "HTTPRoute %s does not exist", t.name())
	}
	if t.Section == "" {
		return nil
	}
	if inForce := a.limits.routing.routes[t.name()]; inForce != nil {
		object = inForce.object
	}
	var names []string
	for i := range object.Spec.Rules {
		if name := object.Spec.Rules[i].Name; name != nil && *name != "" {
			names = append(names, string(*name))
		}
	}
	switch {
	case slices.Contains(names, t.Section):
		return nil
	case len(names) == 0:
		return refuse(ReasonTargetNotFound, field+".sectionName", "HTTPRoute %s has no rule %q, for its rules have no names", t.name(), t.Section)
	}
	return refuse(ReasonTargetNotFound, field+".sectionName", "HTTPRoute %s has no rule %q; expected one of %s", t.name(), t.Section, strings.Join(names, ", "))
}

// say says which of the policy's limits do not hold at a target, and why.
func (a *attacher) say(field string, t target, v *Verdict, object *v1alpha1.LimitPolicy) {
	var conflicts, idle, replaced []string
	name := func(to attachedTo, at target) string {
		return fmt.Sprintf("%s (LimitPolicy %s at %s)", to.limit, nameOf(a.held[to]), at)
	}
	for i := range object.Spec.Limits {
		to := attachedTo{t, object.Spec.Limits[i].Name}
		seen := a.seen[to]
		switch {
		case a.held[to] != object:
			conflicts = append(conflicts, name(to, t))
		case seen.holds == 0 && seen.lost == 0:
			idle = append(idle, to.limit)
		case seen.holds == 0:
			replaced = append(replaced, name(seen.to, seen.to.target))
		}
		if v.ResolvedRefs.OK && a.held[to] == object {
			v.ResolvedRefs = a.resolve(i, t, object)
		}
	}
	all := len(object.Spec.Limits)
	switch {
	case len(conflicts) > 0:
		v.Accepted = refuse(ReasonConflicted, field, "an older policy has a limit of the same name: %s", list(conflicts)).condition()
		if len(conflicts) < all {
			v.Accepted.Message += "; the others hold"
		}
	case len(idle) == all && t.Kind == source.KindGateway:
		v.Accepted.Message = "no route is behind it: the limits hold nowhere"
	case len(idle) == all:
		v.Accepted.Message = "no Gateway of ours takes the route: the limits hold nowhere"
	case len(replaced) > 0:
		v.Accepted.Message = "replaced wherever they would hold: " + list(replaced)
	}
}

func list(names []string) string { return strings.Join(names, ", ") }

// resolve says whether the Services that the limit names are behind the target. Where no route is nothing
// can be said.
func (a *attacher) resolve(i int, t target, object *v1alpha1.LimitPolicy) Condition {
	when, behind := object.Spec.Limits[i].When, a.backends[t]
	if when == nil || behind == nil {
		return resolved()
	}
	for j, name := range when.Backends {
		if !behind[name] {
			expected := "no Service is"
			if len(behind) > 0 {
				expected = "expected one of " + list(slices.Sorted(maps.Keys(behind)))
			}
			return refuse(ReasonBackendNotFound, fmt.Sprintf("spec.limits[%d].when.backends[%d]", i, j),
				"Service %s is not behind %s; %s", name, t, expected).condition()
		}
	}
	return resolved()
}
