package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rlsconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// noLimit is the way through Envoy on which nobody is asked.
const noLimit = "no limit"

// proxy is a real Envoy with a listener for each way to one backend.
type proxy struct {
	*demo.Envoy
	ways    []*way
	backend *http.Server
}

// way is a listener, and the service that its requests are counted by.
type way struct {
	name string
	arm  *arm // nil: none
	port uint16
}

func startProxy(ctx context.Context, s settings, arms []*arm) (*proxy, error) {
	path, err := demo.FindEnvoy()
	if err != nil {
		return nil, err
	}
	p := &proxy{ways: []*way{{name: noLimit}}}
	for _, a := range arms {
		p.ways = append(p.ways, &way{name: a.name, arm: a})
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	admin, err := demo.FreePort(0, loopback)
	if err != nil {
		return nil, err
	}
	for _, w := range p.ways {
		if w.port, err = demo.FreePort(0, loopback); err != nil {
			return nil, err
		}
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.backend = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })}
	go func() { _ = p.backend.Serve(lis) }()
	bootstrap, err := p.bootstrap(admin, lis.Addr().String())
	if err != nil {
		return nil, errors.Join(err, p.backend.Close())
	}
	p.Envoy, err = demo.StartEnvoy(demo.EnvoyOptions{
		Path: path, Name: "envoy", Dir: s.dir, Bootstrap: bootstrap, AdminURL: fmt.Sprintf("http://127.0.0.1:%d", admin), Concurrency: 2,
	})
	if err != nil {
		return nil, errors.Join(err, p.backend.Close())
	}
	if err := p.WaitReady(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *proxy) stop() {
	p.Stop(time.Second)
	_ = p.backend.Close()
}

// throughEnvoy sends requests of random tenants by a way, at random times. unanswered are those that Envoy let
// through because it got no answer.
func (p *proxy) throughEnvoy(ctx context.Context, s settings, w *way, seed uint64) (report demo.Report, unanswered int, err error) {
	before, err := p.failures(ctx)
	if err != nil {
		return report, 0, err
	}
	o := demo.LoadOptions{Rate: s.envoyRate, Duration: s.period, Seed: seed}
	for i := range s.tenants {
		o.URLs = append(o.URLs, fmt.Sprintf("http://127.0.0.1:%d/?tenant=%d", w.port, i))
	}
	if report, err = demo.RunLoad(ctx, o); err != nil {
		return report, 0, err
	}
	if report.Failed() > 0 {
		return report, 0, fmt.Errorf("%d requests failed: %v", report.Failed(), report.ByStatus)
	}
	after, err := p.failures(ctx)
	return report, int(after - before), err
}

// failures counts the requests that Envoy got no answer for.
func (p *proxy) failures(ctx context.Context) (sum uint64, err error) {
	stats, err := p.Stats(ctx, `ratelimit\.error$`)
	for _, n := range stats {
		sum += n
	}
	return sum, err
}

func (p *proxy) bootstrap(admin uint16, backend string) ([]byte, error) {
	b := &bootstrapv3.Bootstrap{
		Admin:           &bootstrapv3.Admin{Address: address("127.0.0.1", admin)},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{cluster("backend", backend, false)}},
	}
	for _, w := range p.ways {
		listener, err := w.listener()
		if err != nil {
			return nil, err
		}
		b.StaticResources.Listeners = append(b.StaticResources.Listeners, listener)
		if w.arm != nil {
			b.StaticResources.Clusters = append(b.StaticResources.Clusters, cluster(w.arm.name, w.arm.address, true))
		}
	}
	if err := b.ValidateAll(); err != nil {
		return nil, err
	}
	return protojson.Marshal(b)
}

// listener has the filter as the product sets it up, but for the timeout: an answer that is slow is to be seen, and
// not to be cut off.
func (w *way) listener() (*listenerv3.Listener, error) {
	vh := &routev3.VirtualHost{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "backend"}}},
	}}}
	hcm := &hcmv3.HttpConnectionManager{
		StatPrefix:     "way",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{Name: w.name, VirtualHosts: []*routev3.VirtualHost{vh}}},
	}
	if w.arm != nil {
		rules, err := rules()
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			if r.ID != probedRule {
				vh.RateLimits = append(vh.RateLimits, r.Actions(rlsconfig.Site{})...)
			}
		}
		hcm.HttpFilters = append(hcm.HttpFilters, filter("envoy.filters.http.ratelimit", &ratelimitv3.RateLimit{
			Domain: domain, Timeout: durationpb.New(time.Second), EnableXRatelimitHeaders: ratelimitv3.RateLimit_DRAFT_VERSION_03,
			RateLimitService: &rlsconfigv3.RateLimitServiceConfig{
				TransportApiVersion: corev3.ApiVersion_V3,
				GrpcService:         &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: w.arm.name}}},
			},
		}))
	}
	hcm.HttpFilters = append(hcm.HttpFilters, filter("envoy.filters.http.router", &routerv3.Router{}))
	return &listenerv3.Listener{Name: w.name, Address: address("127.0.0.1", w.port), FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(hcm)},
		}},
	}}}, nil
}

func filter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(config)}}
}

func cluster(name, at string, http2 bool) *clusterv3.Cluster {
	to := netip.MustParseAddrPort(at)
	c := &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(to.Addr().String(), to.Port())}}}},
		}}},
	}
	if http2 {
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(&httpv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
			}},
		})}
	}
	return c
}

func address(ip string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

func packed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err) // what is made here encodes
	}
	return a
}
