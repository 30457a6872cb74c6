package lrs

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"evenkeel.io/controlplane/internal/signals"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	shop = "shop/cart:8080"
	edge = "shop/edge"
	a    = "10.0.0.1:8080"
	b    = "10.0.0.2:8080"
)

// bench is a Manager that runs, in a bubble of synctest, with the nodes that have an ADS stream.
type bench struct {
	*Manager
	t        *testing.T
	registry *prometheus.Registry
	stop     func()

	mu    sync.Mutex
	nodes map[node]int
	read  []signals.Reading
}

// ads opens or ends so many ADS streams of a node.
func (b *bench) ads(id, fleet string, streams int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes[node{id: id, fleet: fleet}] += streams
}

func (b *bench) subscribers() map[node]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.nodes)
}

func start(t *testing.T, specs ...Spec) *bench {
	t.Helper()
	return startWith(t, func(*Options) {}, specs...)
}

func startWith(t *testing.T, change func(*Options), specs ...Spec) *bench {
	t.Helper()
	b := &bench{t: t, registry: prometheus.NewRegistry(), nodes: map[node]int{}}
	options := Options{
		Connected: func(id, fleet string) bool { return b.subscribers()[node{id: id, fleet: fleet}] > 0 },
		Subscribers: func(string) iter.Seq2[string, string] {
			return func(yield func(string, string) bool) {
				for n, streams := range b.subscribers() {
					for range streams {
						if !yield(n.id, n.fleet) {
							return
						}
					}
				}
			}
		},
		Registerer: b.registry, Logger: slog.New(slog.DiscardHandler),
	}
	change(&options)
	b.Manager = New(options)
	b.SetTargets(specs)
	ctx, cancel := context.WithCancel(context.Background())
	up := make(chan []signals.Reading)
	ran := make(chan error)
	go func() { ran <- b.Run(ctx, up) }()
	b.stop = func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	go func() {
		for {
			select {
			case batch := <-up:
				b.mu.Lock()
				b.read = append(b.read, batch...)
				b.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	return b
}

// take lets time pass and returns the last reading of each endpoint that came in it.
func (b *bench) take(d time.Duration) map[string]signals.Reported {
	b.mu.Lock()
	b.read = nil
	b.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	got := map[string]signals.Reported{}
	for _, r := range b.read {
		if r.Terms != 0 {
			b.t.Errorf("%+v has terms of its own", r)
		}
		got[r.Endpoint.Address] = r.Reported
	}
	return got
}

func (b *bench) dropped(reason string) float64 {
	b.t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "evenkeel_load_reports_dropped_total" && m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// client is the other end of a stream.
type client struct {
	grpc.ServerStream
	ctx    context.Context
	send   chan *loadv3.LoadStatsRequest
	asked  []*loadv3.LoadStatsResponse
	end    context.CancelFunc
	served chan error
}

func (c *client) Context() context.Context { return c.ctx }

func (c *client) RecvMsg(v any) error {
	select {
	case m := <-c.send:
		if m == nil {
			panic("a defect")
		}
		data, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		return v.(*message).UnmarshalWire(data)
	case <-c.ctx.Done():
		return io.EOF
	}
}

func (c *client) SendMsg(v any) error {
	c.asked = append(c.asked, proto.CloneOf(v.(*loadv3.LoadStatsResponse)))
	return nil
}

// dial opens a stream and says who it is.
func (b *bench) dial(n *corev3.Node) *client {
	b.t.Helper()
	c := &client{send: make(chan *loadv3.LoadStatsRequest), served: make(chan error, 1)}
	c.ctx, c.end = context.WithCancel(context.Background())
	go func() { c.served <- b.ServeLoadReports(c.ctx, c, anyFleet) }()
	c.send <- &loadv3.LoadStatsRequest{Node: n}
	synctest.Wait()
	return c
}

func (c *client) close() {
	c.end()
	<-c.served
	synctest.Wait()
}

func (c *client) report(clusters ...*endpointv3.ClusterStats) {
	c.send <- &loadv3.LoadStatsRequest{Node: &corev3.Node{Id: "whoever"}, ClusterStats: clusters}
	synctest.Wait()
}

func (c *client) last() *loadv3.LoadStatsResponse {
	if len(c.asked) == 0 {
		return nil
	}
	return c.asked[len(c.asked)-1]
}

// connect opens both streams of a node of the fleet.
func (b *bench) connect(id, fleet string, features ...string) *client {
	b.ads(id, fleet, 1)
	return b.dial(&corev3.Node{Id: id, Cluster: fleet, ClientFeatures: features})
}

func statsOf(name string, interval time.Duration, endpoints ...*endpointv3.UpstreamEndpointStats) *endpointv3.ClusterStats {
	return &endpointv3.ClusterStats{
		ClusterName: name, LoadReportInterval: durationpb.New(interval),
		UpstreamLocalityStats: []*endpointv3.UpstreamLocalityStats{{UpstreamEndpointStats: endpoints}},
	}
}

func endpointOf(host string, port uint32, succeeded, failed, issued, active uint64) *endpointv3.UpstreamEndpointStats {
	return &endpointv3.UpstreamEndpointStats{
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}},
		TotalSuccessfulRequests: succeeded, TotalErrorRequests: failed, TotalIssuedRequests: issued, TotalRequestsInProgress: active,
	}
}

func cart() Spec {
	return Spec{Service: shop, Fleets: []string{"eds:shop", edge}, Endpoints: []string{a, b}}
}

// anyFleet authorizes who asks.
func anyFleet(string) error { return nil }
