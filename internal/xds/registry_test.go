package xds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"evenkeel.io/controlplane/internal/translate"
)

// TestStatesOfANode walks one node through all of them.
func TestStatesOfANode(t *testing.T) {
	exists := false
	p := startPlane(t, Options{
		HasFleet: func(string) bool { return exists },
		Lookup: func(fleet string, kind translate.Type, name string) (string, bool) {
			return fmt.Sprintf("Service of %s %s %s", fleet, kind, name), true
		},
	})
	c := p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
	p.untilState("envoy-1", translate.EDS, NoFleet)
	exists = true
	if s := p.state("envoy-1", translate.EDS); s.State != Pending {
		t.Errorf("before the first snapshot: %v", s)
	}
	if s := p.state("envoy-1", translate.LDS); s.State != NotSubscribed {
		t.Errorf("a type it did not ask for: %v", s)
	}

	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	first := c.recv()
	if s := p.state("envoy-1", translate.EDS); s.State != Pending || s.SentVersion != p.at("1", translate.EDS) || s.Version != "" || s.Sent != 1 {
		t.Errorf("sent: %+v", s)
	}
	c.ack(first)
	if s := p.untilState("envoy-1", translate.EDS, Synced); s.Version != p.at("1", translate.EDS) || s.Acked != 1 || s.AckedAt.IsZero() {
		t.Errorf("acknowledged: %+v", s)
	}

	p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
	c.nack(c.recv(), `Proto constraint validation failed: cluster_name: "shop/cart:80"`)
	s := p.untilState("envoy-1", translate.EDS, Nacked)
	if s.Version != p.at("1", translate.EDS) || s.SentVersion != p.at("2", translate.EDS) || s.Nacked != 1 {
		t.Errorf("refused: %+v", s)
	}
	proxy := p.Registry().Proxies()[0]
	n := p.Registry().Nacks()[0]
	if proxy.LastNack == nil || *proxy.LastNack != n {
		t.Errorf("last refusal of the node %+v, newest of all %+v", proxy.LastNack, n)
	}
	if n.Node != "envoy-1" || n.Type != translate.EDS || n.Version != p.at("2", translate.EDS) || n.Resource != "shop/cart:80" ||
		n.Source != "Service of shop/edge eds shop/cart:80" || n.Count != 1 || !strings.Contains(n.Instead, "the whole fleet is served version ") {
		t.Errorf("refusal: %+v", n)
	}
	if got := p.counter("evenkeel_xds_nacks_total", fleet, "eds"); got != 1 {
		t.Errorf("%v refusals counted", got)
	}

	p.set(fleet, "3", resourcesOf("shop/cart:80", 3))
	c.ack(c.recv())
	if s := p.untilState("envoy-1", translate.EDS, Synced); s.Version != p.at("3", translate.EDS) {
		t.Errorf("after the repair: %+v", s)
	}

	c.cancel()
	p.until("the node is forgotten", func() bool { return len(p.Registry().Proxies()) == 0 })
	if len(p.Registry().Nacks()) != 1 {
		t.Error("the refusal went with the node")
	}
}

// TestANodeWithoutASayInAChangeIsSynced: what it did not ask for changes the version of the type and
// causes no message.
func TestANodeWithoutASayInAChangeIsSynced(t *testing.T) {
	p := startPlane(t, Options{})
	serve := func(version string, cart, pay uint32) {
		p.set("eds:shop", version, map[resource.Type][]types.Resource{resource.EndpointType: {
			assignment("shop/cart:80", cart, 8080), assignment("shop/pay:80", pay, 8081),
		}})
	}
	serve("1", 1, 1)
	c := p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", "eds:shop"), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80", "shop/none:80"}})
	c.ack(c.recv())
	p.untilState("envoy-1", translate.EDS, Synced)

	serve("2", 1, 2)
	if s := p.state("envoy-1", translate.EDS); s.State != Synced || s.Version != p.at("2", translate.EDS) {
		t.Errorf("%+v, want SYNCED at 2", s)
	}
	serve("3", 3, 2)
	if s := p.state("envoy-1", translate.EDS); s.State != Pending {
		t.Errorf("%+v, want PENDING", s)
	}
	c.ack(c.recv())
	p.untilState("envoy-1", translate.EDS, Synced)

	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/pay:80"}, ResourceNamesUnsubscribe: []string{"shop/cart:80"}})
	c.ack(c.recv())
	p.untilState("envoy-1", translate.EDS, Synced)
	serve("4", 4, 2)
	if s := p.state("envoy-1", translate.EDS); s.State != Synced {
		t.Errorf("%+v: it no longer wants what changed", s)
	}
}

// TestAReturningNodeIsSynced: it says what it has, is sent nothing, and that is enough.
func TestAReturningNodeIsSynced(t *testing.T) {
	p := startPlane(t, Options{})
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	c := p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
	had := c.recv().GetResources()[0].GetVersion()
	c.cancel()
	p.until("it left", func() bool { return len(p.Registry().Proxies()) == 0 })

	c = p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.EndpointType,
		ResourceNamesSubscribe: []string{"shop/cart:80"}, InitialResourceVersions: map[string]string{"shop/cart:80": had}})
	if s := p.untilState("envoy-1", translate.EDS, Synced); s.Sent != 0 || s.Version != p.at("1", translate.EDS) {
		t.Errorf("%+v, want SYNCED at 1 without a message", s)
	}
}

// TestPartOfABatchRefused: a later response that is accepted does not hide what was refused.
func TestPartOfABatchRefused(t *testing.T) {
	p := startPlane(t, Options{})
	serve := func(version string, cart, pay uint32) {
		p.set(fleet, version, map[resource.Type][]types.Resource{resource.EndpointType: {
			assignment("shop/cart:80", cart, 8080), assignment("shop/pay:80", pay, 8081),
		}})
	}
	serve("1", 1, 1)
	c := p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80", "shop/pay:80"}})
	c.ack(c.recv())
	serve("2", 2, 1)
	c.nack(c.recv(), "no")
	serve("3", 2, 2)
	c.ack(c.recv())
	p.until("both answers", func() bool { s := p.state("envoy-1", translate.EDS); return s.Acked == 2 && s.Nacked == 1 })
	if s := p.state("envoy-1", translate.EDS); s.State != Nacked {
		t.Errorf("%+v, want NACKED: shop/cart:80 is not what we serve", s)
	}
	// The only resource of the response is the suspect, though the message names none.
	if n := p.Registry().Nacks()[0]; n.Resource != "shop/cart:80" {
		t.Errorf("suspect %q", n.Resource)
	}
	serve("4", 3, 2)
	c.ack(c.recv())
	p.untilState("envoy-1", translate.EDS, Synced)
}

// TestSotWStates: the same walk where versions are of a type and not of a resource.
func TestSotWStates(t *testing.T) {
	p := startPlane(t, Options{})
	resources := resourcesOf("shop/cart:80", 1)
	resources[resource.EndpointType] = append(resources[resource.EndpointType], assignment("shop/pay:80", 1, 8081))
	p.set(fleet, "1", resources)
	c := p.sotw()
	c.send(&discoveryv3.DiscoveryRequest{Node: node("client", fleet), TypeUrl: resource.EndpointType, ResourceNames: []string{"shop/cart:80"}})
	first := c.recv()
	if s := p.state("client", translate.EDS); s.State != Pending || s.SentVersion != first.GetVersionInfo() {
		t.Errorf("sent: %+v", s)
	}
	c.ack(first, "shop/cart:80")
	p.untilState("client", translate.EDS, Synced)
	c.ack(first, "shop/cart:80", "shop/pay:80")
	more := c.recv()
	if s := p.state("client", translate.EDS); s.State != Pending {
		t.Errorf("a new name of the same version is on its way: %+v", s)
	}
	c.ack(more, "shop/cart:80", "shop/pay:80")
	p.untilState("client", translate.EDS, Synced)

	p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
	c.nack(c.recv(), "1", `cluster_name: "shop/cart:80"`, "shop/cart:80", "shop/pay:80")
	if s := p.untilState("client", translate.EDS, Nacked); s.Version != more.GetVersionInfo() || s.Nacked != 1 {
		t.Errorf("refused: %+v", s)
	}
	if n := p.Registry().Nacks(); len(n) != 1 || n[0].Resource != "shop/cart:80" || n[0].Version == more.GetVersionInfo() {
		t.Errorf("refusals: %+v", n)
	}
	p.set(fleet, "3", resourcesOf("shop/cart:80", 3))
	c.ack(c.recv(), "shop/cart:80")
	p.untilState("client", translate.EDS, Synced)
}

func TestFactsOfANode(t *testing.T) {
	envoy := node("envoy-1", fleet)
	envoy.UserAgentName = "envoy"
	envoy.UserAgentVersionType = &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}}}
	envoy.Locality = &corev3.Locality{Zone: "a\nb"}
	metadata := func(v any) *structpb.Struct {
		s, err := structpb.NewStruct(map[string]any{"evenkeel.io/workers": v})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	envoy.Metadata = metadata(2)
	f, err := factsOf(envoy)
	if want := (facts{id: "envoy-1", fleet: fleet, build: "1.40.0", agent: "envoy", zone: "a b", workers: 2}); err != nil || f != want {
		t.Errorf("%+v, %v, want %+v", f, err, want)
	}
	for v, want := range map[any]int{"3": 3, "x": 0, -1: 0, 1e9: 0, 0.5: 0, true: 0, "": 0} {
		n := node("a", fleet)
		n.Metadata = metadata(v)
		if got := workersOf(n); got != want {
			t.Errorf("workers %v: %d, want %d", v, got, want)
		}
	}
	grpc := node("client", fleet)
	grpc.UserAgentName = "gRPC Go"
	grpc.UserAgentVersionType = &corev3.Node_UserAgentVersion{UserAgentVersion: "1.85.0"}
	if f, err := factsOf(grpc); err != nil || f.build != "1.85.0" {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestWorkersOfAFleet(t *testing.T) {
	p := startPlane(t, Options{})
	for i, workers := range []string{"2", "", "8"} {
		n := node(fmt.Sprint("envoy-", i), fleet)
		if i == 2 {
			n.Cluster = "shop/other"
		}
		if workers != "" {
			n.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{translate.WorkersKey: structpb.NewStringValue(workers)}}
		}
		p.delta().send(&discoveryv3.DeltaDiscoveryRequest{Node: n, TypeUrl: resource.ClusterType})
	}
	p.until("three nodes", func() bool { return len(p.Registry().Proxies()) == 3 })
	if got := p.Registry().Workers(fleet); got != 2+4 {
		t.Errorf("%d workers, want 2 and 4 for the one that does not say", got)
	}
	if got := p.Registry().Workers("no/such"); got != 0 {
		t.Errorf("%d workers of nobody", got)
	}
}

// TestConvergence: a change counts as taken by half of a fleet, and by all of it, when so many nodes
// have acknowledged it, and a fleet without nodes measures nothing.
func TestConvergence(t *testing.T) {
	p := startPlane(t, Options{})
	observed := func(share string) float64 {
		return p.counter("evenkeel_xds_convergence_seconds", share)
	}
	p.set("shop/edge", "1", resourcesOf("cart", 1))
	clients := make([]*deltaClient, 2)
	for i := range clients {
		clients[i] = p.delta()
		clients[i].send(&discoveryv3.DeltaDiscoveryRequest{Node: node(fmt.Sprint("envoy-", i), "shop/edge"), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"cart"}})
		clients[i].ack(clients[i].recv())
	}
	for i := range clients {
		p.untilState(fmt.Sprint("envoy-", i), translate.EDS, Synced)
	}
	p.set("shop/edge", "2", resourcesOf("cart", 2))
	p.Registry().Serving("shop/nobody", time.Now())
	p.Registry().Serving("shop/edge", time.Now())
	first, second := clients[0].recv(), clients[1].recv()
	if observed("0.5") != 0 {
		t.Error("half the fleet has it before anyone acknowledged")
	}
	clients[0].ack(first)
	p.until("half of the fleet has it", func() bool { return observed("0.5") == 1 })
	if observed("0.99") != 0 {
		t.Error("all of the fleet has it while one node has not acknowledged")
	}
	clients[1].ack(second)
	p.until("all of the fleet has it", func() bool { return observed("0.99") == 1 })
	if n := observed("0.5"); n != 1 {
		t.Errorf("half of the fleet is counted %v times", n)
	}
}
