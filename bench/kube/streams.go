package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// swarm is a number of delta streams that take clusters and endpoints as an Envoy does, and the changes
// that they are yet to be told of.
type swarm struct {
	connections []*grpc.ClientConn
	stop        context.CancelFunc
	done        sync.WaitGroup

	mu sync.Mutex
	// has is by stream and cluster the addresses that it was told last.
	has       []map[string]map[string]bool
	expected  map[string]map[string]bool // by cluster, as the API server has it
	changes   map[string][]*change       // by cluster, those that are not everywhere yet
	responses int                        // with endpoints, of all streams
	resources int
	failed    error
}

// change is an endpoint that went or came.
type change struct {
	address string
	gone    bool
	at      time.Time
	waiting map[int]bool // streams
	took    time.Duration
	all     chan struct{} // closed when the last stream has it
}

func openStreams(ctx context.Context, at string, streams int, c *cluster) (*swarm, error) {
	ctx, stop := context.WithCancel(ctx)
	s := &swarm{stop: stop, expected: map[string]map[string]bool{}, changes: map[string][]*change{}}
	var names []string
	for i := range c.services {
		names = append(names, clusterName(i))
		s.expected[clusterName(i)] = map[string]bool{}
		for j := range c.endpoints {
			if j != c.absent[i] {
				s.expected[clusterName(i)][address(i, j)] = true
			}
		}
	}
	for i := range streams {
		s.has = append(s.has, map[string]map[string]bool{})
		conn, err := grpc.NewClient(at, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			s.close()
			return nil, err
		}
		s.connections = append(s.connections, conn)
		s.done.Go(func() {
			if err := s.talk(ctx, conn, i, names); ctx.Err() == nil {
				s.fail(err)
			}
		})
	}
	for !s.converged() {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return s, nil
}

func (s *swarm) close() {
	s.stop()
	s.done.Wait()
	for _, c := range s.connections {
		c.Close()
	}
}

func (s *swarm) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = errors.Join(s.failed, err)
}

// talk takes what comes until the stream ends.
func (s *swarm) talk(ctx context.Context, conn *grpc.ClientConn, stream int, names []string) error {
	str, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	node := &corev3.Node{Id: fmt.Sprint("stream-", stream), Cluster: fleet}
	if err := str.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: resource.ClusterType}); err != nil {
		return err
	}
	if err := str.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNamesSubscribe: names}); err != nil {
		return err
	}
	for {
		response, err := str.Recv()
		if err != nil {
			return err
		}
		now := time.Now()
		if response.GetTypeUrl() == resource.EndpointType {
			if err := s.take(stream, response, now); err != nil {
				return err
			}
		}
		if err := str.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: response.GetTypeUrl(), ResponseNonce: response.GetNonce()}); err != nil {
			return err
		}
	}
}

func (s *swarm) take(stream int, response *discoveryv3.DeltaDiscoveryResponse, now time.Time) error {
	told := map[string]map[string]bool{}
	for _, r := range response.GetResources() {
		assignment := &endpointv3.ClusterLoadAssignment{}
		if err := r.GetResource().UnmarshalTo(assignment); err != nil {
			return err
		}
		addresses := map[string]bool{}
		for _, l := range assignment.GetEndpoints() {
			for _, e := range l.GetLbEndpoints() {
				addresses[e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress()] = true
			}
		}
		told[r.GetName()] = addresses
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.responses++
	s.resources += len(told)
	for name, addresses := range told {
		s.has[stream][name] = addresses
		for _, c := range s.changes[name] {
			s.reached(c, stream, addresses, now)
		}
	}
	return nil
}

// reached notes that a stream has a change, if it has.
func (s *swarm) reached(c *change, stream int, addresses map[string]bool, now time.Time) {
	if !c.waiting[stream] || addresses[c.address] == c.gone {
		return
	}
	delete(c.waiting, stream)
	c.took = max(c.took, now.Sub(c.at))
	if len(c.waiting) == 0 {
		close(c.all)
	}
}

// changed takes what the API server has of a cluster since now.
func (s *swarm) changed(name string, present map[string]bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, addresses := range []map[string]bool{s.expected[name], present} {
		for a := range addresses {
			if s.expected[name][a] == present[a] {
				continue
			}
			for _, undone := range s.changes[name] {
				if undone.address == a {
					undone.waiting = nil // what a stream shows from now on is another change
				}
			}
			c := &change{address: a, gone: !present[a], at: now, waiting: map[int]bool{}, all: make(chan struct{})}
			for i := range s.has {
				c.waiting[i] = true
			}
			for i := range s.has {
				s.reached(c, i, s.has[i][name], now)
			}
			s.changes[name] = append(s.changes[name], c)
		}
	}
	s.expected[name] = present
}

// converged tells whether every stream has exactly the endpoints that the API server has.
func (s *swarm) converged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, has := range s.has {
		for name, want := range s.expected {
			if len(has[name]) != len(want) {
				return false
			}
			for a := range want {
				if !has[name][a] {
					return false
				}
			}
		}
	}
	return true
}

// takeChanges are the changes since the last call.
func (s *swarm) takeChanges() (all []*change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, changes := range s.changes {
		all = append(all, changes...)
		delete(s.changes, name)
	}
	return all
}

// counts are the responses with endpoints that all streams got, and the assignments in them.
func (s *swarm) counts() (responses, resources int, failed error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.responses, s.resources, s.failed
}
