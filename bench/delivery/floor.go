package main

import (
	"maps"
	"net"
	"slices"
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// floorQueue is how many responses wait for a stream of the floor; one that takes no more loses them.
const floorQueue = 16

// floor is the least that a server over grpc-go can do. It answers the first request of each type with
// everything, reads of later ones that they are not the first, and sends each change to all streams.
type floor struct {
	mu      sync.Mutex // guards what follows
	bodies  map[string]*discoveryv3.Resource
	initial map[string]encoded // the response with everything, by type
	streams map[chan encoded]bool
}

func newFloor() *floor { return &floor{streams: map[chan encoded]bool{}} }

func (f *floor) start(lis net.Listener, creds credentials.TransportCredentials) {
	serveRaw(lis, creds, f.handle)
}

// serveRaw serves all methods with one handler of encoded messages.
func serveRaw(lis net.Listener, creds credentials.TransportCredentials, handle func(grpc.ServerStream) error) {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.UnknownServiceHandler(func(_ any, str grpc.ServerStream) error { return handle(str) }),
	}
	if creds != nil {
		options = append(options, grpc.Creds(creds))
	}
	go exitOnError(func() error { return grpc.NewServer(options...).Serve(lis) })
}

func (f *floor) set(clusters []*clusterv3.Cluster, assignments []*endpointv3.ClusterLoadAssignment) error {
	named := map[string]proto.Message{}
	for _, c := range clusters {
		named[c.GetName()] = c
	}
	cds, err := bodiesOf(named)
	if err != nil {
		return err
	}
	eds, err := bodiesOf(assignmentsByName(assignments))
	if err != nil {
		return err
	}
	all, err := responseOf(clusterType, cds)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bodies, f.initial = eds, map[string]encoded{clusterType: all}
	return nil
}

func (f *floor) prepare(changed []*endpointv3.ClusterLoadAssignment) (func() error, error) {
	bodies, err := bodiesOf(assignmentsByName(changed))
	if err != nil {
		return nil, err
	}
	response, err := responseOf(endpointType, bodies)
	if err != nil {
		return nil, err
	}
	return func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		maps.Copy(f.bodies, bodies)
		delete(f.initial, endpointType)
		for queue := range f.streams {
			select {
			case queue <- response:
			default:
			}
		}
		return nil
	}, nil
}

// everything is the response to the first request of a type, made when it is first asked for; nil if the
// type is not served.
func (f *floor) everything(typeURL string) (encoded, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if typeURL != endpointType || f.initial[typeURL] != nil {
		return f.initial[typeURL], nil
	}
	all, err := responseOf(endpointType, f.bodies)
	f.initial[endpointType] = all
	return all, err
}

func (f *floor) handle(str grpc.ServerStream) error {
	queue := make(chan encoded, floorQueue)
	done := make(chan struct{})
	defer close(done)
	defer func() {
		f.mu.Lock()
		delete(f.streams, queue)
		f.mu.Unlock()
	}()
	go func() {
		for {
			select {
			case response := <-queue:
				if str.SendMsg(response) != nil {
					return // the reader ends too, and tells why
				}
			case <-done:
				return
			}
		}
	}()
	answered := map[string]bool{}
	for {
		var typeURL string
		err := str.RecvMsg(reading(func(request []byte) error {
			value, err := field(request, requestType)
			typeURL = string(value)
			return err
		}))
		if err != nil {
			return nil
		}
		if answered[typeURL] {
			continue
		}
		answered[typeURL] = true
		response, err := f.everything(typeURL)
		if err != nil {
			return err
		}
		if response != nil {
			queue <- response
		}
		if typeURL == endpointType {
			f.mu.Lock()
			f.streams[queue] = true
			f.mu.Unlock()
		}
	}
}

func assignmentsByName(assignments []*endpointv3.ClusterLoadAssignment) map[string]proto.Message {
	out := map[string]proto.Message{}
	for _, a := range assignments {
		out[a.GetClusterName()] = a
	}
	return out
}

func bodiesOf(messages map[string]proto.Message) (map[string]*discoveryv3.Resource, error) {
	out := make(map[string]*discoveryv3.Resource, len(messages))
	for name, m := range messages {
		packed, err := anypb.New(m)
		if err != nil {
			return nil, err
		}
		out[name] = &discoveryv3.Resource{Name: name, Version: "1", Resource: packed}
	}
	return out, nil
}

// responseOf encodes a delta response, with the one nonce that the floor has.
func responseOf(typeURL string, bodies map[string]*discoveryv3.Resource) (encoded, error) {
	response := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: "1"}
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		response.Resources = append(response.Resources, bodies[name])
	}
	return proto.Marshal(response)
}

// bare has streams and nothing else. It answers a request with an empty message, so that a stream has what
// grpc-go keeps of one that was written to.
type bare struct{}

func newBare() bare { return bare{} }

func (bare) start(lis net.Listener, creds credentials.TransportCredentials) {
	serveRaw(lis, creds, func(str grpc.ServerStream) error {
		for {
			if err := str.RecvMsg(reading(func([]byte) error { return nil })); err != nil {
				return nil
			}
			if err := str.SendMsg(encoded(nil)); err != nil {
				return err
			}
		}
	})
}

func (bare) set([]*clusterv3.Cluster, []*endpointv3.ClusterLoadAssignment) error { return nil }

func (bare) prepare([]*endpointv3.ClusterLoadAssignment) (func() error, error) {
	return func() error { return nil }, nil
}
