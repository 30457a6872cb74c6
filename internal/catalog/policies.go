package catalog

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	corev1 "k8s.io/api/core/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

// policies is the stage of BalancePolicies.
type policies struct {
	routing *routing // of which it was made
	// inForce is the last accepted version of each.
	inForce map[types.NamespacedName]*v1alpha1.BalancePolicy
	// effective by the name of a Service's port; none where no policy reaches it.
	effective map[string]*effective
	verdicts  []Verdict
}

// effective is the policy of a Service's port and what it was merged from.
type effective struct {
	spec           v1alpha1.BalancePolicySpec
	own, inherited *v1alpha1.BalancePolicy
}

func buildPolicies(wasStore *source.Store, was *policies, store *source.Store, routing *routing) *policies {
	// A routing that is the same was made of the same Services.
	if was.effective != nil && was.routing == routing && sameObjects(wasStore.BalancePolicies, store.BalancePolicies) {
		return was
	}
	p := &policies{
		routing:   routing,
		inForce:   map[types.NamespacedName]*v1alpha1.BalancePolicy{},
		effective: map[string]*effective{},
	}
	refused := map[types.NamespacedName]*refusal{}
	for name, object := range store.BalancePolicies {
		switch why := validatePolicy(object); {
		case why == nil:
			p.inForce[name] = object
		default:
			refused[name] = why
			if kept := was.inForce[name]; kept != nil {
				p.inForce[name] = kept
			}
		}
	}
	held := p.claimTargets()
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
		p.merge(was, name, own[name], inherited[name])
	}
	for name := range inherited {
		p.merge(was, name, own[name], inherited[name])
	}
	for name, object := range store.BalancePolicies {
		p.judge(object, refused[name], held, passed, store)
	}
	slices.SortFunc(p.verdicts, compareVerdicts)
	return p
}

func validatePolicy(object *v1alpha1.BalancePolicy) *refusal {
	problems := object.Validate()
	if len(problems) == 0 {
		return nil
	}
	message := problems[0].ErrorBody()
	if len(problems) > 1 {
		message += fmt.Sprintf(" (and %d more)", len(problems)-1)
	}
	return refuse(ReasonInvalid, problems[0].Field, "%s", message)
}

// target is what a policy is attached to.
type target struct{ Kind, Namespace, Name string }

func (t target) name() types.NamespacedName {
	return types.NamespacedName{Namespace: t.Namespace, Name: t.Name}
}

func targetOf(p *v1alpha1.BalancePolicy, ref gatewayv1.LocalPolicyTargetReference) target {
	return target{string(ref.Kind), p.Namespace, string(ref.Name)}
}

// claimTargets gives each target to the oldest policy that names it.
func (p *policies) claimTargets() map[target]*v1alpha1.BalancePolicy {
	held := map[target]*v1alpha1.BalancePolicy{}
	for _, policy := range slices.SortedFunc(maps.Values(p.inForce), func(a, b *v1alpha1.BalancePolicy) int { return older(a, b) }) {
		for _, ref := range policy.Spec.TargetRefs {
			if t := targetOf(policy, ref); held[t] == nil {
				held[t] = policy
			}
		}
	}
	return held
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
		t := target{source.KindGateway, g.object.Namespace, g.object.Name}
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

func (p *policies) merge(was *policies, name string, own, inherited *v1alpha1.BalancePolicy) {
	if p.effective[name] != nil {
		return
	}
	if e := was.effective[name]; e != nil && e.own == own && e.inherited == inherited {
		p.effective[name] = e
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
	p.effective[name] = e
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

// judge gives a verdict per target.
func (p *policies) judge(object *v1alpha1.BalancePolicy, refused *refusal, held map[target]*v1alpha1.BalancePolicy,
	passed map[target]pass, store *source.Store) {
	ref := source.Ref{Kind: source.KindBalancePolicy, Namespace: object.Namespace, Name: object.Name}
	kept := p.inForce[nameOf(object)] != nil
	if len(object.Spec.TargetRefs) == 0 {
		p.verdicts = append(p.verdicts, Verdict{Object: ref, Accepted: refused.conditionKept(kept, noEffect), ResolvedRefs: resolved()})
		return
	}
	for i, targetRef := range object.Spec.TargetRefs {
		t := targetOf(object, targetRef)
		v := Verdict{
			Object: ref, Parent: source.Ref{Kind: t.Kind, Namespace: t.Namespace, Name: t.Name},
			Accepted: accepted(), ResolvedRefs: resolved(),
		}
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		if refused != nil {
			v.Accepted = refused.conditionKept(kept, noEffect)
		} else if why := p.missing(field, t, store); why != nil {
			v.Accepted = why.condition()
		} else if holder := held[t]; holder != object {
			v.Accepted = refuse(ReasonConflicted, field, "BalancePolicy %s is older and holds %s", nameOf(holder), v.Parent).condition()
		} else if pass := passed[t]; pass.lost > 0 && pass.taken == 0 {
			v.Accepted = refuse(ReasonConflicted, field, "every Service behind %s has the policy of %s, which is older", v.Parent, pass.to).condition()
		} else if pass.lost > 0 {
			v.Accepted.Message = fmt.Sprintf("%d of %d Services behind %s have the policy of an older Gateway, such as %s",
				pass.lost, pass.lost+pass.taken, v.Parent, pass.to)
		}
		p.verdicts = append(p.verdicts, v)
	}
}

func (p *policies) missing(field string, t target, store *source.Store) *refusal {
	if t.Kind == source.KindGateway {
		if p.routing.gateways[t.name()] == nil {
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
