package xds

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

func TestMain(m *testing.M) {
	// grpc-go's xDS client keeps watching the files of its TLS credentials for as long as the process lives.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("google.golang.org/grpc/credentials/tls/certprovider/pemfile.(*watcher).run"))
}

// patience is how long a test waits for what must come; nothing waits it out on success.
const patience = 20 * time.Second

// plane is a Server on a loopback port.
type plane struct {
	*Server
	t       *testing.T
	cache   *snapshot.Cache
	metrics *prometheus.Registry
	address string
	creds   credentials.TransportCredentials // of its clients
	dialer  net.Dialer
	stop    func()                        // ends it, and returns when it has
	labels  map[string]*snapshot.Snapshot // by the version that it was set as
}

func newCache() *snapshot.Cache { return snapshot.NewCache(FleetHash{}) }

func startPlane(t *testing.T, opts Options) *plane {
	t.Helper()
	return startPlaneOf(t, newCache(), "127.0.0.1:0", opts)
}

func startPlaneOf(t *testing.T, cache *snapshot.Cache, address string, opts Options) *plane {
	t.Helper()
	p := &plane{t: t, cache: cache, metrics: prometheus.NewRegistry(), creds: insecure.NewCredentials()}
	opts.Metrics = p.metrics
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	p.Server = NewServer(cache, opts)
	lis, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p.address = lis.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, lis) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *plane) dial() *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(p.creds),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return p.dialer.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return conn
}

// set serves resources to a fleet.
func (p *plane) set(fleet, version string, resources map[resource.Type][]types.Resource) {
	p.t.Helper()
	s, err := cachev3.NewSnapshot(version, resources)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := s.ConstructVersionMap(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cache.SetSnapshot(p.t.Context(), fleet, s); err != nil {
		p.t.Fatal(err)
	}
	if p.labels == nil {
		p.labels = map[string]*snapshot.Snapshot{}
	}
	p.labels[version] = p.cache.Current(fleet)
}

// at is the version of a type in what was set under a label.
func (p *plane) at(label string, t translate.Type) string { return p.labels[label].Version(t) }

// until waits for something to hold.
func (p *plane) until(what string, holds func() bool) {
	p.t.Helper()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-p.Registry().Changed():
		case <-time.After(5 * time.Millisecond): // for what the registry does not announce
		case <-deadline:
			p.t.Fatalf("never: %s; proxies %+v", what, p.Registry().Proxies())
		}
	}
}

func (p *plane) state(node string, t translate.Type) TypeState {
	for _, proxy := range p.Registry().Proxies() {
		if proxy.Node == node {
			return proxy.Types[t]
		}
	}
	return TypeState{}
}

func (p *plane) untilState(node string, t translate.Type, want SyncState) TypeState {
	p.t.Helper()
	p.until(node+" "+string(t)+" "+string(want), func() bool {
		listed := slices.ContainsFunc(p.Registry().Nacks(), func(n Nack) bool { return n.Node == node && n.Type == t })
		return p.state(node, t).State == want && (want != Nacked || listed) // it is listed a moment after
	})
	return p.state(node, t)
}

// counter is the sum of a counter or gauge, or the number of observations of a histogram, over the series
// that have all of the label values.
func (p *plane) counter(name string, labels ...string) float64 {
	p.t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			values := []string{}
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(values, l) }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func node(id, fleet string) *corev3.Node { return &corev3.Node{Id: id, Cluster: fleet} }

// deltaClient and sotwClient are raw clients: they send what they are told and acknowledge nothing by
// themselves.
type deltaClient struct {
	t      *testing.T
	str    grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
	cancel context.CancelFunc
}

func (p *plane) delta() *deltaClient {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p.t.Cleanup(cancel)
	str, err := discoveryv3.NewAggregatedDiscoveryServiceClient(p.dial()).DeltaAggregatedResources(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return &deltaClient{t: p.t, str: str, cancel: cancel}
}

// send ignores io.EOF: a stream that the server has closed tells why when it is read.
func (c *deltaClient) send(req *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	if err := c.str.Send(req); err != nil && !errors.Is(err, io.EOF) {
		c.t.Fatal(err)
	}
}

func (c *deltaClient) recv() *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	resp, err := c.str.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *deltaClient) ack(resp *discoveryv3.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()})
}

func (c *deltaClient) nack(resp *discoveryv3.DeltaDiscoveryResponse, message string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce(), ErrorDetail: &status.Status{Code: 13, Message: message}})
}

type sotwClient struct {
	t      *testing.T
	str    grpc.BidiStreamingClient[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	cancel context.CancelFunc
}

func (p *plane) sotw() *sotwClient {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p.t.Cleanup(cancel)
	str, err := discoveryv3.NewAggregatedDiscoveryServiceClient(p.dial()).StreamAggregatedResources(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return &sotwClient{t: p.t, str: str, cancel: cancel}
}

func (c *sotwClient) send(req *discoveryv3.DiscoveryRequest) {
	c.t.Helper()
	if err := c.str.Send(req); err != nil && !errors.Is(err, io.EOF) {
		c.t.Fatal(err)
	}
}

func (c *sotwClient) recv() *discoveryv3.DiscoveryResponse {
	c.t.Helper()
	resp, err := c.str.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *sotwClient) ack(resp *discoveryv3.DiscoveryResponse, names ...string) {
	c.t.Helper()
	c.send(&discoveryv3.DiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce(), VersionInfo: resp.GetVersionInfo(), ResourceNames: names})
}

func (c *sotwClient) nack(resp *discoveryv3.DiscoveryResponse, before, message string, names ...string) {
	c.t.Helper()
	c.send(&discoveryv3.DiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce(), VersionInfo: before, ResourceNames: names,
		ErrorDetail: &status.Status{Code: 13, Message: message}})
}

// resourcesOf are a cluster, its load assignment with one endpoint of a weight, and a route to it.
func resourcesOf(name string, weight uint32) map[resource.Type][]types.Resource {
	return map[resource.Type][]types.Resource{
		resource.ClusterType:  {edsCluster(name)},
		resource.EndpointType: {assignment(name, weight, 8080)},
		resource.RouteType: {&routev3.RouteConfiguration{Name: "web", VirtualHosts: []*routev3.VirtualHost{{
			Name: "all", Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}},
			}},
		}}}},
	}
}

func edsCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()},
	}
}

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, InitialFetchTimeout: durationpb.New(2 * time.Second),
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

func loopback(port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

func assignment(name string, weight, port uint32) *endpointv3.ClusterLoadAssignment {
	e := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: loopback(port)}}}
	e.LoadBalancingWeight = wrapperspb.UInt32(weight)
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		Locality: &corev3.Locality{Zone: "a"}, LoadBalancingWeight: wrapperspb.UInt32(max(weight, 1)), LbEndpoints: []*endpointv3.LbEndpoint{e},
	}}}
}
