package xds_test

import (
	"fmt"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// served is a resource as it is put into a snapshot.
type served = *snapshot.Resource

func encoded(t translate.Type, name string, m proto.Message) served {
	r, err := snapshot.Encode(translate.Resource{Type: t, Name: name, Message: m, Source: "a test"})
	if err != nil {
		panic(err)
	}
	return r
}

var overADS = &corev3.ConfigSource{
	ResourceApiVersion: corev3.ApiVersion_V3, InitialFetchTimeout: durationpb.New(2 * time.Second),
	ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
}

// known keeps what was encoded before: rules compare with it over and over.
var known sync.Map

func once(key string, encode func() served) served {
	if r, ok := known.Load(key); ok {
		return r.(served)
	}
	r, _ := known.LoadOrStore(key, encode())
	return r.(served)
}

// cluster is a cluster whose bytes differ by revision.
func cluster(name string, revision int) served {
	return once(fmt.Sprint("cluster ", name, revision), func() served { return newCluster(name, revision) })
}

func newCluster(name string, revision int) served {
	return encoded(translate.CDS, name, &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(time.Second + time.Duration(revision)*time.Millisecond),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{ServiceName: name, EdsConfig: overADS},
	})
}

func at(port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}
}

// assignment has one endpoint, of a weight.
func assignment(name string, weight int) served {
	return once(fmt.Sprint("assignment ", name, weight), func() served { return newAssignment(name, weight) })
}

func newAssignment(name string, weight int) served {
	w := wrapperspb.UInt32(uint32(weight))
	return encoded(translate.EDS, name, &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		Locality: &corev3.Locality{Zone: "a"}, LoadBalancingWeight: w,
		LbEndpoints: []*endpointv3.LbEndpoint{{LoadBalancingWeight: w,
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at(8080)}}}},
	}}})
}

func listener(name, routes string) served {
	hcm := &hcmv3.HttpConnectionManager{
		StatPrefix:     "http",
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: routes, ConfigSource: overADS}},
		HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&routerv3.Router{})}}},
	}
	return encoded(translate.LDS, name, &listenerv3.Listener{Name: name, Address: at(10000), FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(hcm)}}},
	}}})
}

func packed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

// routes sends everything to a cluster.
func routes(name, cluster string) served {
	return encoded(translate.RDS, name, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{
		Name: "all", Domains: []string{"*"},
		Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
		}},
	}}})
}

func layer(name string, value float64) served {
	s, err := structpb.NewStruct(map[string]any{"value": value})
	if err != nil {
		panic(err)
	}
	return encoded(translate.RTDS, name, &runtimev3.Runtime{Name: name, Layer: s})
}

// barriers is how many barriers a peer has, each a layer that is in every snapshot.
const barriers = 48

func barrierName(i int) string { return fmt.Sprint("barrier/", i) }

var barrierLayers = sync.OnceValue(func() []served {
	var out []served
	for i := range barriers {
		out = append(out, layer(barrierName(i), float64(i)))
	}
	return out
})

// snapshotOf is a snapshot of the resources, and of the layers that barriers are made of.
func snapshotOf(resources ...served) *snapshot.Snapshot {
	return snapshot.New(append(resources, barrierLayers()...)...)
}

// service is a cluster and its load assignment, both of a revision from 1.
func service(name string, revision int) []served {
	return []served{cluster(name, revision), assignment(name, revision)}
}

// shop is a listener, routes to the first of the services, and the services.
func shop(services ...string) []served {
	out := []served{listener("web", "web"), routes("web", services[0])}
	for _, name := range services {
		out = append(out, service(name, 1)...)
	}
	return out
}
