package xds_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// requestRules are about the stream itself: who asks, in what form, and the form of the answer.
var requestRules = []rule{
	{"P1 introduced", "a node introduces itself on the first request of a stream and not again", both, func(r *trial) {
		r.set(fleet, snapshotOf(shop("cart")...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType)
		p.accept(p.next(resource.ClusterType))
		p.subscribe(resource.EndpointType, "cart")
		p.accept(p.next(resource.EndpointType))
		p.send(request{node: &corev3.Node{Id: "envoy-1", Cluster: fleet}, url: resource.RouteType, subscribe: []string{"web"}})
		p.next(resource.RouteType)
	}},
	{"P1 impostor", "a later message with another node id closes the stream, and no other", both, func(r *trial) {
		r.set(fleet, snapshotOf(shop("cart")...))
		p, bystander := r.peer("envoy-1", fleet), r.peer("envoy-2", fleet)
		for _, p := range []*peer{p, bystander} {
			p.subscribe(resource.ClusterType)
			p.accept(p.next(resource.ClusterType))
		}
		p.send(request{node: &corev3.Node{Id: "envoy-2", Cluster: fleet}, url: resource.EndpointType, subscribe: []string{"cart"}})
		if err := p.status(); status.Code(err) != codes.InvalidArgument {
			r.Errorf("ended with %v, expected InvalidArgument", err)
		}
		bystander.barrier()
	}},
	{"P2", "an aggregated stream without a type_url is closed with InvalidArgument", both, func(r *trial) {
		r.set(fleet, snapshotOf())
		p := r.peer("envoy-1", fleet)
		p.subscribe("")
		if err := p.status(); status.Code(err) != codes.InvalidArgument {
			r.Errorf("ended with %v, expected InvalidArgument", err)
		}
	}},
	{"P3", "no two responses of a stream and type have the same nonce, and none has an empty one", both, func(r *trial) {
		seen := map[string]bool{}
		p := r.peer("envoy-1", fleet)
		for i := range 5 {
			r.set(fleet, snapshotOf(append(service("cart", i+1), listener("web", "web"), routes("web", "cart"))...))
			for _, url := range []string{resource.ClusterType, resource.EndpointType} {
				if i == 0 {
					p.subscribe(url, map[string][]string{resource.EndpointType: {"cart"}}[url]...)
				}
				m := p.next(url)
				if key := url + m.nonce; m.nonce == "" || seen[key] {
					r.Errorf("nonce %q of %s is empty or came before", m.nonce, url)
				} else {
					seen[key] = true
				}
				p.accept(m)
			}
		}
	}},
	{"P4", "a request with a stale nonce is void", []string{sotw}, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1), assignment("pay", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		first := p.next(resource.EndpointType)
		p.accept(first)
		p.barrier()
		r.set(fleet, snapshotOf(assignment("cart", 2), assignment("pay", 1)))
		p.accept(p.next(resource.EndpointType))
		p.barrier()
		p.send(request{url: resource.EndpointType, nonce: first.nonce, version: first.version, subscribe: []string{"pay"}})
		p.silent("a request with the nonce before the last", resource.EndpointType)
		r.set(fleet, snapshotOf(assignment("cart", 3), assignment("pay", 3)))
		if m := p.next(resource.EndpointType); !slices.Equal(m.names, []string{"cart"}) {
			r.Errorf("received %v, expected what was asked for before the stale request: cart", m.names)
		}
	}},
	{"P5", "changes of a subscription are honoured on delta though the nonce is stale", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1), assignment("pay", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		first := p.next(resource.EndpointType)
		p.accept(first)
		p.barrier()
		r.set(fleet, snapshotOf(assignment("cart", 2), assignment("pay", 1)))
		second := p.next(resource.EndpointType)
		p.send(request{url: resource.EndpointType, nonce: first.nonce, subscribe: []string{"pay"}, unsubscribe: []string{"cart"}})
		p.ack(second)
		p.accepts("pay, asked for with a stale nonce", nil, func() bool { return p.holds(assignment("pay", 1)) })
		p.barrier()
		r.set(fleet, snapshotOf(assignment("cart", 3), assignment("pay", 1)))
		p.silent("a change of what was unsubscribed with a stale nonce", resource.EndpointType)
	}},
	{"P17", "a response has a name once, and a load assignment is named as it was asked for", both, func(r *trial) {
		r.set(fleet, snapshotOf(append(service("cart", 1), service("pay", 1)...)...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType, "*", "cart", "cart")
		p.subscribe(resource.EndpointType, "cart", "pay", "cart")
		for _, url := range []string{resource.ClusterType, resource.EndpointType} {
			m := p.next(url)
			slices.Sort(m.names)
			if !slices.Equal(m.names, []string{"cart", "pay"}) {
				r.Errorf("%s: %v, expected cart and pay, once each", url, m.names)
			}
			for name, body := range m.bodies {
				if within := nameWithin(body); within != name {
					r.Errorf("%s: %q is %q within", url, name, within)
				}
			}
		}
	}},
	{"P20", "load assignments have no time to live", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		if m := p.next(resource.EndpointType); m.ttls["cart"] != nil {
			r.Errorf("a TTL of %v", m.ttls["cart"].AsDuration())
		}
	}},
	{"P21", "the type of a resource is the type of its response, and it can be decoded as such", both, func(r *trial) {
		r.set(fleet, snapshotOf(shop("cart")...))
		p := r.peer("envoy-1", fleet)
		for url, name := range map[string]string{resource.ClusterType: "cart", resource.EndpointType: "cart", resource.ListenerType: "web",
			resource.RouteType: "web", resource.RuntimeType: barrierName(0)} {
			p.subscribe(url, name)
			m := p.next(url)
			if len(m.bodies) == 0 {
				r.Errorf("%s: no resources", url)
			}
			for name, body := range m.bodies {
				if _, err := body.UnmarshalNew(); err != nil || body.GetTypeUrl() != url {
					r.Errorf("%s: %q is a %s (%v)", url, name, body.GetTypeUrl(), err)
				}
			}
		}
	}},
	{"P22 unknown", "a type that nobody has does not disturb the others of its stream", both, func(r *trial) {
		r.set(fleet, snapshotOf(shop("cart")...))
		p := r.peer("envoy-1", fleet)
		p.subscribe("type.googleapis.com/unknown.Type", "x")
		p.subscribe(resource.EndpointType, "cart")
		p.accept(p.next(resource.EndpointType))
		p.barrier()
		r.set(fleet, snapshotOf(assignment("cart", 2)))
		p.next(resource.EndpointType)
	}},
	{"P22 thousands", "thousands of types on a stream are refused, and harm no other stream", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		bystander, p := r.peer("envoy-1", fleet), r.peer("envoy-2", fleet)
		bystander.subscribe(resource.EndpointType, "cart")
		bystander.accept(bystander.next(resource.EndpointType))
		for i := range 2000 {
			p.subscribe(fmt.Sprint("type.googleapis.com/unknown.", i))
		}
		if err := p.status(); status.Code(err) != codes.ResourceExhausted {
			r.Errorf("ended with %v, expected ResourceExhausted", err)
		}
		bystander.barrier()
		r.set(fleet, snapshotOf(assignment("cart", 2)))
		bystander.next(resource.EndpointType)
	}},
	{"P24", "every response names the server that made it", both, func(r *trial) {
		r.set(fleet, snapshotOf(shop("cart")...))
		p := r.peer("envoy-1", fleet)
		for _, url := range []string{resource.ClusterType, resource.EndpointType, resource.RouteType} {
			p.subscribe(url, "cart", "web")
			if m := p.next(url); !strings.Contains(m.identifier, "replica-0") {
				r.Errorf("%s: control_plane.identifier %q, expected one that says replica-0", url, m.identifier)
			}
		}
	}},
	{"P27", "what is not a stream is refused, or asks who is there", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(shop("cart")...))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		q := &discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "envoy-1", Cluster: fleet}}
		for name, fetch := range map[string]func(context.Context, *discoveryv3.DiscoveryRequest, ...grpc.CallOption) (*discoveryv3.DiscoveryResponse, error){
			"FetchClusters":  clusterservice.NewClusterDiscoveryServiceClient(r.conn).FetchClusters,
			"FetchEndpoints": endpointservice.NewEndpointDiscoveryServiceClient(r.conn).FetchEndpoints,
			"FetchListeners": listenerservice.NewListenerDiscoveryServiceClient(r.conn).FetchListeners,
			"FetchRoutes":    routeservice.NewRouteDiscoveryServiceClient(r.conn).FetchRoutes,
		} {
			if _, err := fetch(ctx, q); status.Code(err) != codes.Unimplemented && status.Code(err) != codes.Unauthenticated {
				r.Errorf("%s: %v, expected Unimplemented or Unauthenticated", name, err)
			}
		}
		str, err := endpointservice.NewEndpointDiscoveryServiceClient(r.conn).StreamEndpoints(ctx)
		if err == nil {
			_ = str.Send(&discoveryv3.DiscoveryRequest{Node: q.GetNode(), ResourceNames: []string{"cart"}})
			_, err = str.Recv()
		}
		if status.Code(err) != codes.Unimplemented && status.Code(err) != codes.Unauthenticated {
			r.Errorf("StreamEndpoints: %v, expected Unimplemented or Unauthenticated", err)
		}
	}},
}

// subscriptionRules are about what a client asks for, and what it gets for it.
var subscriptionRules = []rule{
	{"P10", "a repeated subscription is answered with the resource", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		p.accept(p.next(resource.EndpointType))
		p.barrier()
		p.subscribe(resource.EndpointType, "cart")
		if m := p.next(resource.EndpointType); m.bodies["cart"] == nil {
			r.Errorf("received %v, expected cart", m)
		}
	}},
	{"P11 endpoints", "load assignments that do not exist are said to be removed, which ends the warming of their cluster", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "ghost")
		if m := p.next(resource.EndpointType); !slices.Equal(m.removed, []string{"ghost"}) || len(m.names) != 0 {
			r.Errorf("received %v, expected ghost to be removed", m)
		}
	}},
	{"P11 routes", "routes that do not exist are empty ones, since a listener warms for ever on removed ones", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.RouteType, "ghost")
		m := p.next(resource.RouteType)
		if m.bodies["ghost"] == nil || nameWithin(m.bodies["ghost"]) != "ghost" || len(m.removed) > 0 {
			r.Errorf("received %v, expected an empty ghost", m)
		}
	}},
	{"P11 routes removed", "routes that are taken away become empty ones", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(shop("cart")...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.RouteType, "web")
		p.accept(p.next(resource.RouteType))
		p.barrier()
		r.set(fleet, snapshotOf(service("cart", 1)...))
		if m := p.next(resource.RouteType); m.bodies["web"] == nil || len(m.removed) > 0 {
			r.Errorf("received %v, expected an empty web", m)
		}
	}},
	{"P11 layers", "a runtime layer that does not exist is answered, since an Envoy waits for it at boot", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.RuntimeType, "ghost")
		if m := p.next(resource.RuntimeType); !m.carries("ghost") {
			r.Errorf("received %v, expected an answer about ghost", m)
		}
	}},
	{"P11 silence", "a name that does not exist is met with silence", []string{sotw}, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		p.accept(p.next(resource.EndpointType))
		p.barrier()
		p.subscribe(resource.EndpointType, "ghost")
		p.silent("asking for what does not exist", resource.EndpointType)
	}},
	{"P11 later", "a name that did not exist is delivered when it appears, and the others of its request at once", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "ghost", "cart")
		p.accepts("cart", nil, func() bool { return p.holds(assignment("cart", 1)) })
		p.barrier()
		r.set(fleet, snapshotOf(assignment("cart", 1), assignment("ghost", 1)))
		p.accepts("ghost", nil, func() bool { return p.holds(assignment("ghost", 1)) })
	}},
	{"P12", "wildcards mean what the specification says in its examples", []string{delta}, wildcards([]wildcard{
		{"nothing asked for is everything", []step{{}}, []string{"a", "b", "c"}},
		{"a star is everything", []step{{add: "*"}}, []string{"a", "b", "c"}},
		{"a name is that name", []step{{add: "a"}}, []string{"a"}},
		{"a name added to everything", []step{{}, {add: "a"}}, []string{"a", "b", "c"}},
		{"everything given up for a name", []step{{}, {add: "a"}, {drop: "*"}}, []string{"a"}},
		{"everything given up, then the name", []step{{}, {add: "a"}, {drop: "*"}, {drop: "a"}}, nil},
		{"a star given up for a name", []step{{add: "* a"}, {drop: "*"}}, []string{"a"}},
		{"a name given up for a star", []step{{add: "* a"}, {drop: "a"}}, []string{"a", "b", "c"}},
		{"a star added to a name", []step{{add: "a"}, {add: "*"}}, []string{"a", "b", "c"}},
		{"a star added and given up again", []step{{add: "a"}, {add: "*"}, {drop: "*"}}, []string{"a"}},
		{"the only name given up is nothing", []step{{add: "a"}, {drop: "a"}}, nil},
		{"nothing after a name is no star", []step{{add: "a"}, {drop: "a"}, {}}, nil},
	})},
	{"P12 full", "wildcards mean what the specification says in its examples", []string{sotw}, wildcards([]wildcard{
		{"nothing asked for is everything", []step{{}}, []string{"a", "b", "c"}},
		{"a star is everything", []step{{add: "*"}}, []string{"a", "b", "c"}},
		{"a name is that name", []step{{add: "a"}}, []string{"a"}},
		{"a name instead of everything", []step{{}, {add: "a"}}, []string{"a"}},
		{"a star and a name instead of everything", []step{{}, {add: "* a"}}, []string{"a", "b", "c"}},
		{"a star given up for a name", []step{{}, {add: "* a"}, {drop: "*"}}, []string{"a"}},
		{"a name given up for a star", []step{{add: "* a"}, {drop: "a"}}, []string{"a", "b", "c"}},
		{"everything given up, then the name", []step{{}, {add: "* a"}, {drop: "*"}, {drop: "a"}}, nil},
		{"the only name given up is nothing", []step{{add: "a"}, {drop: "a"}}, nil},
		{"the star given up is nothing", []step{{add: "*"}, {drop: "*"}}, nil},
	})},
	{"P12 empty", "a wildcard with nothing is answered, since an Envoy waits for it at boot", both, func(r *trial) {
		r.set(fleet, snapshotOf())
		p := r.peer("envoy-1", fleet)
		for _, url := range []string{resource.ClusterType, resource.ListenerType} {
			p.subscribe(url)
			if m := p.next(url); len(m.names)+len(m.removed) > 0 {
				r.Errorf("received %v, expected nothing in it", m)
			}
		}
	}},
	{"P13", "a name unsubscribed beside a wildcard is answered with the resource, or its removal", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(append(service("cart", 1), service("pay", 1)...)...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType, "*", "cart", "ghost")
		p.accepts("both", nil, func() bool { return p.holds(cluster("cart", 1), cluster("pay", 1)) })
		p.barrier()
		p.unread = nil
		p.unsubscribe(resource.ClusterType, "cart")
		m := p.next(resource.ClusterType)
		if !slices.Equal(m.names, []string{"cart"}) {
			r.Errorf("received %v, expected cart, which the wildcard still asks for", m)
		}
		p.accept(m)
		p.unsubscribe(resource.ClusterType, "ghost")
		if m := p.next(resource.ClusterType); !slices.Equal(m.removed, []string{"ghost"}) {
			r.Errorf("received %v, expected ghost to be removed", m)
		}
	}},
}

// step is a change of a subscription, names separated by spaces; one without any repeats the request.
type step struct{ add, drop string }

type wildcard struct {
	name  string
	steps []step
	want  []string
}

// wildcards takes each example's steps on a stream of its own, changes everything, and sees of what
// the client is told.
func wildcards(examples []wildcard) func(*trial) {
	all := func(revision int) []served {
		return slices.Concat(service("a", revision), service("b", revision), service("c", revision))
	}
	return func(r *trial) {
		r.set(fleet, snapshotOf(all(1)...))
		var peers []*peer
		for i, e := range examples {
			p := r.peer(fmt.Sprint("envoy-", i), fleet)
			peers = append(peers, p)
			for _, s := range e.steps {
				if s.drop != "" {
					p.unsubscribe(resource.ClusterType, strings.Fields(s.drop)...)
				} else {
					p.subscribe(resource.ClusterType, strings.Fields(s.add)...)
				}
				p.settle()
			}
		}
		r.set(fleet, snapshotOf(all(2)...))
		for i, e := range examples {
			p := peers[i]
			for _, name := range e.want {
				p.accepts(e.name+": "+name, nil, func() bool { return p.holds(cluster(name, 2)) })
			}
			p.settle()
			for _, name := range []string{"a", "b", "c"} {
				if !slices.Contains(e.want, name) && p.holds(cluster(name, 2)) {
					r.Errorf("%s: was told of %s", e.name, name)
				}
			}
		}
	}
}

// settle accepts what came for the requests so far. On SotW go-control-plane sends what is due in any
// order, also after a barrier.
func (p *peer) settle() {
	p.barrier()
	wait := time.Millisecond
	if p.protocol == sotw {
		wait = quietTime / 4
	}
	for m := p.any(wait); m != nil; m = p.any(wait) {
		p.accept(m)
	}
}
