// Package translate makes Envoy's protos from the catalog and the decisions, one file per idea of the
// input. It is pure, and total: equal arguments give equal protos, and no argument makes it panic.
//
// It does not validate, encode or version: package snapshot does, and refuses what cannot be served.
// It decides nothing about load either: a weight is what package weights says, or the base.
package translate

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/catalog"
)

// Resource is an unencoded resource.
type Resource struct {
	Type    Type
	Name    string
	Message proto.Message
	// Source is the object it was made from, "HTTPRoute shop/web", the first where there are several.
	Source string
}

// Options are what the operator of the control plane says about all fleets. The zero value is usable.
type Options struct {
	// ListenerAddress is where listeners bind that have no address of their own; "" is 0.0.0.0.
	ListenerAddress string
	// NoQuotas leaves the bounds of limits out of routes: an Envoy before 1.39 is connected, which would
	// refuse them.
	NoQuotas bool
	// LimitTimeout is how long a request waits for the rate limit service; 0 is DefaultLimitTimeout.
	LimitTimeout time.Duration
}

// DefaultLimitTimeout is longer than any answer of a service that is well, and no delay that is noticed.
const DefaultLimitTimeout = 20 * time.Millisecond

// Fleet makes what is one fleet's own, sorted by type (in the order of Types) and name. The rest of
// what it is served it shares with other fleets: a Cluster and an Assignment per Service of f.Services.
func Fleet(f *catalog.Fleet, opts Options) []Resource {
	var out []Resource
	for i := range f.Listeners {
		out = append(out, listener(f, &f.Listeners[i], opts))
	}
	for i := range f.Listeners {
		out = append(out, routeConfiguration(f, &f.Listeners[i], opts))
	}
	out = append(out, slots(f, cmp.Or(opts.LimitTimeout, DefaultLimitTimeout))...)
	out = append(out, runtimeLayer(f), limitList(f))
	slices.SortStableFunc(out, func(a, b Resource) int {
		return cmp.Or(cmp.Compare(a.Type.order(), b.Type.order()), cmp.Compare(a.Name, b.Name))
	})
	return out
}
