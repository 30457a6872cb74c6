package translate

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrlocalityv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	"google.golang.org/protobuf/proto"
)

// GRPCAgents begins the user agent name of every gRPC library that is an xDS client: "gRPC Go",
// "gRPC Java", "gRPC C-core".
const GRPCAgents = "gRPC"

// GRPC renders a resource that Envoys are served, a Cluster or an Assignment, for gRPC clients. Other
// types are none that this can be done for one by one: see GRPCRouting.
//
// The message may share parts with r's. Neither may be changed.
func GRPC(r Resource) (Resource, bool) {
	switch m := r.Message.(type) {
	case *clusterv3.Cluster:
		r.Message = grpcCluster(m)
	case *endpointv3.ClusterLoadAssignment:
		r.Message = grpcAssignment(m)
	default:
		return Resource{}, false
	}
	return r, true
}

// grpcCluster has what a gRPC client acts on. Of the limits that is the number of requests, which is
// 1024 where it is not said; of outlier detection, the success rate (gRFC A50).
func grpcCluster(c *clusterv3.Cluster) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 c.GetName(),
		ClusterDiscoveryType: c.GetClusterDiscoveryType(),
		EdsClusterConfig:     c.GetEdsClusterConfig(),
		LoadBalancingPolicy:  wrrLocality(),
		OutlierDetection:     c.GetOutlierDetection(),
		CircuitBreakers:      c.GetCircuitBreakers(),
	}
}

// wrrLocality picks a locality by its weight and takes turns within it (gRFC A52).
func wrrLocality() *clusterv3.LoadBalancingPolicy {
	policy := func(name string, m proto.Message) *clusterv3.LoadBalancingPolicy {
		return &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
			TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: anyOf(m)},
		}}}
	}
	return policy("envoy.load_balancing_policies.wrr_locality", &wrrlocalityv3.WrrLocality{
		EndpointPickingPolicy: policy("envoy.load_balancing_policies.round_robin", &roundrobinv3.RoundRobin{}),
	})
}

// grpcAssignment makes every endpoint a locality, with its weight: round_robin heeds no weights of
// endpoints. The sub-zone, which no endpoint of ours has otherwise, is the address, so that no two
// localities are the same and one keeps its name when others come and go.
func grpcAssignment(a *endpointv3.ClusterLoadAssignment) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: a.GetClusterName(), Policy: a.GetPolicy()}
	for _, l := range a.GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			out.Endpoints = append(out.Endpoints, &endpointv3.LocalityLbEndpoints{
				Locality: &corev3.Locality{
					Region:  l.GetLocality().GetRegion(),
					Zone:    l.GetLocality().GetZone(),
					SubZone: addressText(e.GetEndpoint().GetAddress().GetSocketAddress()),
				},
				LoadBalancingWeight: e.GetLoadBalancingWeight(),
				Priority:            l.GetPriority(),
				LbEndpoints:         []*endpointv3.LbEndpoint{e},
			})
		}
	}
	return out
}

// addressText is the address as a catalog.Endpoint has it.
func addressText(a *corev3.SocketAddress) string {
	ip, err := netip.ParseAddr(a.GetAddress())
	if err != nil {
		return a.GetAddress()
	}
	return netip.AddrPortFrom(ip, uint16(a.GetPortValue())).String()
}

// GRPCPort is a Listener of a fleet with a RouteConfiguration that it names, as Envoys are served them.
type GRPCPort struct{ Listener, Routes Resource }

// GRPCRouting renders the listeners and routes of a fleet for gRPC clients: for each port its routes, and
// listeners that bind nothing, under the names that a client may dial as xds:///NAME, which are
//
//   - <host>:<port>, of each host name that routes are for;
//   - <host>, of the lowest port that has routes for it;
//   - the name of the routes, <namespace>/<gateway>/<port>: with grpc.WithAuthority, or what other languages
//     call it, also for hosts of a wildcard.
//
// With them comes the cluster that stands for backends nobody has: an Envoy answers at once for one that
// does not exist, a gRPC client waits for it.
func GRPCRouting(ports []GRPCPort) []Resource {
	ports = slices.SortedFunc(slices.Values(ports), func(a, b GRPCPort) int {
		return cmp.Or(cmp.Compare(portOf(a.Listener), portOf(b.Listener)), cmp.Compare(a.Routes.Name, b.Routes.Name))
	})
	var out []Resource
	taken := map[string]bool{}
	for _, p := range ports {
		rc, ok := p.Routes.Message.(*routev3.RouteConfiguration)
		if !ok {
			continue
		}
		port := strconv.FormatUint(uint64(portOf(p.Listener)), 10)
		routes := p.Routes
		routes.Message = grpcRoutes(rc, port)
		out = append(out, routes)
		names := []string{rc.GetName()}
		for _, vh := range rc.GetVirtualHosts() {
			for _, d := range vh.GetDomains() {
				if !strings.Contains(d, "*") {
					names = append(names, d+":"+port, d)
				}
			}
		}
		for _, name := range names {
			if !taken[name] {
				taken[name] = true
				out = append(out, apiListener(name, rc.GetName(), p.Listener.Source))
			}
		}
	}
	if len(ports) > 0 {
		out = append(out, nobody(ports[0].Listener.Source)...)
	}
	return out
}

func portOf(listener Resource) uint32 {
	l, _ := listener.Message.(*listenerv3.Listener)
	return l.GetAddress().GetSocketAddress().GetPortValue()
}

func apiListener(name, routes, source string) Resource {
	return Resource{Type: LDS, Name: name, Source: source, Message: &listenerv3.Listener{
		Name: name,
		ApiListener: &listenerv3.ApiListener{ApiListener: anyOf(&hcmv3.HttpConnectionManager{
			StatPrefix: name,
			RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
				RouteConfigName: routes,
				ConfigSource:    overADS(0),
			}},
			HttpFilters: []*hcmv3.HttpFilter{{
				Name:       "envoy.filters.http.router",
				ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anyOf(&routerv3.Router{})},
			}},
		})},
	}}
}

// nobody is UnresolvedCluster as a cluster without endpoints.
func nobody(source string) []Resource {
	return []Resource{
		{Type: CDS, Name: UnresolvedCluster, Source: source, Message: &clusterv3.Cluster{
			Name:                 UnresolvedCluster,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{ServiceName: UnresolvedCluster, EdsConfig: overADS(edsFetchTimeout)},
			LoadBalancingPolicy:  wrrLocality(),
		}},
		{Type: EDS, Name: UnresolvedCluster, Source: source, Message: &endpointv3.ClusterLoadAssignment{ClusterName: UnresolvedCluster}},
	}
}
