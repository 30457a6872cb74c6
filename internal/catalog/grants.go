package catalog

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

// grants is the stage of ReferenceGrants: who may refer to the Services of a namespace from another.
type grants struct {
	objects     map[types.NamespacedName]*gatewayv1.ReferenceGrant
	byNamespace map[string][]*gatewayv1.ReferenceGrant
	verdicts    []Verdict
}

func buildGrants(was *grants, store *source.Store) *grants {
	if was.byNamespace != nil && sameObjects(was.objects, store.ReferenceGrants) {
		return was
	}
	g := &grants{objects: store.ReferenceGrants, byNamespace: map[string][]*gatewayv1.ReferenceGrant{}}
	for name, grant := range store.ReferenceGrants {
		g.byNamespace[name.Namespace] = append(g.byNamespace[name.Namespace], grant)
		g.verdicts = append(g.verdicts, Verdict{
			Object:   source.Ref{Kind: source.KindReferenceGrant, Namespace: name.Namespace, Name: name.Name},
			Accepted: accepted(), ResolvedRefs: resolved(),
		})
	}
	slices.SortFunc(g.verdicts, compareVerdicts)
	return g
}

// permits says whether objects of the kind in the namespace from may refer to the Service.
func (g *grants) permits(group gatewayv1.Group, kind gatewayv1.Kind, from string, service types.NamespacedName) bool {
	if from == service.Namespace {
		return true
	}
	for _, grant := range g.byNamespace[service.Namespace] {
		if grantsTo(grant, service.Name) && slices.Contains(grant.Spec.From, gatewayv1.ReferenceGrantFrom{
			Group: group, Kind: kind, Namespace: gatewayv1.Namespace(from),
		}) {
			return true
		}
	}
	return false
}

// readers are the other namespaces whose EDS-only clients may read the Service's endpoints, sorted.
func (g *grants) readers(service types.NamespacedName) []string {
	var names []string
	for _, grant := range g.byNamespace[service.Namespace] {
		if !grantsTo(grant, service.Name) {
			continue
		}
		for _, from := range grant.Spec.From {
			if from.Group == v1alpha1.GroupName && from.Kind == "Proxy" && string(from.Namespace) != service.Namespace {
				names = append(names, string(from.Namespace))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func grantsTo(grant *gatewayv1.ReferenceGrant, service string) bool {
	return slices.ContainsFunc(grant.Spec.To, func(to gatewayv1.ReferenceGrantTo) bool {
		return to.Group == "" && to.Kind == source.KindService && (to.Name == nil || *to.Name == "" || string(*to.Name) == service)
	})
}
