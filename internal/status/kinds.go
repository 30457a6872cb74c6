package status

import (
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
)

// The most entries that an API server takes.
const (
	maxParents   = 32
	maxAncestors = 16
)

// Judged is the Stanza of an object that has that UID. Immutable.
type Judged struct {
	UID    types.UID
	Stanza Stanza
}

// Kinds makes Stanzas. It remembers the last ones, so that those of objects that stay as they are cost
// little and are the same pointers again.
type Kinds struct {
	last map[source.Ref]made
}

// made is a Stanza and what it was made of.
type made struct {
	object     source.Object
	fleet      *catalog.Fleet // of a Gateway
	conditions []Condition
	judged     *Judged
}

// Stanzas are the conditions of objects, which came of in, as the kinds of a cluster hold them: of
// GatewayClasses and Gateways that are ours, of HTTPRoutes with a parent that is ours, and of policies.
func (k *Kinds) Stanzas(in Input, objects []Object) map[source.Ref]*Judged {
	now := make(map[source.Ref]made, len(k.last))
	all := make(map[source.Ref]*Judged, len(k.last))
	for _, o := range objects {
		ref := source.Ref{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
		m, ok := made{conditions: o.Conditions}, false
		switch name := (types.NamespacedName{Namespace: o.Namespace, Name: o.Name}); o.Kind {
		case source.KindGatewayClass:
			m.object, ok = in.Store.GatewayClasses[name]
		case source.KindGateway:
			m.object, ok = in.Store.Gateways[name]
			m.fleet = in.Catalog.Fleets[name.String()]
		case source.KindHTTPRoute:
			m.object, ok = in.Store.HTTPRoutes[name]
		case source.KindBalancePolicy:
			m.object, ok = in.Store.BalancePolicies[name]
		case source.KindLimitPolicy:
			m.object, ok = in.Store.LimitPolicies[name]
		}
		if !ok {
			continue
		}
		if was, ok := k.last[ref]; ok && was.object == m.object && was.fleet == m.fleet && slices.Equal(was.conditions, m.conditions) {
			m.judged = was.judged
		} else if stanza := stanzaOf(o, m, in.Catalog); !stanza.Empty() {
			m.judged = &Judged{UID: m.object.GetUID(), Stanza: stanza}
		}
		now[ref] = m
		if m.judged != nil {
			all[ref] = m.judged
		}
	}
	k.last = now
	return all
}

func stanzaOf(o Object, m made, c *catalog.Catalog) Stanza {
	switch object := m.object.(type) {
	case *gatewayv1.GatewayClass:
		if object.Spec.ControllerName == catalog.ControllerName {
			return Stanza{Conditions: o.conditions(object.Generation, "", TypeAccepted, TypeDegraded)}
		}
	case *gatewayv1.Gateway:
		if m.fleet != nil {
			return gatewayStanza(o, object, m.fleet)
		}
	case *gatewayv1.HTTPRoute:
		return routeStanza(o, object, c)
	case *v1alpha1.BalancePolicy:
		return policyStanza(o, object.ObjectMeta, whole(object.Spec.TargetRefs))
	case *v1alpha1.LimitPolicy:
		return policyStanza(o, object.ObjectMeta, object.Spec.TargetRefs)
	}
	return Stanza{}
}

// conditions are those of these types that o has for an ancestor, each once. What o has for none
// concerns every one.
func (o Object) conditions(generation int64, ancestor string, kinds ...string) (all []metav1.Condition) {
	for _, c := range o.Conditions {
		if (c.Ancestor == ancestor || c.Ancestor == "") && slices.Contains(kinds, c.Type) {
			all = append(all, metaCondition(c, generation))
		}
	}
	return merged(all)
}

func gatewayStanza(o Object, gateway *gatewayv1.Gateway, fleet *catalog.Fleet) Stanza {
	s := Stanza{
		Conditions: o.conditions(gateway.Generation, "", TypeAccepted, TypeProgrammed, TypeDegraded),
		Addresses:  addresses(fleet),
	}
	ref := source.RefOf(gateway)
	for _, spec := range gateway.Spec.Listeners {
		var own []metav1.Condition
		for _, c := range o.Conditions {
			if c.Ancestor == ancestor(ref, string(spec.Name), 0) && c.Type != TypeDegraded {
				own = append(own, metaCondition(c, gateway.Generation))
			}
		}
		own = merged(append(own, conflicted(own, gateway.Generation)))
		s.Listeners = append(s.Listeners, gatewayv1.ListenerStatus{
			Name: spec.Name, AttachedRoutes: int32(fleet.Attached[string(spec.Name)]), SupportedKinds: supportedKinds(spec), Conditions: own,
		})
	}
	return s
}

// addresses are those that the listeners of a fleet bind, where the Gateway names one. Of the machines that
// the Envoys run on, and of what stands before them, nothing is known.
func addresses(fleet *catalog.Fleet) (all []gatewayv1.GatewayStatusAddress) {
	for _, l := range fleet.Listeners {
		if addr, err := netip.ParseAddr(l.Address); err == nil && !addr.IsUnspecified() {
			return []gatewayv1.GatewayStatusAddress{{Type: new(gatewayv1.IPAddressType), Value: l.Address}}
		}
	}
	return nil
}

// conflicted repeats what a listener's Accepted says of others that it is in conflict with.
func conflicted(of []metav1.Condition, generation int64) metav1.Condition {
	c := metav1.Condition{
		Type: string(gatewayv1.ListenerConditionConflicted), Status: metav1.ConditionFalse,
		Reason: string(gatewayv1.ListenerReasonNoConflicts), ObservedGeneration: generation,
	}
	for _, other := range of {
		if other.Type == TypeAccepted && other.Reason == catalog.ReasonHostnameConflict {
			c.Status, c.Reason, c.Message = metav1.ConditionTrue, other.Reason, other.Message
		}
	}
	return c
}

// supportedKinds are the kinds of routes that a listener takes of those that it allows. Where it takes none
// they are empty, not absent.
func supportedKinds(spec gatewayv1.Listener) []gatewayv1.RouteGroupKind {
	group := gatewayv1.Group(gatewayv1.GroupName)
	kinds := []gatewayv1.RouteGroupKind{}
	if spec.Protocol != gatewayv1.HTTPProtocolType {
		return kinds
	}
	allows := spec.AllowedRoutes == nil || len(spec.AllowedRoutes.Kinds) == 0 ||
		slices.ContainsFunc(spec.AllowedRoutes.Kinds, func(k gatewayv1.RouteGroupKind) bool {
			return (k.Group == nil || *k.Group == group) && k.Kind == source.KindHTTPRoute
		})
	if allows {
		kinds = append(kinds, gatewayv1.RouteGroupKind{Group: &group, Kind: source.KindHTTPRoute})
	}
	return kinds
}

// routeStanza has an entry for every parentRef that leads to a Gateway of ours.
func routeStanza(o Object, route *gatewayv1.HTTPRoute, c *catalog.Catalog) (s Stanza) {
	for _, ref := range route.Spec.ParentRefs {
		parent := source.Ref{Kind: source.KindGateway, Namespace: route.Namespace, Name: string(ref.Name)}
		if ref.Namespace != nil && *ref.Namespace != "" {
			parent.Namespace = string(*ref.Namespace)
		}
		isGateway := (ref.Group == nil || *ref.Group == gatewayv1.GroupName) && (ref.Kind == nil || *ref.Kind == source.KindGateway)
		if !isGateway || c.Fleets[parent.Namespace+"/"+parent.Name] == nil || len(s.Parents) == maxParents {
			continue
		}
		var section string
		var port uint32
		if ref.SectionName != nil {
			section = string(*ref.SectionName)
		}
		if ref.Port != nil {
			port = uint32(*ref.Port)
		}
		s.Parents = append(s.Parents, gatewayv1.RouteParentStatus{
			ParentRef: ref, ControllerName: catalog.ControllerName,
			Conditions: o.conditions(route.Generation, ancestor(parent, section, port), TypeAccepted, TypeResolvedRefs, TypeProgrammed, TypeDegraded),
		})
	}
	return s
}

// policyStanza has an entry for every target. A policy is of our kind: nobody else answers for it.
func policyStanza(o Object, policy metav1.ObjectMeta, targets []gatewayv1.LocalPolicyTargetReferenceWithSectionName) (s Stanza) {
	for _, ref := range targets[:min(len(targets), maxAncestors)] {
		target := source.Ref{Kind: string(ref.Kind), Namespace: policy.Namespace, Name: string(ref.Name)}
		section := ""
		if ref.SectionName != nil {
			section = string(*ref.SectionName)
		}
		s.Ancestors = append(s.Ancestors, gatewayv1.PolicyAncestorStatus{
			AncestorRef: gatewayv1.ParentReference{
				Group: new(ref.Group), Kind: new(ref.Kind), Namespace: new(gatewayv1.Namespace(policy.Namespace)), Name: ref.Name, SectionName: ref.SectionName,
			},
			ControllerName: catalog.ControllerName,
			Conditions:     o.conditions(policy.Generation, ancestor(target, section, 0), TypeAccepted, TypeResolvedRefs, TypeProgrammed, TypeDegraded),
		})
	}
	return s
}

// whole are targets without a section.
func whole(refs []gatewayv1.LocalPolicyTargetReference) (targets []gatewayv1.LocalPolicyTargetReferenceWithSectionName) {
	for _, ref := range refs {
		targets = append(targets, gatewayv1.LocalPolicyTargetReferenceWithSectionName{LocalPolicyTargetReference: ref})
	}
	return targets
}
