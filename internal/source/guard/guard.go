// Package guard decides what may be removed at once when a list no longer has it, and what is held until
// it is known for sure. It is pure.
//
// A list is weak evidence of an absence: a server that was just started, a cache that lags, a proxy that
// lost its mind all answer with less than there is, and traffic would lose what still serves it. So a
// list that leaves out much is not believed before a consistent read says the same, and one that is
// empty not before several do. What is there acts at once: an endpoint that a list shows as not ready is
// gone, one that it adds gets traffic. A live event is no list, and needs no leave of this package.
package guard

import (
	"maps"
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// A Service may lose this many endpoints through a list, or half of them if that is more.
	mayLose = 3
	// All Services together may lose less than one in everyNth endpoints, where there are as many as fleetFrom.
	everyNth  = 5
	fleetFrom = 20
	// emptyReads is how many consistent reads in a row it takes to believe that there is nothing of a kind:
	// the commonest lie of a broken server, and the rarest truth.
	emptyReads = 3
)

// Confirmed tells whether a list of so many objects is to be believed whatever it leaves out. reads is how many
// consistent reads in a row were of this kind, with this one as the last; 0 for a list that may be
// served from a cache.
func Confirmed(listed, reads int) bool {
	return reads >= emptyReads || reads > 0 && listed > 0
}

// Objects tells whether a list is held, of a kind that is not EndpointSlice: lost of the inForce objects are
// missing in it. All may go but more than half.
func Objects(inForce, lost, listed, reads int) bool {
	return 2*lost > inForce && !Confirmed(listed, reads)
}

// Slices are EndpointSlices by name.
type Slices = map[types.NamespacedName]*discoveryv1.EndpointSlice

// Shrink is a Service that a list takes endpoints from.
type Shrink struct {
	Service  types.NamespacedName
	Lost, Of int // endpoints that may get traffic; 0 < Lost <= Of
	// Slices are the names of those that Held keeps.
	Slices []types.NamespacedName
}

// Held is what a list of EndpointSlices may not take away yet.
type Held struct {
	// Keep is what is in force instead of what the list has of the name, if it has anything: the slice
	// listed, with the endpoints that are missing.
	Keep Slices
	// Shrinks are the Services that it is about, sorted.
	Shrinks []Shrink
}

// EndpointSlices holds a list against what is in force. Endpoints are compared by Service and address, so
// that one that moved to another slice is not missing.
func EndpointSlices(inForce, listed Slices, reads int) Held {
	held := Held{Keep: Slices{}}
	if Confirmed(len(listed), reads) {
		return held
	}
	before, after := byService(inForce), byService(listed)
	var shrinks []Shrink
	all, lost := 0, 0
	for service, was := range before {
		present := addresses(after[service])
		s := Shrink{Service: service}
		seen := map[string]bool{}
		for _, slice := range was {
			missing := false
			for i := range slice.Endpoints {
				e := &slice.Endpoints[i]
				if !usable(e) || seen[key(e)] {
					continue
				}
				seen[key(e)] = true
				s.Of++
				if !present[key(e)] {
					s.Lost++
					missing = true
				}
			}
			if missing {
				s.Slices = append(s.Slices, nameOf(slice))
			}
		}
		all, lost = all+s.Of, lost+s.Lost
		if s.Lost > 0 {
			shrinks = append(shrinks, s)
		}
	}
	holdAll := len(listed) == 0 || all >= fleetFrom && everyNth*lost >= all
	for _, s := range shrinks {
		if !holdAll && (s.Lost <= mayLose || 2*s.Lost <= s.Of) {
			continue
		}
		present := addresses(after[s.Service])
		for _, name := range s.Slices {
			held.Keep[name] = with(listed[name], inForce[name], present)
		}
		held.Shrinks = append(held.Shrinks, s)
	}
	slices.SortFunc(held.Shrinks, func(a, b Shrink) int { return compare(a.Service, b.Service) })
	return held
}

// with is the slice as listed, nil if it is not, and the endpoints that it had and that are not present.
func with(listed, had *discoveryv1.EndpointSlice, present map[string]bool) *discoveryv1.EndpointSlice {
	if listed != nil && ServiceOf(listed) != ServiceOf(had) {
		listed = nil // one slice has the endpoints of one Service only: the other's wait
	}
	if listed == nil && !slices.ContainsFunc(had.Endpoints, func(e discoveryv1.Endpoint) bool { return present[key(&e)] }) {
		return had
	}
	kept := *had
	kept.Endpoints = nil
	if listed != nil {
		kept = *listed
		kept.Endpoints = slices.Clone(listed.Endpoints)
	}
	for i := range had.Endpoints {
		if e := had.Endpoints[i]; !present[key(&e)] {
			kept.Endpoints = append(kept.Endpoints, e)
		}
	}
	return &kept
}

// ServiceOf is the Service whose endpoints a slice has.
func ServiceOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

func byService(all Slices) map[types.NamespacedName][]*discoveryv1.EndpointSlice {
	groups := map[types.NamespacedName][]*discoveryv1.EndpointSlice{}
	for _, name := range slices.SortedFunc(maps.Keys(all), compare) {
		slice := all[name]
		groups[ServiceOf(slice)] = append(groups[ServiceOf(slice)], slice)
	}
	return groups
}

// addresses are all that the slices name, those of endpoints that are not ready too: that is evidence.
func addresses(group []*discoveryv1.EndpointSlice) map[string]bool {
	present := map[string]bool{}
	for _, slice := range group {
		for i := range slice.Endpoints {
			present[key(&slice.Endpoints[i])] = true
		}
	}
	return present
}

// key is what an endpoint is known by: its first address, the only one that Kubernetes says to use.
func key(e *discoveryv1.Endpoint) string {
	if len(e.Addresses) == 0 {
		return ""
	}
	return e.Addresses[0]
}

// usable tells whether an endpoint may get traffic, be it only because no other is ready.
func usable(e *discoveryv1.Endpoint) bool {
	c := e.Conditions
	return len(e.Addresses) > 0 && (c.Ready == nil || *c.Ready || c.Serving != nil && *c.Serving)
}

func nameOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}
}

func compare(a, b types.NamespacedName) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}
