package xds_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// deliveryRules are about what is sent when, and what is not.
var deliveryRules = []rule{
	{"P6", "an acknowledgement is not answered, nor is the same content once more", both, func(r *trial) {
		r.set(fleet, snapshotOf(shop("cart", "pay")...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType)
		p.subscribe(resource.EndpointType, "cart", "pay")
		p.subscribe(resource.ListenerType)
		p.subscribe(resource.RouteType, "web")
		all := []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType}
		for _, url := range all {
			p.accept(p.next(url))
		}
		p.silent("acknowledgements", all...)
		for range 10 {
			r.set(fleet, snapshotOf(shop("cart", "pay")...))
		}
		p.silent("the same content ten times", all...)
	}},
	{"P6 others", "a change of one load assignment says nothing of others, nor of other types", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(append(service("cart", 1), service("pay", 1)...)...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType)
		p.subscribe(resource.EndpointType, "cart", "pay")
		p.accepts("everything", nil, func() bool { return p.holds(append(service("cart", 1), service("pay", 1)...)...) })
		p.barrier()
		r.set(fleet, snapshotOf(append(service("cart", 1), cluster("pay", 1), assignment("pay", 2))...))
		if m := p.next(resource.EndpointType); !slices.Equal(m.names, []string{"pay"}) {
			r.Errorf("received %v, expected pay alone", m)
		}
		p.silent("a change of endpoints", resource.ClusterType)
	}},
	{"P14", "clusters and listeners are sent in full, and what is missing from a response is gone", []string{sotw}, func(r *trial) {
		r.set(fleet, snapshotOf(append(service("cart", 1), service("pay", 1)...)...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType)
		p.accept(p.next(resource.ClusterType))
		p.barrier()
		r.set(fleet, snapshotOf(append(service("cart", 1), service("pay", 2)...)...))
		m := p.next(resource.ClusterType)
		if slices.Sort(m.names); !slices.Equal(m.names, []string{"cart", "pay"}) {
			r.Errorf("received %v after a change of pay, expected both", m)
		}
		p.accept(m)
		p.barrier()
		r.set(fleet, snapshotOf(service("pay", 2)...))
		p.accepts("cart is gone", nil, func() bool { return p.store[resource.ClusterType]["cart"] == "" && p.holds(cluster("pay", 2)) })
	}},
	{"P15", "a client that comes back with its versions is told the difference only", []string{delta}, func(r *trial) {
		r.set(fleet, snapshotOf(slices.Concat(service("a", 1), service("b", 1), service("c", 1))...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType)
		p.subscribe(resource.EndpointType, "a", "b", "c")
		p.accept(p.next(resource.ClusterType))
		p.accept(p.next(resource.EndpointType))
		p.close()

		again := r.peer("envoy-1", fleet)
		again.send(request{url: resource.ClusterType, initial: p.versions[resource.ClusterType]})
		again.send(request{url: resource.EndpointType, initial: p.versions[resource.EndpointType], subscribe: []string{"a", "b", "c"}})
		again.barrier()
		for again.receive(quietTime) {
		}
		for _, m := range again.unread {
			if len(m.names)+len(m.removed) > 0 { // an empty answer to a wildcard costs nothing
				r.Errorf("received %v, expected nothing that it has", m)
			}
		}
		again.close()

		r.set(fleet, snapshotOf(slices.Concat(service("a", 1), service("b", 2), service("d", 1))...))
		again = r.peer("envoy-1", fleet)
		again.send(request{url: resource.ClusterType, initial: p.versions[resource.ClusterType]})
		// What is gone may come with the rest or after it.
		difference := func(url string) (names, removed []string) {
			for len(names) == 0 || len(removed) == 0 {
				m := again.next(url)
				names, removed = append(names, m.names...), append(removed, m.removed...)
				again.accept(m)
			}
			return slices.Sorted(slices.Values(names)), removed
		}
		if names, removed := difference(resource.ClusterType); !slices.Equal(names, []string{"b", "d"}) || !slices.Equal(removed, []string{"c"}) {
			r.Errorf("received %v, %v removed, expected b and d, c removed", names, removed)
		}
		again.send(request{url: resource.EndpointType, initial: p.versions[resource.EndpointType], subscribe: []string{"a", "b", "c"}})
		if names, removed := difference(resource.EndpointType); !slices.Equal(names, []string{"b"}) || !slices.Equal(removed, []string{"c"}) {
			r.Errorf("received %v, %v removed, expected b, c removed", names, removed)
		}
	}},
	{"P16", "a client that comes back with its version is sent nothing that it has", []string{sotw}, func(r *trial) {
		r.set(fleet, snapshotOf(service("cart", 1)...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType)
		p.subscribe(resource.EndpointType, "cart")
		p.accept(p.next(resource.ClusterType))
		p.accept(p.next(resource.EndpointType))
		p.close()

		again := r.peer("envoy-1", fleet)
		maps.Copy(again.accepted, p.accepted)
		again.subscribe(resource.ClusterType)
		again.subscribe(resource.EndpointType, "cart")
		again.silent("coming back with the version", resource.ClusterType, resource.EndpointType)
		r.set(fleet, snapshotOf(service("cart", 2)...))
		again.accepts("the next version", nil, func() bool { return again.holds(service("cart", 2)...) })
	}},
	{"P16 outdated", "a client that comes back with an older version is sent the newest", []string{sotw}, func(r *trial) {
		r.set(fleet, snapshotOf(service("cart", 1)...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType)
		p.accept(p.next(resource.ClusterType))
		p.close()
		r.set(fleet, snapshotOf(service("cart", 2)...))
		again := r.peer("envoy-1", fleet)
		maps.Copy(again.accepted, p.accepted)
		again.subscribe(resource.ClusterType)
		again.accepts("the newest", nil, func() bool { return again.holds(cluster("cart", 2)) })
	}},
	{"P18", "routes name a cluster once it is acknowledged, and it is removed once no acknowledged route names it", both, func(r *trial) {
		r.set(fleet, snapshotOf(shop("old")...))
		p := r.peer("envoy-1", fleet)
		p.boot("old")
		r.set(fleet, snapshotOf(shop("new")...))

		made := p.next(resource.ClusterType)
		if made.bodies["new"] == nil || !p.keeps(made, "old") {
			r.Fatalf("first %v, expected the new cluster and not the old one's removal", made)
		}
		p.apply(made)
		p.subscribe(resource.EndpointType, "new")
		p.accepts("the new cluster's endpoints, before it is acknowledged", nil, func() bool { return p.holds(assignment("new", 1)) })
		p.silent("a cluster that is not acknowledged", resource.RouteType)
		p.ack(made)

		switched := p.next(resource.RouteType)
		if got := clusterOf(switched, "web"); got != "new" {
			r.Fatalf("then a route to %q, expected new", got)
		}
		p.apply(switched)
		p.barrier()
		for p.receive(quietTime) {
		}
		for _, m := range p.unread {
			if m.url == resource.ClusterType && !p.keeps(m, "old") || m.url == resource.EndpointType && slices.Contains(m.removed, "old") {
				r.Errorf("%v, though the route is not acknowledged", m)
			}
		}
		p.ack(switched)
		p.accepts("the old cluster is removed", nil, func() bool { return p.store[resource.ClusterType]["old"] == "" })
	}},
	{"P18 bounded", "a client that acknowledges nothing holds up no other", both, func(r *trial) {
		r.set(fleet, snapshotOf(shop("old")...))
		dead, p := r.peer("envoy-1", fleet), r.peer("envoy-2", fleet)
		dead.boot("old")
		p.boot("old")
		r.set(fleet, snapshotOf(shop("new")...))
		dead.next(resource.ClusterType)
		p.subscribe(resource.EndpointType, "new")
		p.accepts("the new state", nil, func() bool {
			return p.holds(shop("new")...) && p.store[resource.ClusterType]["old"] == ""
		})
	}},
	{"P18 busy", "while a client owes an acknowledgement of clusters, weights of others reach it", both, func(r *trial) {
		r.set(fleet, snapshotOf(shop("old", "pay")...))
		p := r.peer("envoy-1", fleet)
		p.boot("old", "pay")
		r.set(fleet, snapshotOf(shop("old", "pay", "new")...))
		p.next(resource.ClusterType) // warms for ever
		next := append(shop("old", "new"), cluster("pay", 1), assignment("pay", 2))
		r.set(fleet, snapshotOf(next...))
		p.accepts("a new weight", func(m *message) string { return "" }, func() bool { return p.holds(assignment("pay", 2)) })
	}},
	{"P19", "a cluster that changes has its load assignment sent after it, though that is the same", both, func(r *trial) {
		r.set(fleet, snapshotOf(append(service("cart", 1), service("pay", 1)...)...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.ClusterType)
		p.subscribe(resource.EndpointType, "cart", "pay")
		p.accepts("everything", nil, func() bool { return p.holds(append(service("cart", 1), service("pay", 1)...)...) })
		before := maps.Clone(p.versions[resource.EndpointType])
		p.barrier()
		r.set(fleet, snapshotOf(append(service("pay", 1), cluster("cart", 2), assignment("cart", 1))...))
		changed := p.next(resource.ClusterType)
		p.apply(changed) // and it warms: the acknowledgement waits for the endpoints
		m := p.next(resource.EndpointType)
		p.apply(m)
		if !p.holds(cluster("cart", 2), assignment("cart", 1)) || m.bodies["cart"] == nil {
			r.Errorf("after the cluster %v, expected cart", m)
		}
		if r.protocol == delta && (m.versions["cart"] != before["cart"] || len(m.names) != 1) {
			r.Errorf("after the cluster %v at %s, expected cart alone, still at %s", m.names, m.versions["cart"], before["cart"])
		}
	}},
	{"P23 requests", "of requests that supersede each other the latest is answered", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("a", 1), assignment("b", 1), assignment("c", 1)))
		p := r.peer("envoy-1", fleet)
		for _, name := range []string{"a", "b", "c"} {
			p.subscribe(resource.EndpointType, name)
		}
		p.accepts("all three", nil, func() bool { return p.holds(assignment("a", 1), assignment("b", 1), assignment("c", 1)) })
		p.silent("having got everything", resource.EndpointType)
	}},
	{"P23 newest", "a client that was slow to answer gets the newest state, not those in between", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		slow := p.next(resource.EndpointType)
		for i := range 10 {
			r.set(fleet, snapshotOf(assignment("cart", 2+i)))
		}
		p.barrier()
		for p.receive(quietTime) {
		}
		if len(p.unread) > 0 {
			r.Errorf("%d responses while one was unanswered", len(p.unread))
		}
		p.accept(slow)
		p.accept(p.next(resource.EndpointType))
		if !p.holds(assignment("cart", 11)) {
			r.Errorf("an older state than the newest came first")
		}
		p.silent("the newest state", resource.EndpointType)
	}},
	{"P26 replicas", "two servers, and both of their protocols, serve the same bytes under the same versions", both, func(r *trial) {
		other := &trial{t: r.t, running: startLike(r), protocol: r.protocol, patience: r.patience}
		defer func() { r.failures = append(r.failures, other.failures...) }()
		for _, r := range []*trial{r, other} {
			r.set(fleet, snapshotOf(shop("cart", "pay")...))
		}
		a, b := r.peer("envoy-1", fleet), other.peer("envoy-1", fleet)
		for _, p := range []*peer{a, b} {
			p.boot("cart", "pay")
		}
		for url := range a.store {
			if !maps.Equal(a.store[url], b.store[url]) || !maps.Equal(a.versions[url], b.versions[url]) || a.accepted[url] != b.accepted[url] {
				r.Errorf("%s: two servers differ", url)
			}
		}
	}},
}

// startLike starts a second server of the kind that the trial is of.
func startLike(r *trial) running {
	for _, s := range servers {
		if strings.Contains(r.t.Name(), "/"+s.name+"/") {
			return s.start(r.t)
		}
	}
	panic("no server of " + r.t.Name())
}

// boot subscribes as an Envoy at its start does, to the clusters' endpoints by name, and accepts
// everything.
func (p *peer) boot(clusters ...string) {
	p.subscribe(resource.ClusterType)
	p.subscribe(resource.EndpointType, clusters...)
	p.subscribe(resource.ListenerType)
	p.subscribe(resource.RouteType, "web")
	want := shop(clusters...)
	p.accepts(fmt.Sprintf("boot with %v", clusters), nil, func() bool { return p.holds(want...) })
	p.settle()
}

// keeps reports whether a client that applies the message still has a cluster.
func (p *peer) keeps(m *message, name string) bool {
	if p.protocol == sotw {
		return m.bodies[name] != nil
	}
	return !slices.Contains(m.removed, name)
}

// clusterOf is the cluster that a route configuration in the message sends everything to.
func clusterOf(m *message, name string) string {
	rc := &routev3.RouteConfiguration{}
	if body := m.bodies[name]; body == nil || body.UnmarshalTo(rc) != nil {
		return ""
	}
	return rc.GetVirtualHosts()[0].GetRoutes()[0].GetRoute().GetCluster()
}
