package xds

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/xds/session"
)

// Registry knows the connected nodes: what each was sent, acknowledged and refused. A node is
// forgotten when its stream ends; refusals stay, the last 256 of them.
//
// Its methods are safe for concurrent use. Streams never wait for a reader: a reader copies the list
// of streams and holds one of them at a time, for as long as it takes to compare versions.
type Registry struct {
	cache        *snapshot.Cache
	opts         Options
	metrics      metrics
	controlPlane []byte // encoded
	selections   snapshot.Selections
	changes      chan struct{}
	nacks        nackRing
	convergence  *convergence

	mu      sync.Mutex
	streams map[*adsStream]struct{}
}

func newRegistry(cache *snapshot.Cache, opts Options) *Registry {
	r := &Registry{
		cache:   cache,
		opts:    opts,
		metrics: newMetrics(opts.Metrics),
		changes: make(chan struct{}, 1),
		streams: map[*adsStream]struct{}{},
	}
	r.controlPlane, _ = proto.Marshal(&corev3.ControlPlane{Identifier: opts.Identifier}) // a string: cannot fail
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
func (r *Registry) Nacks() []Nack { return r.nacks.newestFirst() }

// Workers is how many workers pick endpoints in the connected nodes of a fleet; a node that does not
// say counts for 4. Each worker keeps a schedule of its own, which a push of weights restarts.
func (r *Registry) Workers(fleet string) int {
	workers := 0
	for _, s := range r.list() {
		if f, ok := s.identity(); ok && f.fleet == fleet {
			workers += cmp.Or(f.workers, assumedWorkers)
		}
	}
	return workers
}

func (r *Registry) open(protocol string, wire grpc.ServerStream, end context.CancelCauseFunc) *adsStream {
	s := &adsStream{registry: r, protocol: protocol, connectedAt: time.Now(), wire: wire, end: end}
	s.session = session.New(session.Options{
		Protocol: session.Protocol(protocol), ControlPlane: r.controlPlane,
		MaxTypes: maxTypes, MaxNames: r.opts.MaxNames,
		Wait: r.opts.Wait, Retry: r.opts.Retry, MaxRetry: maxRetry, Select: r.selections.Of,
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams[s] = struct{}{}
	return s
}

func (r *Registry) close(s *adsStream) {
	s.close()
	r.mu.Lock()
	delete(r.streams, s)
	r.mu.Unlock()
	if f, ok := s.identity(); ok {
		r.opts.Log.Info("proxy disconnected", "node", f.id, "fleet", f.fleet)
		r.changed()
	}
}

// identified admits a stream whose node has said who it is; the stream is locked.
func (r *Registry) identified(*adsStream) error { return nil }

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

func (s *adsStream) fleet() string {
	f, _ := s.identity()
	return f.fleet
}
