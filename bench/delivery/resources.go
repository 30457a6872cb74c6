package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Shape is how much there is to deliver: EDS clusters and the endpoints of each.
type Shape struct {
	Clusters, Endpoints int
}

// name is one cluster's, and its load assignment's.
func (s Shape) name(cluster int) string { return fmt.Sprintf("shop/service-%04d:80", cluster) }

func (s Shape) names() []string {
	out := make([]string, s.Clusters)
	for i := range out {
		out[i] = s.name(i)
	}
	return out
}

// spread are count clusters, evenly spread over all.
func (s Shape) spread(count int) []int {
	out := make([]int, count)
	for i := range out {
		out[i] = i * s.Clusters / count
	}
	return out
}

func (s Shape) cluster(i int) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 s.name(i),
		ConnectTimeout:       durationpb.New(time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{ServiceName: s.name(i), EdsConfig: &corev3.ConfigSource{
			ResourceApiVersion: corev3.ApiVersion_V3, InitialFetchTimeout: durationpb.New(2 * time.Second),
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		}},
	}
}

func (s Shape) clusters() []*clusterv3.Cluster {
	out := make([]*clusterv3.Cluster, s.Clusters)
	for i := range out {
		out[i] = s.cluster(i)
	}
	return out
}

// assignment is the load assignment of a cluster as of a tick: each tick gives its endpoints other weights.
// The weight of its only locality tells the tick (tickOf reads it), so that a client sees without decoding
// whether it has what it waits for.
func (s Shape) assignment(cluster, tick int) *endpointv3.ClusterLoadAssignment {
	random := rand.New(rand.NewPCG(uint64(cluster), uint64(tick)))
	endpoints := make([]*endpointv3.LbEndpoint, s.Endpoints)
	for i := range endpoints {
		number := cluster*s.Endpoints + i
		endpoints[i] = &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
				Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address:       fmt.Sprintf("10.%d.%d.%d", number>>16&0xff, number>>8&0xff, number&0xff),
					PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 8080},
				}},
			}}},
			HealthStatus:        corev3.HealthStatus_HEALTHY,
			LoadBalancingWeight: wrapperspb.UInt32(1 + random.Uint32N(1000)),
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.lb": {Fields: map[string]*structpb.Value{
				"version": structpb.NewStringValue(fmt.Sprintf("v%d", i%3)),
				"pod":     structpb.NewStringValue(fmt.Sprintf("service-%04d-%05d", cluster, i)),
			}}}},
		}
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: s.name(cluster), Endpoints: []*endpointv3.LocalityLbEndpoints{{
		Locality: &corev3.Locality{Region: "north", Zone: "a"}, LbEndpoints: endpoints,
		LoadBalancingWeight: wrapperspb.UInt32(uint32(tick) + 1),
	}}}
}

func (s Shape) assignments(clusters []int, tick int) []*endpointv3.ClusterLoadAssignment {
	out := make([]*endpointv3.ClusterLoadAssignment, len(clusters))
	for i, cluster := range clusters {
		out[i] = s.assignment(cluster, tick)
	}
	return out
}
