package catalog

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

// balance is the stage of BalancePolicies.
type balance struct {
	routing *routing // of which it was made
	admitted[*v1alpha1.BalancePolicy]
	// effective by the name of a Service's port; none where no policy reaches it.
	effective map[string]*effective
	verdicts  []Verdict
}

// effective is the policy of a Service's port and what it was merged from.
type effective struct {
	spec           v1alpha1.BalancePolicySpec
	own, inherited *v1alpha1.BalancePolicy
}

func buildBalance(wasStore *source.Store, was *balance, store *source.Store, routing *routing) *balance {
	// A routing that is the same was made of the same Services.
	if was.effective != nil && was.routing == routing && sameObjects(wasStore.BalancePolicies, store.BalancePolicies) {
		return was
	}
	b := &balance{
		routing:   routing,
		admitted:  admit(was.inForce, store.BalancePolicies, validate[*v1alpha1.BalancePolicy]),
		effective: map[string]*effective{},
	}
	held := claim(b.admitted, func(p *v1alpha1.BalancePolicy) iter.Seq[target] { return slices.Values(balanced(p)) })
	own := map[string]*v1alpha1.BalancePolicy{}
	for target, policy := range held {
		if target.Kind == source.KindService {
			for name := range servicePorts(store.Services[target.name()]) {
				own[name] = policy
			}
		}
	}
	inherited, passed := inherit(routing, held)
	for name := range own {
		b.merge(was, name, own[name], inherited[name])
	}
	for name := range inherited {
		b.merge(was, name, own[name], inherited[name])
	}
	for _, object := range store.BalancePolicies {
		b.verdicts = append(b.verdicts, b.judge(object, source.KindBalancePolicy, balanced(object),
			func(field string, t target) *refusal { return b.missing(field, t, store) },
			func(field string, t target, v *Verdict) { say(field, v, object, held[t], passed[t]) })...)
	}
	slices.SortFunc(b.verdicts, compareVerdicts)
	return b
}

// balanced are the targets of a policy.
func balanced(p *v1alpha1.BalancePolicy) (targets []target) {
	for _, ref := range p.Spec.TargetRefs {
		targets = append(targets, target{Kind: string(ref.Kind), Namespace: p.Namespace, Name: string(ref.Name)})
	}
	return targets
}

// pass is how the Services behind a Gateway took its policy.
type pass struct {
	taken, lost int
	to          source.Ref // a Gateway that one was lost to
}

// inherit finds the Gateway's policy of each Service: of several Gateways with a policy the oldest.
func inherit(routing *routing, held map[target]*v1alpha1.BalancePolicy) (map[string]*v1alpha1.BalancePolicy, map[target]pass) {
	inherited := map[string]*v1alpha1.BalancePolicy{}
	from := map[string]source.Ref{}
	passed := map[target]pass{}
	for _, g := range slices.SortedFunc(maps.Values(routing.gateways), func(a, b *gateway) int { return older(a.object, b.object) }) {
		t := target{Kind: source.KindGateway, Namespace: g.object.Namespace, Name: g.object.Name}
		policy := held[t]
		if policy == nil {
			continue
		}
		var p pass
		for _, service := range routing.fleets[g.name()].Services {
			switch inherited[service] {
			case nil:
				inherited[service], from[service] = policy, g.ref()
				p.taken++
			case policy:
				p.taken++
			default:
				p.lost++
				p.to = from[service]
			}
		}
		passed[t] = p
	}
	return inherited, passed
}

func (b *balance) merge(was *balance, name string, own, inherited *v1alpha1.BalancePolicy) {
	if b.effective[name] != nil {
		return
	}
	if e := was.effective[name]; e != nil && e.own == own && e.inherited == inherited {
		b.effective[name] = e
		return
	}
	e := &effective{own: own, inherited: inherited, spec: v1alpha1.DefaultBalance()}
	general := v1alpha1.BalancePolicySpec{}
	if inherited != nil {
		general = inherited.Spec
	}
	specific := general
	if own != nil {
		specific = own.Spec.Over(general)
	}
	e.spec = specific.Over(e.spec)
	e.spec.TargetRefs = nil
	b.effective[name] = e
}

// refs are the policies of e, the most specific first.
func (e *effective) refs() (refs []source.Ref) {
	for _, p := range []*v1alpha1.BalancePolicy{e.own, e.inherited} {
		if p != nil {
			refs = append(refs, source.Ref{Kind: source.KindBalancePolicy, Namespace: p.Namespace, Name: p.Name})
		}
	}
	return refs
}

// say says whether the policy holds at a target, as v's Accepted.
func say(field string, v *Verdict, object, holder *v1alpha1.BalancePolicy, pass pass) {
	switch {
	case holder != object:
		v.Accepted = refuse(ReasonConflicted, field, "BalancePolicy %s is older and holds %s", nameOf(holder), v.Parent).condition()
	case pass.lost > 0 && pass.taken == 0:
		v.Accepted = refuse(ReasonConflicted, field, "every Service behind %s has the policy of %s, which is older", v.Parent, pass.to).condition()
	case pass.lost > 0:
		v.Accepted.Message = fmt.Sprintf("%d of %d Services behind %s have the policy of an older Gateway, such as %s",
			pass.lost, pass.lost+pass.taken, v.Parent, pass.to)
	}
}

func (b *balance) missing(field string, t target, store *source.Store) *refusal {
	if t.Kind == source.KindGateway {
		if b.routing.gateways[t.name()] == nil {
			return refuse(ReasonTargetNotFound, field, "Gateway %s does not exist, or another controller answers for it", t.name())
		}
		return nil
	}
	service := store.Services[t.name()]
	if service == nil {
		return refuse(ReasonTargetNotFound, field, "Service %s does not exist", t.name())
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return refuse(ReasonTargetNotFound, field, "Service %s is an ExternalName; expected one with endpoints", t.name())
	}
	return nil
}
