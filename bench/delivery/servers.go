package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	deltav3 "github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// server is a way to deliver. Its methods are called one after the other.
type server interface {
	// start serves on a listener until the process ends. creds may be nil.
	start(lis net.Listener, creds credentials.TransportCredentials)
	// set serves these resources and no others.
	set(clusters []*clusterv3.Cluster, assignments []*endpointv3.ClusterLoadAssignment) error
	// prepare does what is done once with changed load assignments before they can be delivered (to
	// validate and encode them, where the server takes them encoded), and returns what delivers them.
	prepare(changed []*endpointv3.ClusterLoadAssignment) (deliver func() error, err error)
}

// kind is one of the servers under comparison.
type kind struct {
	name, what string
	make       func() server
}

var kinds = []kind{
	{"ours", "this control plane, wired as `controlplane serve` wires it", func() server { return newOurs() }},
	{"stock", "go-control-plane's server over its SnapshotCache", func() server { return newStock() }},
	{"linear", "go-control-plane's server over a LinearCache for each type", func() server { return newLinear() }},
	{"floor", "each response encoded once, its bytes written to every stream: no state, no decision", func() server { return newFloor() }},
	{"bare", "a grpc-go server whose streams are idle after an empty answer: what a stream costs by itself", func() server { return newBare() }},
}

func kindName(k kind) string { return k.name }

func serverOf(name string) (server, error) {
	for _, k := range kinds {
		if k.name == name {
			return k.make(), nil
		}
	}
	return nil, fmt.Errorf("server %q: there is none of that name", name)
}

// ours is the product's cache and server.
type ours struct {
	cache    *snapshot.Cache
	server   *xds.Server
	snapshot *snapshot.Snapshot
	gate     *auth.Gate // nil: plaintext
}

func newOurs() *ours {
	return &ours{cache: snapshot.NewCache(xds.FleetHash{})}
}

func (o *ours) start(lis net.Listener, _ credentials.TransportCredentials) {
	o.server = xds.NewServer(o.cache, xds.Options{
		Identifier: "benchmark", Auth: o.gate, MaxIdentityStreams: 10_000, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	go exitOnError(func() error { return o.server.Serve(context.Background(), lis) })
}

func (o *ours) set(clusters []*clusterv3.Cluster, assignments []*endpointv3.ClusterLoadAssignment) error {
	var resources []*snapshot.Resource
	for _, c := range clusters {
		r, err := encode(translate.CDS, c.GetName(), c)
		if err != nil {
			return err
		}
		resources = append(resources, r)
	}
	endpoints, err := encodeAssignments(assignments)
	if err != nil {
		return err
	}
	o.snapshot = snapshot.New(append(resources, endpoints...)...)
	return o.serve()
}

func (o *ours) prepare(changed []*endpointv3.ClusterLoadAssignment) (func() error, error) {
	resources, err := encodeAssignments(changed)
	if err != nil {
		return nil, err
	}
	return func() error { return o.patch(resources) }, nil
}

// patch delivers changed load assignments.
func (o *ours) patch(changed []*snapshot.Resource) error {
	o.cache.PatchEndpoints(changed...)
	return nil
}

func (o *ours) serve() error {
	if err := o.cache.SetSnapshot(context.Background(), fleet, o.snapshot); err != nil {
		return err
	}
	if o.server != nil {
		o.server.Registry().Serving(fleet, time.Now())
	}
	return nil
}

func encode(t translate.Type, name string, message proto.Message) (*snapshot.Resource, error) {
	return snapshot.Encode(translate.Resource{Type: t, Name: name, Message: message, Source: "Benchmark " + name})
}

func encodeAssignments(assignments []*endpointv3.ClusterLoadAssignment) ([]*snapshot.Resource, error) {
	out := make([]*snapshot.Resource, len(assignments))
	for i, a := range assignments {
		var err error
		if out[i], err = encode(translate.EDS, a.GetClusterName(), a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// serveStock serves any cache of go-control-plane with its own server.
func serveStock(cache cachev3.Cache, lis net.Listener, creds credentials.TransportCredentials) {
	var options []grpc.ServerOption
	if creds != nil {
		options = append(options, grpc.Creds(creds))
	}
	s := grpc.NewServer(options...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, stockService{server: deltav3.NewServer(context.Background(), cache, nil)})
	go exitOnError(func() error { return s.Serve(lis) })
}

type stockService struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	server deltav3.Server
}

func (s stockService) DeltaAggregatedResources(str discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.server.DeltaStreamHandler(str, resource.AnyType)
}

// stock builds a new snapshot of everything for every change, as its users do.
type stock struct {
	cache     cachev3.SnapshotCache
	clusters  []types.Resource
	endpoints []types.Resource
	at        map[string]int // index in endpoints, by name
	version   int
}

func newStock() *stock { return &stock{cache: cachev3.NewSnapshotCache(false, xds.FleetHash{}, nil)} }

func (s *stock) start(lis net.Listener, creds credentials.TransportCredentials) {
	serveStock(s.cache, lis, creds)
}

func (s *stock) set(clusters []*clusterv3.Cluster, assignments []*endpointv3.ClusterLoadAssignment) error {
	s.clusters, s.endpoints, s.at = nil, nil, map[string]int{}
	for _, c := range clusters {
		s.clusters = append(s.clusters, c)
	}
	for i, a := range assignments {
		s.endpoints = append(s.endpoints, a)
		s.at[a.GetClusterName()] = i
	}
	return s.serve()
}

func (s *stock) prepare(changed []*endpointv3.ClusterLoadAssignment) (func() error, error) {
	return func() error {
		for _, a := range changed {
			s.endpoints[s.at[a.GetClusterName()]] = a
		}
		return s.serve()
	}, nil
}

func (s *stock) serve() error {
	s.version++
	next, err := cachev3.NewSnapshot(strconv.Itoa(s.version), map[resource.Type][]types.Resource{
		resource.ClusterType: s.clusters, resource.EndpointType: s.endpoints,
	})
	if err != nil {
		return err
	}
	return s.cache.SetSnapshot(context.Background(), fleet, next)
}

// linear has a LinearCache for each type, joined by a MuxCache.
type linear struct {
	clusters, endpoints *cachev3.LinearCache
}

func newLinear() *linear {
	return &linear{clusters: cachev3.NewLinearCache(resource.ClusterType), endpoints: cachev3.NewLinearCache(resource.EndpointType)}
}

func (l *linear) start(lis net.Listener, creds credentials.TransportCredentials) {
	serveStock(&cachev3.MuxCache{
		Classify:      func(r *cachev3.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cachev3.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        map[string]cachev3.Cache{resource.ClusterType: l.clusters, resource.EndpointType: l.endpoints},
	}, lis, creds)
}

func (l *linear) set(clusters []*clusterv3.Cluster, assignments []*endpointv3.ClusterLoadAssignment) error {
	named := map[string]types.Resource{}
	for _, c := range clusters {
		named[c.GetName()] = c
	}
	return errors.Join(l.endpoints.SetResources(byName(assignments)), l.clusters.SetResources(named))
}

func (l *linear) prepare(changed []*endpointv3.ClusterLoadAssignment) (func() error, error) {
	return func() error { return l.endpoints.UpdateResources(byName(changed), nil) }, nil
}

func byName(assignments []*endpointv3.ClusterLoadAssignment) map[string]types.Resource {
	out := make(map[string]types.Resource, len(assignments))
	for _, a := range assignments {
		out[a.GetClusterName()] = a
	}
	return out
}
