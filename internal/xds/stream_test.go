package xds

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/translate"
)

const fleet = "shop/edge"

// A request, in the form both protocols share.
type ask struct {
	node  *corev3.Node
	url   string
	names []string
}

// TestAStreamThatBreaksTheRulesIsClosedAlone sends what a stream may not, on both protocols, next to
// a well-behaved stream that must not notice.
func TestAStreamThatBreaksTheRulesIsClosedAlone(t *testing.T) {
	good := node("envoy-1", fleet)
	long := strings.Repeat("x", 2000)
	manyTypes := []ask{{good, resource.ClusterType, nil}}
	for i := range maxTypes {
		manyTypes = append(manyTypes, ask{nil, fmt.Sprint("type.googleapis.com/unknown.", i), nil})
	}
	names := func(n int) []string {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint("shop/cart:", i))
		}
		return names
	}
	for _, c := range []struct {
		name, reason string
		code         codes.Code
		asks         []ask
	}{
		{"no node", "bad_node", codes.InvalidArgument, []ask{{nil, resource.ClusterType, nil}}},
		{"a node without an id", "bad_node", codes.InvalidArgument, []ask{{node("", fleet), resource.ClusterType, nil}}},
		{"an endless id", "bad_node", codes.InvalidArgument, []ask{{node(long, fleet), resource.ClusterType, nil}}},
		{"an endless cluster", "bad_node", codes.InvalidArgument, []ask{{node("a", long), resource.ClusterType, nil}}},
		{"an id with an escape sequence", "bad_node", codes.InvalidArgument, []ask{{node("a\x1b[2J", fleet), resource.ClusterType, nil}}},
		{"another node later", "node_changed", codes.InvalidArgument, []ask{{good, resource.ClusterType, nil}, {node("envoy-2", fleet), resource.EndpointType, nil}}},
		{"another cluster later", "node_changed", codes.InvalidArgument, []ask{{good, resource.ClusterType, nil}, {node("envoy-1", "shop/other"), resource.EndpointType, nil}}},
		{"no type", "no_type", codes.InvalidArgument, []ask{{good, "", nil}}},
		{"an endless type", "bad_type", codes.InvalidArgument, []ask{{good, long, nil}}},
		{"too many types", "types", codes.ResourceExhausted, manyTypes},
		{"an endless name", "bad_name", codes.InvalidArgument, []ask{{good, resource.EndpointType, []string{long}}}},
		{"too many names", "names", codes.ResourceExhausted, []ask{{good, resource.EndpointType, names(101)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPlane(t, Options{MaxNames: 100})
			p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
			bystander := p.delta()
			bystander.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("bystander", fleet), TypeUrl: resource.ClusterType})
			bystander.ack(bystander.recv())

			d := p.delta()
			for _, a := range c.asks {
				d.send(&discoveryv3.DeltaDiscoveryRequest{Node: a.node, TypeUrl: a.url, ResourceNamesSubscribe: a.names})
			}
			var err error
			for err == nil {
				_, err = d.str.Recv()
			}
			if status.Code(err) != c.code {
				t.Errorf("delta: %v, want %v", err, c.code)
			}
			s := p.sotw()
			for _, a := range c.asks {
				s.send(&discoveryv3.DiscoveryRequest{Node: a.node, TypeUrl: a.url, ResourceNames: a.names})
			}
			for err = nil; err == nil; {
				_, err = s.str.Recv()
			}
			if status.Code(err) != c.code {
				t.Errorf("sotw: %v, want %v", err, c.code)
			}
			// The library itself checks for an empty type on SotW, before it calls back.
			if got := p.counter("evenkeel_xds_refused_streams_total", c.reason); got != 2 && !(c.reason == "no_type" && got == 1) {
				t.Errorf("refused streams for %s: %v, want 2", c.reason, got)
			}

			p.set(fleet, "2", resourcesOf("shop/other:80", 1))
			if resp := bystander.recv(); len(resp.GetResources()) != 1 || resp.GetResources()[0].GetName() != "shop/other:80" {
				t.Errorf("the bystander received %v", resp)
			}
		})
	}
}

func TestNamesAddUpOverRequests(t *testing.T) {
	p := startPlane(t, Options{MaxNames: 3})
	c := p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"a", "b"}})
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"c"}, ResourceNamesUnsubscribe: []string{"a"}})
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"d", "e"}})
	if _, err := c.str.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v, want ResourceExhausted", err)
	}
}

func TestStreamsOfTheServerAreBounded(t *testing.T) {
	p := startPlane(t, Options{MaxStreams: 1})
	first := p.delta()
	first.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.ClusterType})
	p.until("one proxy", func() bool { return len(p.Registry().Proxies()) == 1 })
	if _, err := p.sotw().str.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v, want ResourceExhausted", err)
	}
	if got := p.counter("evenkeel_xds_refused_streams_total", "streams"); got != 1 {
		t.Errorf("refused %v streams, want 1", got)
	}
	first.cancel()
	p.until("no proxy", func() bool { return len(p.Registry().Proxies()) == 0 })
}

// TestARefusedVersionIsParked: a hundred refusals cause no message. A first answer on another type
// marks the end: requests of a stream are handled in order.
func TestARefusedVersionIsParked(t *testing.T) {
	t.Run(delta, func(t *testing.T) {
		p := startPlane(t, Options{})
		p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
		c := p.delta()
		c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
		refused := c.recv()
		for range 100 {
			c.nack(refused, "no")
		}
		c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.RouteType, ResourceNamesSubscribe: []string{"web"}})
		if resp := c.recv(); resp.GetTypeUrl() != resource.RouteType {
			t.Fatalf("refusals were answered: %v", resp)
		}
		if n := p.Registry().Nacks(); len(n) != 1 || n[0].Count != 1 {
			t.Errorf("%+v, want one refusal, once: the others answer nothing", n)
		}
		p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
		if resp := c.recv(); resp.GetTypeUrl() != resource.EndpointType || len(resp.GetResources()) != 1 {
			t.Errorf("the changed version did not come: %v", resp)
		}
	})
	t.Run(sotw, func(t *testing.T) {
		p := startPlane(t, Options{})
		resources := resourcesOf("shop/cart:80", 1)
		resources[resource.EndpointType] = append(resources[resource.EndpointType], assignment("shop/pay:80", 1, 8081))
		p.set(fleet, "1", resources)
		c := p.sotw()
		c.send(&discoveryv3.DiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.EndpointType, ResourceNames: []string{"shop/cart:80"}})
		refused := c.recv()
		for range 100 {
			c.nack(refused, "", "no", "shop/cart:80")
		}
		c.send(&discoveryv3.DiscoveryRequest{TypeUrl: resource.RouteType, ResourceNames: []string{"web"}})
		if resp := c.recv(); resp.GetTypeUrl() != resource.RouteType {
			t.Fatalf("refusals were answered: %v", resp)
		}
		if n := p.Registry().Nacks(); len(n) != 1 || n[0].Count != 1 {
			t.Errorf("%+v, want one refusal, once: the others answer nothing", n)
		}
		c.nack(refused, "", "no", "shop/cart:80", "shop/pay:80")
		resp := c.recv()
		if len(resp.GetResources()) != 1 {
			t.Errorf("a refusal that asks for a new name received %d resources, want that one", len(resp.GetResources()))
		}
		c.ack(resp, "shop/cart:80")
		p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
		for resp = c.recv(); resp.GetTypeUrl() != resource.EndpointType; resp = c.recv() {
		}
		if len(resp.GetResources()) != 1 || resp.GetVersionInfo() == refused.GetVersionInfo() {
			t.Errorf("the changed version did not come: %v", resp)
		}
	})
}

func TestSotWStaleNonceIsVoid(t *testing.T) {
	p := startPlane(t, Options{})
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	c := p.sotw()
	c.send(&discoveryv3.DiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.EndpointType, ResourceNames: []string{"shop/cart:80"}})
	first := c.recv()
	c.ack(first, "shop/cart:80")
	p.untilState("envoy-1", translate.EDS, Synced)
	p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
	second := c.recv()
	c.ack(second, "shop/cart:80")

	c.ack(first)
	c.nack(first, "", "too late", "shop/other:80")
	c.send(&discoveryv3.DiscoveryRequest{TypeUrl: resource.RouteType, ResourceNames: []string{"web"}})
	if resp := c.recv(); resp.GetTypeUrl() != resource.RouteType {
		t.Fatalf("a stale request was answered: %v", resp)
	}
	if n := p.Registry().Nacks(); len(n) != 0 {
		t.Errorf("a stale refusal counts: %+v", n)
	}
	if s := p.state("envoy-1", translate.EDS); s.State != Synced {
		t.Errorf("%+v, want SYNCED", s)
	}
	p.set(fleet, "3", resourcesOf("shop/cart:80", 3))
	resp := c.recv()
	for resp.GetTypeUrl() != resource.EndpointType {
		resp = c.recv()
	}
	if len(resp.GetResources()) != 1 {
		t.Error("a stale request changed the subscription")
	}
}

// TestAFleetThatComesLater: a stream of a fleet without a snapshot is open and silent.
func TestAFleetThatComesLater(t *testing.T) {
	p := startPlane(t, Options{})
	c := p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", "eds:shop"), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
	p.untilState("envoy-1", translate.EDS, NoFleet)
	p.set("eds:shop", "1", map[resource.Type][]types.Resource{resource.EndpointType: {assignment("shop/cart:80", 1, 8080)}})
	resp := c.recv()
	if resp.GetNonce() != "1" || len(resp.GetResources()) != 1 {
		t.Errorf("%v, want the endpoints as the first message", resp)
	}
	c.ack(resp)
	p.untilState("envoy-1", translate.EDS, Synced)
}

// TestAClientThatNeverAnswersIsClosed: with an error that says why.
func TestAClientThatNeverAnswersIsClosed(t *testing.T) {
	p := startPlane(t, Options{AnswerTime: 50 * time.Millisecond})
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	c := p.delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.ClusterType})
	c.recv()
	if _, err := c.str.Recv(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
	if got := p.counter("evenkeel_xds_refused_streams_total", "unanswered"); got != 1 {
		t.Errorf("%v refused streams, want 1", got)
	}
}

// TestAPanicEndsOneStream breaks what names the source of a refused resource.
func TestAPanicEndsOneStream(t *testing.T) {
	p := startPlane(t, Options{Lookup: func(string, translate.Type, string) (string, bool) { panic("an index is out of range") }})
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	good, bad := p.delta(), p.delta()
	good.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.ClusterType})
	good.ack(good.recv())
	bad.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-2", fleet), TypeUrl: resource.ClusterType})
	bad.nack(bad.recv(), "no")
	if _, err := bad.str.Recv(); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "index") {
		t.Errorf("%v, want Internal, without details", err)
	}
	p.set(fleet, "2", resourcesOf("shop/cart:81", 1))
	good.recv()
	p.until("one proxy", func() bool { return len(p.Registry().Proxies()) == 1 })
	if got := p.counter("evenkeel_xds_panics_total"); got != 1 {
		t.Errorf("%v panics counted, want 1", got)
	}
}

func TestDrainRefusesNewStreams(t *testing.T) {
	s := streams{most: 2}
	var cause error
	end := func(err error) { cause = err }
	release, err := s.admit(end)
	if err != nil {
		t.Fatal(err)
	}
	s.drain(0)
	if cause != errDraining {
		t.Errorf("an open stream was ended with %v", cause)
	}
	release()
	if _, err := s.admit(end); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want Unavailable", err)
	}
}

// TestDrainIsSpreadAndBounded runs on a clock of its own.
func TestDrainIsSpreadAndBounded(t *testing.T) {
	for open, want := range map[int]time.Duration{1: 0, 11: 100 * time.Millisecond, 1000: 999 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			s := streams{most: 1000}
			for range open {
				if _, err := s.admit(func(error) {}); err != nil {
					t.Fatal(err)
				}
			}
			start := time.Now()
			s.drain(time.Second)
			if took := time.Since(start); took != want {
				t.Errorf("%d streams ended in %v, want %v", open, took, want)
			}
		})
	}
}

func TestServeEndsItsStreams(t *testing.T) {
	p := startPlane(t, Options{})
	var streams []interface{ RecvMsg(any) error }
	for i := range 20 {
		c := p.delta()
		c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node(fmt.Sprint("envoy-", i), fleet), TypeUrl: resource.ClusterType})
		streams = append(streams, c.str)
	}
	load, err := loadv3.NewLoadReportingServiceClient(p.dial()).StreamLoadStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := load.Send(&loadv3.LoadStatsRequest{Node: node("envoy-0", fleet)}); err != nil {
		t.Fatal(err)
	}
	streams = append(streams, load)
	p.until("20 proxies", func() bool { return len(p.Registry().Proxies()) == 20 })
	p.until("a load report stream", func() bool { return p.counter("evenkeel_xds_streams", lrs) == 1 })
	p.stop()
	for i, s := range streams {
		if err := s.RecvMsg(&discoveryv3.DeltaDiscoveryResponse{}); status.Code(err) != codes.Unavailable {
			t.Errorf("stream %d: %v, want Unavailable", i, err)
		}
	}
	if n := len(p.Registry().Proxies()); n != 0 {
		t.Errorf("%d proxies after the end", n)
	}
	if got := p.counter("evenkeel_xds_streams"); got != 0 {
		t.Errorf("%v streams counted after the end", got)
	}
}

// TestResponsesNameReplicaAndGeneration: a fleet without generations has none in its responses.
func TestResponsesNameReplicaAndGeneration(t *testing.T) {
	p := startPlane(t, Options{Identifier: "replica-0"})
	serve := func(label string, weight uint32, generation uint64) {
		p.set(fleet, label, resourcesOf("shop/cart:80", weight))
		if err := p.cache.SetSnapshot(t.Context(), fleet, p.labels[label].InGeneration(generation)); err != nil {
			t.Fatal(err)
		}
	}
	serve("1", 1, 7)
	p.endpointsOf("envoy-1")
	other := p.delta()
	other.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-2", fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
	if got := other.recv().GetControlPlane().GetIdentifier(); got != "replica-0/7" {
		t.Errorf("identifier %q", got)
	}
	serve("2", 1, 8)
	late := p.delta()
	late.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-3", fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
	if got := late.recv().GetControlPlane().GetIdentifier(); got != "replica-0/8" {
		t.Errorf("identifier %q after a generation that changed no endpoint", got)
	}
	if s := p.state("envoy-1", translate.EDS); s.State != Synced || s.Sent != 1 {
		t.Errorf("%+v: a new generation alone is no reason for a response", s)
	}
	p.set("eds:shop", "3", resourcesOf("shop/cart:80", 1))
	plain := p.delta()
	plain.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-4", "eds:shop"), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
	if got := plain.recv().GetControlPlane().GetIdentifier(); got != "replica-0" {
		t.Errorf("identifier %q of a fleet without generations", got)
	}
}
