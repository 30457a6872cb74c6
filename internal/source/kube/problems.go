package kube

import (
	"fmt"
	"maps"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/source/guard"
)

// maxShrinks bounds how many Services are named one by one of which endpoints are held.
const maxShrinks = 50

// problems are what is wrong now, in their order.
func (o *objects) problems() (all []source.Problem) {
	if o.outage != "" {
		all = append(all, source.Problem{
			Object: source.Ref{Kind: source.KindAPIServer, Name: o.host}, Degraded: source.LastKnownGood,
			Message: "does not answer (" + o.outage + ")",
			Kept:    "what it said last stays in force until it does",
		})
	}
	for _, t := range o.tables {
		all = append(all, o.access(t)...)
		if len(t.held) > 0 {
			all = append(all, o.holds(t)...)
		}
		all = slices.AppendSeq(all, maps.Values(t.refused))
	}
	slices.SortFunc(all, source.ComparePlaces)
	return all
}

// access says that a kind cannot be read, and what would help.
func (o *objects) access(t *table) []source.Problem {
	p := source.Problem{Degraded: t.trouble, Kept: o.seenBefore(t)}
	switch t.trouble {
	case source.NotInstalled:
		p.Object = source.Ref{Kind: source.KindCRD, Name: plural(t.kind)}
		p.Message = fmt.Sprintf("the API server has no %s %s; %s, and they are picked up", t.kind.resource.GroupVersion(), t.kind.name, t.kind.install)
	case source.Forbidden:
		p.Object = source.Ref{Kind: source.KindAPIServer, Name: o.host}
		p.Message = fmt.Sprintf("refuses to let us read %s; allow the verbs get, list and watch on the resource %q of the API group %q to our ServiceAccount, in all namespaces",
			plural(t.kind), t.kind.resource.Resource, t.kind.resource.Group)
	default:
		return nil
	}
	return []source.Problem{p}
}

func (o *objects) seenBefore(t *table) string {
	switch n := o.editor.Count(t.kind.name); {
	case n > 0:
		return fmt.Sprintf("the %s that were seen before stay in force: %d", t.kind.resource.Resource, n)
	case t.synced || t.trouble == source.NotInstalled:
		return "nothing: none was ever seen"
	}
	return "nothing: serving begins when they have been read"
}

// holds say what a list left out that stays in force.
func (o *objects) holds(t *table) (all []source.Problem) {
	const how = "until the API server confirms it in a consistent read, or `controlplane accept%s` takes it"
	if t.kind.name != source.KindEndpointSlice {
		return []source.Problem{{
			Object: source.Ref{Kind: source.KindAPIServer, Name: o.host}, Degraded: source.LastKnownGood,
			Message: fmt.Sprintf("left out %d of %d %s in a list, without an event of their removal", len(t.held), o.editor.Count(t.kind.name), t.kind.resource.Resource),
			Kept:    fmt.Sprintf("all of them, "+how, ""),
		}}
	}
	held := map[types.NamespacedName]bool{}
	for name := range t.held {
		if slice, ok := o.editor.Get(source.Ref{Kind: t.kind.name, Namespace: name.Namespace, Name: name.Name}).(*discoveryv1.EndpointSlice); ok {
			held[guard.ServiceOf(slice)] = true
		}
	}
	for _, s := range t.shrinks {
		switch {
		case !held[s.Service]:
		case len(all) == maxShrinks:
			return append(all, source.Problem{
				Object: source.Ref{Kind: source.KindAPIServer, Name: o.host}, Degraded: source.LastKnownGood,
				Message: fmt.Sprintf("left out endpoints of %d services in a list, without an event of their removal", len(held)),
				Kept:    fmt.Sprintf("all of them, "+how, ""),
			})
		default:
			all = append(all, source.Problem{
				Object: source.Ref{Kind: source.KindService, Namespace: s.Service.Namespace, Name: s.Service.Name}, Degraded: source.LastKnownGood,
				Message: fmt.Sprintf("a list of the API server left out %d of its %d endpoints, without an event of their removal", s.Lost, s.Of),
				Kept:    fmt.Sprintf("all of them, "+how, " "+s.Service.String()),
			})
		}
	}
	return all
}
