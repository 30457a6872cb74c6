package xds

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds/session"
)

// Registry knows the connected nodes: what each was sent, acknowledged and refused. A node is
// forgotten when its stream ends; refusals stay, the last 256 of them.
//
// Its methods are safe for concurrent use. Streams never wait for a reader: a reader copies the list
// of streams and holds one of them at a time, for as long as it takes to compare versions.
type Registry struct {
	cache       *snapshot.Cache
	forGRPC     *snapshot.Cache // the same fleets for gRPC clients
	opts        Options
	metrics     metrics
	sessions    map[string]*session.Options // by protocol
	selections  snapshot.Selections
	changes     chan struct{}
	nacks       nackRing
	refusals    refusals
	votes       votes
	convergence *convergence

	mu      sync.Mutex
	streams map[*adsStream]struct{}
	nodes   map[nodeKey]int // how many streams each has that said who it is
}

type nodeKey struct {
	id, fleet string
	grpc      bool
}

func newRegistry(cache *snapshot.Cache, opts Options) *Registry {
	r := &Registry{
		cache:    cache,
		opts:     opts,
		metrics:  newMetrics(opts.Metrics),
		sessions: map[string]*session.Options{},
		changes:  make(chan struct{}, 1),
		streams:  map[*adsStream]struct{}{},
		nodes:    map[nodeKey]int{},
	}
	for _, protocol := range []string{delta, sotw} {
		r.sessions[protocol] = &session.Options{
			Protocol: session.Protocol(protocol), Identifier: opts.Identifier,
			MaxTypes: maxTypes, MaxNames: opts.MaxNames,
			Wait: opts.Wait, Retry: opts.Retry, MaxRetry: maxRetry, Select: r.selections.Of,
		}
	}
	r.forGRPC = cache.ForGRPC(func(err error) {
		opts.Log.Error("a resource is not valid for gRPC clients; they are served the one before, if there was one", "error", err)
	})
	r.convergence = &convergence{
		registry: r, acked: make(chan struct{}, 1), seconds: r.metrics.convergence, pending: map[string]*change{},
	}
	return r
}

// Changed has a value when nodes came, went, acknowledged or refused something since the last was
// taken. It is for one reader, and holds one value: what happens meanwhile is one change.
func (r *Registry) Changed() <-chan struct{} { return r.changes }

func (r *Registry) changed() {
	r.convergence.wake()
	select {
	case r.changes <- struct{}{}:
	default:
	}
}

// Proxies are the nodes that are connected and have said who they are, by fleet, name and age. A node
// with two streams is there twice.
//
// A type is SYNCED when the node has acknowledged all that it asked for of what the cache serves its
// fleet now, or had it from before; TypeState.Version is then the version of the fleet's snapshot.
func (r *Registry) Proxies() []Proxy {
	exists := map[string]bool{}
	var proxies []Proxy
	for _, s := range r.list() {
		fleet := s.fleet()
		if _, seen := exists[fleet]; !seen {
			exists[fleet] = r.opts.HasFleet(fleet)
		}
		if p, ok := s.proxy(exists[fleet]); ok {
			proxies = append(proxies, p)
		}
	}
	slices.SortFunc(proxies, func(a, b Proxy) int {
		return cmp.Or(cmp.Compare(a.Fleet, b.Fleet), cmp.Compare(a.Node, b.Node), a.ConnectedAt.Compare(b.ConnectedAt))
	})
	return proxies
}

// Nacks are the last refusals, newest first. A node that refuses the same again counts up its entry.
func (r *Registry) Nacks() []Nack {
	nacks := r.nacks.newestFirst()
	for i, n := range nacks {
		nacks[i] = r.now(n)
	}
	return nacks
}

// Workers is how many workers pick endpoints in the connected nodes of a fleet; an Envoy that does not
// say counts for 4, a gRPC client for 1. Each worker of an Envoy keeps a schedule of its own, which a push
// of weights restarts.
func (r *Registry) Workers(fleet string) int {
	workers := 0
	for _, s := range r.list() {
		if f, ok := s.identity(); ok && f.fleet == fleet {
			workers += cmp.Or(f.workers, f.assumedWorkers())
		}
	}
	return workers
}

// Connected says whether a node of that id has a stream in that fleet.
func (r *Registry) Connected(id, fleet string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[nodeKey{id, fleet, false}]+r.nodes[nodeKey{id, fleet, true}] > 0
}

// Subscribers are the nodes, id and fleet, that subscribe to the load assignment of that name, one for
// each stream. Whether they are served it is not asked.
func (r *Registry) Subscribers(assignment string) iter.Seq2[string, string] {
	return func(yield func(id, fleet string) bool) {
		for _, s := range r.list() {
			if f, ok := s.subscriber(translate.EDS, assignment); ok && !yield(f.id, f.fleet) {
				return
			}
		}
	}
}

func (r *Registry) open(protocol string, wire grpc.ServerStream, end func(error)) *adsStream {
	s := &adsStream{
		registry: r, protocol: protocol, connectedAt: time.Now(), wire: wire, end: end,
		session: session.New(r.sessions[protocol]),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams[s] = struct{}{}
	return s
}

func (r *Registry) close(s *adsStream) {
	s.close()
	f, ok := s.identity()
	r.mu.Lock()
	delete(r.streams, s)
	if node := (nodeKey{f.id, f.fleet, f.grpc()}); ok {
		if r.nodes[node]--; r.nodes[node] == 0 {
			delete(r.nodes, node)
		}
	}
	r.mu.Unlock()
	if ok {
		r.opts.Log.Info("proxy disconnected", "node", f.id, "fleet", f.fleet)
		r.changed()
	}
}

// identified admits a stream whose node has said who it is.
func (r *Registry) identified(f facts) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	node := nodeKey{f.id, f.fleet, f.grpc()}
	most := r.opts.MaxNodeStreams
	if node.grpc {
		most *= grpcStreams
	}
	if n := r.nodes[node]; n >= most {
		return fmt.Errorf("node %q of cluster %q: %d streams, expected no more; do several nodes share the id?", f.id, f.fleet, n)
	}
	r.nodes[node]++
	return nil
}

func (r *Registry) list() []*adsStream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.streams))
}

func (s *adsStream) identity() (facts, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts, s.identified
}

// subscriber is the stream's node if it subscribes to the resource of that type and name.
func (s *adsStream) subscriber(t translate.Type, name string) (facts, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts, s.identified && s.session.Wants(t, name)
}

func (s *adsStream) fleet() string {
	f, _ := s.identity()
	return f.fleet
}
