package xds

import (
	"fmt"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"evenkeel.io/controlplane/internal/translate"
)

// endpointsOf is a client that has the endpoints of shop/cart:80 in the version that is served now.
func (p *plane) endpointsOf(id string) *deltaClient {
	p.t.Helper()
	c := p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node(id, fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
	c.ack(c.recv())
	p.untilState(id, translate.EDS, Synced)
	return c
}

// TestOneNodeDoesNotDecideForItsFleet: what one of three refuses is served to the others.
func TestOneNodeDoesNotDecideForItsFleet(t *testing.T) {
	p := startPlane(t, Options{})
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	var clients []*deltaClient
	for i := range 3 {
		clients = append(clients, p.endpointsOf(fmt.Sprint("envoy-", i)))
	}
	p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
	clients[0].nack(clients[0].recv(), `cluster_name: "shop/cart:80"`)
	p.untilState("envoy-0", translate.EDS, Nacked)
	for i, c := range clients[1:] {
		c.ack(c.recv())
		p.untilState(fmt.Sprint("envoy-", i+1), translate.EDS, Synced)
	}
	if n := p.Registry().Nacks(); len(n) != 1 || !strings.Contains(n[0].Instead, "the node keeps") {
		t.Errorf("%+v", n)
	}
	if late := p.endpointsOf("envoy-late"); late == nil {
		t.Error("a node that comes later is not served")
	}
	if got := p.cache.Current(fleet).Get(translate.EDS, "shop/cart:80").Version; got != p.labels["2"].Get(translate.EDS, "shop/cart:80").Version {
		t.Error("the fleet is served something else")
	}
}

// TestTheOnlyNodeHereIsNotTheOnlyOne: a fleet has nodes at other replicas, and what one refuses is not taken
// back for being refused by all that there are here.
func TestTheOnlyNodeHereIsNotTheOnlyOne(t *testing.T) {
	for elsewhere, want := range map[int]string{0: "the whole fleet", 1: "the node keeps"} {
		p := startPlane(t, Options{Elsewhere: func(of string, here int) int {
			if of != fleet || here != 1 {
				t.Errorf("asked of %s with %d here", of, here)
			}
			return elsewhere
		}})
		p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
		c := p.endpointsOf("envoy-0")
		p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
		c.nack(c.recv(), `cluster_name: "shop/cart:80"`)
		p.until("the refusal is known", func() bool { return len(p.Registry().Nacks()) == 1 })
		if n := p.Registry().Nacks(); !strings.Contains(n[0].Instead, want) {
			t.Errorf("with %d elsewhere: %+v, want %q", elsewhere, n, want)
		}
	}
}

// TestWhatNobodyTakesIsTakenBack: two refused it and nobody took it, so the fleet is served the version
// before, nodes that come later too, until the resource changes.
func TestWhatNobodyTakesIsTakenBack(t *testing.T) {
	p := startPlane(t, Options{})
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	clients := []*deltaClient{p.endpointsOf("envoy-0"), p.endpointsOf("envoy-1"), p.endpointsOf("envoy-2")}
	p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
	for _, c := range clients[:2] {
		c.nack(c.recv(), `cluster_name: "shop/cart:80"`)
	}
	p.until("it is taken back", func() bool {
		nacks := p.Registry().Nacks()
		return len(nacks) > 0 && strings.Contains(nacks[0].Instead, "the whole fleet")
	})
	p.untilState("envoy-0", translate.EDS, Nacked)
	p.instead("the verdict is later than the first refusal", "envoy-0", "the whole fleet is served version ")
	p.instead("it is not later than the second", "envoy-1", "the whole fleet is served version ")
	clients[2].nack(clients[2].recv(), `cluster_name: "shop/cart:80"`)
	p.until("the third has refused it", func() bool { return len(p.Registry().Nacks()) == 3 })
	p.instead("the refusal is later than the verdict", "envoy-2", "the whole fleet is served version ")
	before := p.labels["1"].Get(translate.EDS, "shop/cart:80").Version
	late := p.delta()
	late.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-late", fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
	if got := late.recv(); got.GetResources()[0].GetVersion() != before {
		t.Error("a node that comes later is served what nobody took")
	}
	p.set(fleet, "3", resourcesOf("shop/cart:80", 3))
	clients[0].ack(clients[0].recv())
	p.untilState("envoy-0", translate.EDS, Synced)
	p.instead("the resource is another", "envoy-0", "another version: it has changed since")
	p.set(fleet, "4", nil)
	p.instead("the resource is gone", "envoy-0", "nothing: it is not served any more")
}

// instead asserts what is said to be served in place of what the node refused last, among all refusals and of
// the node itself.
func (p *plane) instead(when, id, want string) {
	p.t.Helper()
	for _, n := range p.Registry().Nacks() {
		if n.Node == id && !strings.HasPrefix(n.Instead, want) {
			p.t.Errorf("%s: of all refusals that by %s has %q, want %q", when, id, n.Instead, want)
		}
	}
	for _, proxy := range p.Registry().Proxies() {
		if proxy.Node == id && (proxy.LastNack == nil || !strings.HasPrefix(proxy.LastNack.Instead, want)) {
			p.t.Errorf("%s: the last refusal of %s is %+v, want %q", when, id, proxy.LastNack, want)
		}
	}
}

func TestStreamsOfANodeAreBounded(t *testing.T) {
	p := startPlane(t, Options{MaxNodeStreams: 2})
	for range 2 {
		p.delta().send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.ClusterType})
	}
	p.until("two streams", func() bool { return len(p.Registry().Proxies()) == 2 })
	c := p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.ClusterType})
	if _, err := c.str.Recv(); err == nil || !strings.Contains(err.Error(), "share the id") {
		t.Errorf("%v, want a refusal", err)
	}
	if got := p.counter("evenkeel_xds_refused_streams_total", "node_streams"); got != 1 {
		t.Errorf("%v refused, want 1", got)
	}
}

func TestNewStreamsAreTakenAtARate(t *testing.T) {
	p := startPlane(t, Options{StreamsPerSecond: 3})
	refused := 0
	for i := range 20 {
		c := p.delta()
		c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node(fmt.Sprint("envoy-", i), fleet), TypeUrl: resource.ClusterType})
	}
	p.until("most are refused", func() bool {
		refused = int(p.counter("evenkeel_xds_refused_streams_total", "rate"))
		return refused+len(p.Registry().Proxies()) == 20
	})
	if refused == 0 || refused == 20 {
		t.Errorf("%d of 20 refused", refused)
	}
}

// TestGRPCClientsAndEnvoysDoNotDecideForEachOther: what the only Envoy of a fleet refuses is taken back for
// Envoys, and what its only gRPC client refuses for gRPC clients.
func TestGRPCClientsAndEnvoysDoNotDecideForEachOther(t *testing.T) {
	for _, refusing := range []string{"envoy", "gRPC Go"} {
		t.Run(refusing, func(t *testing.T) {
			p := startPlane(t, Options{})
			p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
			clients := map[string]*deltaClient{}
			for _, agent := range []string{"envoy", "gRPC Go"} {
				n := node(agent, fleet)
				n.UserAgentName = agent
				clients[agent] = p.delta()
				clients[agent].send(&discoveryv3.DeltaDiscoveryRequest{Node: n, TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
				clients[agent].ack(clients[agent].recv())
				p.untilState(agent, translate.EDS, Synced)
			}
			p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
			var accepted string
			for agent, c := range clients {
				r := c.recv()
				if agent == refusing {
					c.nack(r, `cluster_name: "shop/cart:80"`)
					p.untilState(agent, translate.EDS, Nacked)
				} else {
					accepted = r.GetResources()[0].GetVersion()
					c.ack(r)
					p.untilState(agent, translate.EDS, Synced)
				}
			}
			if n := p.Registry().Nacks(); len(n) != 1 || n[0].Fleet != fleet || !strings.Contains(n[0].Instead, "the whole fleet") {
				t.Errorf("%+v", n)
			}
			for agent := range clients {
				late := p.delta()
				n := node("late "+agent, fleet)
				n.UserAgentName = agent
				late.send(&discoveryv3.DeltaDiscoveryRequest{Node: n, TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
				if got := late.recv().GetResources()[0].GetVersion(); (got == accepted) != (agent != refusing) {
					t.Errorf("a late %s is served version %s; the one that was accepted is %s", agent, got, accepted)
				}
			}
			p.set(fleet, "3", resourcesOf("shop/cart:80", 3))
			for agent, c := range clients {
				c.ack(c.recv())
				p.untilState(agent, translate.EDS, Synced)
			}
		})
	}
}

func TestPickersOfAGRPCClient(t *testing.T) {
	p := startPlane(t, Options{})
	for _, agent := range []string{"envoy", "gRPC Java"} {
		n := node(agent, fleet)
		n.UserAgentName, n.Metadata = agent, nil
		p.delta().send(&discoveryv3.DeltaDiscoveryRequest{Node: n, TypeUrl: resource.EndpointType})
	}
	p.until("both are there", func() bool { return len(p.Registry().Proxies()) == 2 })
	if got := p.Registry().Workers(fleet); got != 4+1 {
		t.Errorf("%d workers of an Envoy and a gRPC client that do not say, expected 4 and 1", got)
	}
}
