package xds

import (
	"context"
	"iter"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"evenkeel.io/controlplane/internal/signals"
	loadreports "evenkeel.io/controlplane/internal/signals/lrs"
)

// reporting collects what a load report manager makes of shop/cart:80.
type reporting struct {
	*loadreports.Manager
	t         *testing.T
	up        chan []signals.Reading
	addresses [2]string
	metrics   *prometheus.Registry
}

// startReporting starts a server that takes load reports every second.
func startReporting(t *testing.T) (*plane, *reporting) {
	t.Helper()
	var p *plane
	r := &reporting{t: t, up: make(chan []signals.Reading), metrics: prometheus.NewRegistry()}
	r.Manager = loadreports.New(loadreports.Options{
		Interval:    time.Second,
		Connected:   func(id, fleet string) bool { return p.Registry().Connected(id, fleet) },
		Subscribers: func(service string) iter.Seq2[string, string] { return p.Registry().Subscribers(service) },
		Registerer:  r.metrics,
	})
	p = startPlane(t, Options{LoadReports: r.Manager})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx, r.up) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return p, r
}

// until waits for readings, in the order of the Spec's endpoints, of which something holds.
func (r *reporting) until(what string, holds func([2]signals.Reported) bool) {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case batch := <-r.up:
			var got [2]signals.Reported
			for _, reading := range batch {
				got[slices.Index(r.addresses[:], reading.Endpoint.Address)] = reading.Reported
			}
			if holds(got) {
				return
			}
		case <-deadline:
			r.t.Fatalf("never: %s; targets %+v", what, r.Targets())
		}
	}
}

// dropped is how many reports, or parts of them, were dropped for a reason.
func (r *reporting) dropped(reason string) float64 {
	r.t.Helper()
	p := &plane{t: r.t, metrics: r.metrics}
	return p.counter("evenkeel_load_reports_dropped_total", reason)
}

// report opens a load report stream of a node.
func (p *plane) report(n *corev3.Node) (send func(cluster string, succeeded uint64)) {
	p.t.Helper()
	str, err := loadv3.NewLoadReportingServiceClient(p.dial()).StreamLoadStats(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := str.Send(&loadv3.LoadStatsRequest{Node: n}); err != nil {
		p.t.Fatal(err)
	}
	return func(cluster string, succeeded uint64) {
		p.t.Helper()
		if err := str.Send(&loadv3.LoadStatsRequest{ClusterStats: []*endpointv3.ClusterStats{{
			ClusterName: cluster, LoadReportInterval: durationpb.New(time.Second),
			UpstreamLocalityStats: []*endpointv3.UpstreamLocalityStats{{UpstreamEndpointStats: []*endpointv3.UpstreamEndpointStats{{
				Address: loopback(1), TotalSuccessfulRequests: succeeded, TotalIssuedRequests: succeeded,
			}}}},
		}}}); err != nil {
			p.t.Fatal(err)
		}
	}
}

// TestStrangersDoNotReport: a report counts from a node with an ADS stream in the fleet that it names, and of
// what that fleet is served.
func TestStrangersDoNotReport(t *testing.T) {
	p, reports := startReporting(t)
	p.set(fleet, "1", map[resource.Type][]types.Resource{resource.EndpointType: {assignment("shop/cart:80", 1, 1)}})
	reports.addresses = [2]string{"127.0.0.1:1"}
	reports.SetTargets([]loadreports.Spec{
		{Service: "shop/cart:80", Fleets: []string{fleet}, Endpoints: []string{"127.0.0.1:1"}},
		{Service: "bank/vault:80", Fleets: []string{"bank/gate"}, Endpoints: []string{"127.0.0.1:2"}},
	})
	subscribe := func(id, fleet string) {
		c := p.delta()
		c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node(id, fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"shop/cart:80"}})
		p.until(id+" is connected", func() bool { return p.Registry().Connected(id, fleet) })
	}
	subscribe("envoy-1", fleet)
	subscribe("envoy-2", "bank/gate") // asks for what it is not served, and so is not waited for

	p.report(node("envoy-9", fleet))("shop/cart:80", 1000)
	p.until("a node without ADS", func() bool { return reports.dropped("not_connected") == 1 })
	p.report(node("envoy-1", "bank/gate"))("shop/cart:80", 1000)
	p.until("a name of one fleet in another", func() bool { return reports.dropped("not_connected") == 2 })
	p.report(node("envoy-2", "bank/gate"))("shop/cart:80", 1000)
	p.until("another fleet's cluster", func() bool { return reports.dropped("cluster") == 1 })

	p.report(node("envoy-1", fleet))("shop/cart:80", 7)
	reports.until("the one that may", func(n [2]signals.Reported) bool { return n[0].Done == 7 && n[0].All })

	ended := slices.Collect(func(yield func(string) bool) {
		for id := range p.Registry().Subscribers("shop/cart:80") {
			yield(id)
		}
	})
	slices.Sort(ended)
	if !slices.Equal(ended, []string{"envoy-1", "envoy-2"}) {
		t.Errorf("subscribers %v", ended)
	}
}

// panicking is LoadReports with a defect.
type panicking struct{}

func (panicking) ServeLoadReports(context.Context, grpc.ServerStream, func(string) error) error {
	panic("a defect")
}

func TestPanicInLoadReports(t *testing.T) {
	p := startPlane(t, Options{LoadReports: panicking{}})
	str, err := loadv3.NewLoadReportingServiceClient(p.dial()).StreamLoadStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := str.Recv(); status.Code(err) != codes.Internal || p.counter("evenkeel_xds_panics_total") != 1 {
		t.Errorf("%v, %v panics counted", err, p.counter("evenkeel_xds_panics_total"))
	}
}
