package translate

import (
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	lbcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/catalog"
)

const (
	// connectTimeout lets one lost SYN be sent again (after 1 s) and still hands a dead endpoint's
	// request to another within the patience of a caller.
	connectTimeout = 2 * time.Second

	// edsFetchTimeout bounds how long a changed cluster warms when its assignment does not come: after
	// it Envoy goes on with the one it has. Without a bound it would warm for ever.
	edsFetchTimeout = 2 * time.Second

	// activeRequestBias is how strongly an endpoint's requests in flight count against its weight:
	// weight / (active+1)^bias. At 1.5 unequal weights react to a stalled endpoint about as well as
	// Envoy's power-of-two-choices does with equal ones.
	activeRequestBias = 1.5

	ejectAfterConsecutive5xx = 5
	ejectFor                 = 30 * time.Second
	ejectAtMostPercent       = 20
)

// Cluster makes the cluster of a Service. Any change of it makes Envoy open new connections to all of
// its endpoints and forget its ejections, so nothing in here depends on load or endpoints.
func Cluster(s *catalog.Service) Resource {
	c := &clusterv3.Cluster{
		Name:                 s.Name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{
			ServiceName: s.Name,
			EdsConfig:   overADS(edsFetchTimeout),
		},
		ConnectTimeout:            durationpb.New(connectTimeout),
		LoadBalancingPolicy:       leastRequest(),
		CommonLbConfig:            &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 0}},
		IgnoreHealthOnHostRemoval: true,
		OutlierDetection:          outlierDetection(),
		CircuitBreakers:           unlimited(),
	}
	if s.HTTP2 {
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": anyOf(&upstreamhttpv3.HttpProtocolOptions{
				UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{
					ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
						ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
							Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
						},
					},
				},
			}),
		}
	}
	return Resource{Type: CDS, Name: s.Name, Message: c, Source: s.Object.String()}
}

// leastRequest is the same for every strategy: what differs between them is weights alone, so that
// changing a policy's strategy does not disturb a connection. Zone-aware routing is off because an
// Envoy that knows its own cluster would otherwise prefer its zone, against the weights.
func leastRequest() *clusterv3.LoadBalancingPolicy {
	return &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
		TypedExtensionConfig: &corev3.TypedExtensionConfig{
			Name: "envoy.load_balancing_policies.least_request",
			TypedConfig: anyOf(&leastrequestv3.LeastRequest{
				ActiveRequestBias: &corev3.RuntimeDouble{DefaultValue: activeRequestBias, RuntimeKey: ActiveRequestBiasKey},
				LocalityLbConfig: &lbcommonv3.LocalityLbConfig{
					LocalityConfigSpecifier: &lbcommonv3.LocalityLbConfig_ZoneAwareLbConfig_{
						ZoneAwareLbConfig: &lbcommonv3.LocalityLbConfig_ZoneAwareLbConfig{RoutingEnabled: &typev3.Percent{Value: 0}},
					},
				},
			}),
		},
	}}}
}

// outlierDetection takes an endpoint that only fails out of rotation within Envoy, faster than any
// weight could. always_eject_one_host: 20 % of three or four endpoints would be none.
func outlierDetection() *clusterv3.OutlierDetection {
	return &clusterv3.OutlierDetection{
		Consecutive_5Xx:    wrapperspb.UInt32(ejectAfterConsecutive5xx),
		BaseEjectionTime:   durationpb.New(ejectFor),
		MaxEjectionPercent: wrapperspb.UInt32(ejectAtMostPercent),
		AlwaysEjectOneHost: wrapperspb.Bool(true),
	}
}

// unlimited lifts Envoy's implicit limits (1024 requests and connections, 3 retries at a time, per
// Envoy), which a healthy Service under load runs into without anybody having asked for a limit.
// Retries need none: only requests that no backend has seen are retried.
func unlimited() *clusterv3.CircuitBreakers {
	none := wrapperspb.UInt32(math.MaxUint32)
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		Priority:           corev3.RoutingPriority_DEFAULT,
		MaxConnections:     none,
		MaxPendingRequests: none,
		MaxRequests:        none,
		MaxRetries:         none,
	}}}
}
