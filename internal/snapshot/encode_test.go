package snapshot

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/translate"
)

func TestEncodingIsAlwaysTheSame(t *testing.T) {
	fields := map[string]any{}
	for i := range 5 {
		fields[fmt.Sprint("key", i)] = map[string]any{"a": 1, "b": []any{true, "x"}, "c": nil}
	}
	var version string
	for range 1000 {
		layer, err := structpb.NewStruct(fields)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Encode(translate.Resource{Type: translate.RTDS, Name: "l", Message: &runtimev3.Runtime{Name: "l", Layer: layer}})
		if err != nil {
			t.Fatal(err)
		}
		if version != "" && r.Version != version {
			t.Fatal("equal contents have different versions")
		}
		version = r.Version
	}
}

func TestEncodeAfterKeepsWhatIsTheSame(t *testing.T) {
	first := mustEncode(t, translate.Cluster(service("shop/a:80")))[0]
	again, err := EncodeAfter(first, translate.Cluster(service("shop/a:80")))
	if err != nil || again != first {
		t.Errorf("the same cluster became another resource (%v)", err)
	}
	other := service("shop/a:80")
	other.HTTP2 = true
	if changed, err := EncodeAfter(first, translate.Cluster(other)); err != nil || changed == first || changed.Version == first.Version {
		t.Errorf("another cluster passed for the same (%v)", err)
	}
}

// TestRefusals breaks one thing at a time in resources that are good.
func TestRefusals(t *testing.T) {
	good := func() *endpointv3.ClusterLoadAssignment {
		return translate.Assignment(service("a", 1, 1), nil).Message.(*endpointv3.ClusterLoadAssignment)
	}
	assignment := func(change func(a *endpointv3.ClusterLoadAssignment, l *endpointv3.LocalityLbEndpoints, e *endpointv3.LbEndpoint)) proto.Message {
		a := good()
		change(a, a.Endpoints[0], a.Endpoints[0].LbEndpoints[0])
		return a
	}
	address := func(ip string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	at := func(ip string, port uint32) proto.Message {
		return assignment(func(_ *endpointv3.ClusterLoadAssignment, _ *endpointv3.LocalityLbEndpoints, e *endpointv3.LbEndpoint) {
			e.GetEndpoint().Address = address(ip, port)
		})
	}
	policy := func(p *endpointv3.ClusterLoadAssignment_Policy) proto.Message {
		a := good()
		a.Policy = p
		return a
	}
	cluster := func(change func(*clusterv3.Cluster)) proto.Message {
		c := translate.Cluster(service("a")).Message.(*clusterv3.Cluster)
		change(c)
		return c
	}
	routes := func(change func(*routev3.VirtualHost)) proto.Message {
		vh := &routev3.VirtualHost{Name: "v", Domains: []string{"*"}, Routes: []*routev3.Route{{
			Name:   "r",
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "c"}}},
		}}}
		change(vh)
		return &routev3.RouteConfiguration{Name: "a", VirtualHosts: []*routev3.VirtualHost{vh}}
	}
	regex := func(expression string) proto.Message {
		return routes(func(vh *routev3.VirtualHost) {
			vh.Routes[0].Match.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: expression}}
		})
	}
	listener := func(address *corev3.Address, hcm *hcmv3.HttpConnectionManager) proto.Message {
		packed, err := anypb.New(hcm)
		if err != nil {
			t.Fatal(err)
		}
		return &listenerv3.Listener{Name: "a", Address: address, FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed},
		}}}}}
	}
	router, err := anypb.New(&routerv3.Router{})
	if err != nil {
		t.Fatal(err)
	}
	filter := func(name string) *hcmv3.HttpFilter {
		return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}}
	}
	manager := func(change func(*hcmv3.HttpConnectionManager)) *hcmv3.HttpConnectionManager {
		m := &hcmv3.HttpConnectionManager{
			StatPrefix: "a", HttpFilters: []*hcmv3.HttpFilter{filter("router")},
			RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "a", ConfigSource: &corev3.ConfigSource{
				ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
			}}},
		}
		change(m)
		return m
	}
	for _, c := range []struct {
		typ     translate.Type
		message proto.Message
		want    string // part of the reason, "" if it is to be accepted
	}{
		{translate.EDS, good(), ""},
		{translate.EDS, &endpointv3.ClusterLoadAssignment{ClusterName: "a"}, ""},
		{translate.EDS, &endpointv3.ClusterLoadAssignment{ClusterName: "b"}, `is "b" within, expected "a"`},
		{translate.EDS, &endpointv3.ClusterLoadAssignment{}, "ClusterName"},
		{translate.CDS, good(), "expected type.googleapis.com/envoy.config.cluster.v3.Cluster"},
		{translate.EDS, at("shop.example.com", 80), `"shop.example.com" is no IP address`},
		{translate.EDS, at("fe80::1%eth0", 80), "is no IP address"},
		{translate.EDS, at("", 80), "is no IP address"},
		{translate.EDS, at("10.0.0.1", 0), "port 0 of 10.0.0.1 is not in 1 to 65535"},
		{translate.EDS, at("10.0.0.1", 65536), "port 65536 of 10.0.0.1"},
		{translate.EDS, at("2.0.0.1", 80), "2.0.0.1:80 stands twice"},
		{translate.EDS, at("::ffff:2.0.0.1", 80), ""},
		{translate.EDS, assignment(func(_ *endpointv3.ClusterLoadAssignment, _ *endpointv3.LocalityLbEndpoints, e *endpointv3.LbEndpoint) {
			e.LoadBalancingWeight = wrapperspb.UInt32(0)
		}), "load_balancing_weight: of 1.0.0.1:80 is 0"},
		{translate.EDS, assignment(func(_ *endpointv3.ClusterLoadAssignment, _ *endpointv3.LocalityLbEndpoints, e *endpointv3.LbEndpoint) {
			e.LoadBalancingWeight = wrapperspb.UInt32(math.MaxUint32)
		}), "add up to 4294968295"},
		{translate.EDS, assignment(func(_ *endpointv3.ClusterLoadAssignment, l *endpointv3.LocalityLbEndpoints, _ *endpointv3.LbEndpoint) {
			l.Locality = nil
		}), "endpoints[0].locality: is missing"},
		{translate.EDS, assignment(func(_ *endpointv3.ClusterLoadAssignment, l *endpointv3.LocalityLbEndpoints, _ *endpointv3.LbEndpoint) {
			l.LoadBalancingWeight = nil
		}), "endpoints[0].load_balancing_weight: is 0"},
		{translate.EDS, assignment(func(a *endpointv3.ClusterLoadAssignment, _ *endpointv3.LocalityLbEndpoints, _ *endpointv3.LbEndpoint) {
			a.Endpoints[0].Priority = 1
		}), "priority 0 is missing"},
		{translate.EDS, assignment(func(a *endpointv3.ClusterLoadAssignment, l *endpointv3.LocalityLbEndpoints, e *endpointv3.LbEndpoint) {
			a.Endpoints = append(a.Endpoints, &endpointv3.LocalityLbEndpoints{Locality: l.Locality, LoadBalancingWeight: wrapperspb.UInt32(1)})
		}), "endpoints[1].locality: stands twice"},
		{translate.EDS, assignment(func(a *endpointv3.ClusterLoadAssignment, l *endpointv3.LocalityLbEndpoints, e *endpointv3.LbEndpoint) {
			a.Endpoints = append(a.Endpoints, &endpointv3.LocalityLbEndpoints{Locality: &corev3.Locality{Zone: "b"}, LoadBalancingWeight: wrapperspb.UInt32(math.MaxUint32)})
		}), "weights of priority 0 add up to"},
		{translate.EDS, assignment(func(_ *endpointv3.ClusterLoadAssignment, _ *endpointv3.LocalityLbEndpoints, e *endpointv3.LbEndpoint) {
			e.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.lb": {Fields: map[string]*structpb.Value{
				"list": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNumberValue(math.NaN())}}),
			}}}}
		}), "metadata.envoy.lb.list[0]: is NaN"},
		{translate.EDS, policy(&endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(99)}), "overprovisioning_factor: is 99"},
		{translate.EDS, policy(&endpointv3.ClusterLoadAssignment_Policy{EndpointStaleAfter: durationpb.New(time.Minute)}), "endpoint_stale_after"},
		{translate.EDS, policy(&endpointv3.ClusterLoadAssignment_Policy{DropOverloads: []*endpointv3.ClusterLoadAssignment_Policy_DropOverload{
			{Category: "x"}, {Category: "y"},
		}}), "has 2 categories"},

		{translate.CDS, cluster(func(*clusterv3.Cluster) {}), ""},
		{translate.CDS, cluster(func(c *clusterv3.Cluster) { c.EdsClusterConfig.ServiceName = "" }), "service_name: is empty"},
		{translate.CDS, cluster(func(c *clusterv3.Cluster) { c.ConnectTimeout = durationpb.New(0) }), "ConnectTimeout"},
		{translate.CDS, cluster(func(c *clusterv3.Cluster) {
			c.EdsClusterConfig.EdsConfig.InitialFetchTimeout = durationpb.New(0)
		}), "initial_fetch_timeout: is 0"},
		{translate.CDS, cluster(func(c *clusterv3.Cluster) {
			c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"x": {TypeUrl: "type.googleapis.com/no.such.Type"}}
		}), "no.such.Type"},

		{translate.RDS, routes(func(*routev3.VirtualHost) {}), ""},
		{translate.RDS, routes(func(vh *routev3.VirtualHost) { vh.Domains = []string{"a.*.b"} }), `domain "a.*.b"`},
		{translate.RDS, routes(func(vh *routev3.VirtualHost) { vh.Domains = []string{"a.b", "A.b"} }), `domain "A.b" stands twice`},
		{translate.RDS, routes(func(vh *routev3.VirtualHost) { vh.Routes[0].Action = nil }), "Route.Action"},
		{translate.RDS, routes(func(vh *routev3.VirtualHost) {
			vh.Routes[0].GetRoute().Timeout = durationpb.New(-time.Second)
		}), "timeout: is negative"},
		{translate.RDS, routes(func(vh *routev3.VirtualHost) {
			vh.Routes[0].GetRoute().ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: &routev3.WeightedCluster{
				Clusters: []*routev3.WeightedCluster_ClusterWeight{{Name: "c", Weight: wrapperspb.UInt32(0)}},
			}}
		}), "add up to 0"},
		{translate.RDS, routes(func(vh *routev3.VirtualHost) { vh.Routes[0].RequestHeadersToRemove = []string{"HOST"} }), "Host"},
		{translate.RDS, routes(func(vh *routev3.VirtualHost) { vh.Routes[0].ResponseHeadersToRemove = []string{":status"} }), `":status": is no header name`},
		{translate.RDS, routes(func(vh *routev3.VirtualHost) {
			vh.Routes[0].RequestHeadersToAdd = []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "a b", Value: "x"}}}
		}), `"a b": is no header name`},
		{translate.RDS, regex("[a-z]+"), ""},
		{translate.RDS, regex("("), "missing closing )"},
		{translate.RDS, regex(strings.Repeat("a", 257)), "is longer than 256 bytes"},
		{translate.RDS, regex(`(\p{L}{1,100})+`), "instructions, expected at most 10000"},

		{translate.LDS, listener(address("::", 80), manager(func(*hcmv3.HttpConnectionManager) {})), ""},
		{translate.LDS, listener(address("localhost", 80), manager(func(*hcmv3.HttpConnectionManager) {})), "is no IP address"},
		{translate.LDS, listener(address("::", 80), manager(func(m *hcmv3.HttpConnectionManager) { m.StatPrefix = "" })), "StatPrefix"},
		{translate.LDS, listener(address("::", 80), manager(func(m *hcmv3.HttpConnectionManager) { m.HttpFilters = nil })), "not the router"},
		{translate.LDS, listener(address("::", 80), manager(func(m *hcmv3.HttpConnectionManager) {
			m.HttpFilters = append(m.HttpFilters, filter("router"))
		})), "stands twice"},

		{translate.RTDS, &runtimev3.Runtime{Name: "a", Layer: &structpb.Struct{Fields: map[string]*structpb.Value{"k": structpb.NewNumberValue(math.Inf(1))}}}, "layer.k: is +Inf"},
		{translate.ECDS, &corev3.TypedExtensionConfig{Name: "a", TypedConfig: &anypb.Any{TypeUrl: router.TypeUrl, Value: []byte{0xff}}}, router.TypeUrl},
		{translate.RLS, rateLimits(), ""},
		{translate.RLS, rateLimits(limitOf("a", 3, ratelimitv3.RateLimitUnit_SECOND), &ratelimitv3.RateLimitDescriptor{Key: "a", Value: "b"}), ""},
		{translate.RLS, &ratelimitv3.RateLimitConfig{Name: "a", Domain: "b"}, `domain: is "b"`},
		{translate.RLS, rateLimits(limitOf("", 3, ratelimitv3.RateLimitUnit_SECOND)), "descriptors[0].key: is empty"},
		{translate.RLS, rateLimits(limitOf("a", 3, ratelimitv3.RateLimitUnit_SECOND), limitOf("a", 4, ratelimitv3.RateLimitUnit_SECOND)), `descriptors[1]: "a" stands twice`},
		{translate.RLS, rateLimits(&ratelimitv3.RateLimitDescriptor{Key: "a", Descriptors: []*ratelimitv3.RateLimitDescriptor{{Key: "b", Value: "c_d"}, {Key: "b_c", Value: "d"}}}),
			`descriptors[0].descriptors[1]: "b_c_d" stands twice`},
		{translate.RLS, rateLimits(&ratelimitv3.RateLimitDescriptor{Key: "a", Value: "b*"}), `"a_b*" ends with *`},
		{translate.RLS, rateLimits(limitOf("a", 3, ratelimitv3.RateLimitUnit_UNKNOWN)), "rate_limit.unit: is missing"},
		{translate.RLS, rateLimits(&ratelimitv3.RateLimitDescriptor{Key: "a", RateLimit: &ratelimitv3.RateLimitPolicy{Unlimited: true, Unit: ratelimitv3.RateLimitUnit_HOUR}}), "unit: is HOUR of a limit that is unlimited"},
		{translate.RLS, rateLimits(&ratelimitv3.RateLimitDescriptor{Key: "a", RateLimit: &ratelimitv3.RateLimitPolicy{Name: "x", Unlimited: true, Replaces: []*ratelimitv3.RateLimitReplace{{Name: "x"}}}}), "replaces[0].name"},
		{translate.ECDS, &durationpb.Duration{}, "no type that is served"},
	} {
		_, err := Encode(translate.Resource{Type: c.typ, Name: "a", Message: c.message, Source: "Test one/it"})
		switch {
		case err == nil && c.want != "":
			t.Errorf("%s was accepted, expected a refusal with %q: %v", c.typ, c.want, c.message)
		case err != nil && c.want == "":
			t.Errorf("%v", err)
		case err != nil && (!strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), string(c.typ)+` "a" of Test one/it is not valid: `)):
			t.Errorf("%v\nexpected the name, the source and %q", err, c.want)
		}
	}
}

func TestARefusalIsShort(t *testing.T) {
	s := &catalog.Service{Name: "a"}
	for i := range 1_000 {
		s.Endpoints = append(s.Endpoints, catalog.Endpoint{Address: fmt.Sprintf("host-%d.example.com", i), Base: 1, Multiplier: 1})
	}
	_, err := Encode(translate.Assignment(s, nil))
	if err == nil || len(err.Error()) > 700 || !strings.Contains(err.Error(), "host-0.example.com") {
		t.Errorf("a refusal of %d bytes: %.700s", len(err.Error()), err)
	}
}

func rateLimits(descriptors ...*ratelimitv3.RateLimitDescriptor) *ratelimitv3.RateLimitConfig {
	return &ratelimitv3.RateLimitConfig{Name: "a", Domain: "a", Descriptors: descriptors}
}

func limitOf(key string, requests uint32, unit ratelimitv3.RateLimitUnit) *ratelimitv3.RateLimitDescriptor {
	return &ratelimitv3.RateLimitDescriptor{Key: key, RateLimit: &ratelimitv3.RateLimitPolicy{RequestsPerUnit: requests, Unit: unit}}
}
