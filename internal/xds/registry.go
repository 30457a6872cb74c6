package xds

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
)

// maxStrangers bounds the fleets that do not exist and were asked for: the cache remembers a name
// for as long as the process lives.
const maxStrangers = 1024

// Registry knows the connected nodes: what each was sent, acknowledged and refused. A node is
// forgotten when its stream ends; refusals stay, the last 256 of them.
//
// Its methods are safe for concurrent use. Streams never wait for a reader: a reader copies the list
// of streams and holds one of them at a time, for as long as it takes to compare versions.
type Registry struct {
	cache        cachev3.SnapshotCache
	opts         Options
	metrics      metrics
	controlPlane *corev3.ControlPlane
	changes      chan struct{}
	nacks        nackRing
	convergence  *convergence

	mu        sync.Mutex
	streams   map[*adsStream]struct{}
	nodes     map[nodeKey]int // how many streams each has that said who it is
	strangers map[string]struct{}
}

type nodeKey struct{ id, fleet string }

func newRegistry(cache cachev3.SnapshotCache, opts Options) *Registry {
	r := &Registry{
		cache:        cache,
		opts:         opts,
		metrics:      newMetrics(opts.Metrics),
		controlPlane: &corev3.ControlPlane{Identifier: opts.Identifier},
		changes:      make(chan struct{}, 1),
		streams:      map[*adsStream]struct{}{},
		nodes:        map[nodeKey]int{},
		strangers:    map[string]struct{}{},
	}
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
	served := map[string]snapshotVersions{}
	var proxies []Proxy
	for _, s := range r.list() {
		fleet := s.fleet()
		if _, seen := exists[fleet]; !seen {
			exists[fleet] = r.opts.HasFleet(fleet)
			if snapshot, err := r.cache.GetSnapshot(fleet); err == nil {
				served[fleet] = snapshot
			}
		}
		if p, ok := s.proxy(exists[fleet], served[fleet]); ok {
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

// Connected says whether a node of that id has a stream in that fleet.
func (r *Registry) Connected(id, fleet string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[nodeKey{id, fleet}] > 0
}

// Subscribers are the nodes, id and fleet, that subscribe to the load assignment of that name, one for
// each stream. Whether they are served it is not asked.
func (r *Registry) Subscribers(assignment string) iter.Seq2[string, string] {
	return func(yield func(id, fleet string) bool) {
		for _, s := range r.list() {
			if f, ok := s.subscriber(resource.EndpointType, assignment); ok && !yield(f.id, f.fleet) {
				return
			}
		}
	}
}

// snapshotVersions is what the registry reads of a cache's snapshot. The versions by name must have
// been made before the snapshot was set: GetVersionMap only reads.
type snapshotVersions interface {
	GetVersion(typeURL string) string
	GetVersionMap(typeURL string) map[string]string
}

func (r *Registry) open(protocol string) *adsStream {
	s := &adsStream{registry: r, protocol: protocol, connectedAt: time.Now(), types: map[string]*subscription{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams[s] = struct{}{}
	return s
}

func (r *Registry) close(s *adsStream) {
	f, ok := s.identity()
	r.mu.Lock()
	delete(r.streams, s)
	if node := (nodeKey{f.id, f.fleet}); ok {
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

// identified notes whose stream it is.
func (r *Registry) identified(f facts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[nodeKey{f.id, f.fleet}]++
}

func (r *Registry) list() []*adsStream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.streams))
}

// admits reports whether there is room to remember a fleet's name.
func (r *Registry) admits(fleet string) bool {
	exists := r.opts.HasFleet(fleet)
	r.mu.Lock()
	defer r.mu.Unlock()
	if exists {
		delete(r.strangers, fleet)
		return true
	}
	if _, known := r.strangers[fleet]; !known && len(r.strangers) >= maxStrangers {
		return false
	}
	r.strangers[fleet] = struct{}{}
	return true
}

func (s *adsStream) identity() (facts, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts, s.identified
}

// subscriber is the stream's node if it subscribes to the resource of that type and name.
func (s *adsStream) subscriber(url, name string) (facts, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.types[url]
	if !s.identified || sub == nil {
		return facts{}, false
	}
	if s.protocol == sotw {
		return s.facts, slices.Contains(sub.requested, name)
	}
	return s.facts, sub.wants(name)
}

func (s *adsStream) fleet() string {
	f, _ := s.identity()
	return f.fleet
}

// answer is what delta and SotW requests have in common where they answer a response.
type answer interface {
	GetTypeUrl() string
	GetResponseNonce() string
	GetErrorDetail() *statuspb.Status
}

// nacked records a refusal of r; the stream is locked.
func (s *adsStream) nacked(sub *subscription, r response, req answer) {
	sub.counts.nacked++
	reg := s.registry
	n := Nack{
		At: time.Now(), Node: s.facts.id, Fleet: s.facts.fleet, Type: sub.kind, Nonce: r.nonce, Version: r.version,
		Message: plain(req.GetErrorDetail().GetMessage(), maxNackMessage),
		Instead: instead(typeLabel(sub.kind), sub.acked),
	}
	n.Resource = reg.suspect(n, req.GetTypeUrl(), r)
	if n.Resource != "" {
		n.Source, _ = reg.opts.Lookup(n.Fleet, n.Type, n.Resource)
	}
	n = reg.nacks.add(n)
	s.lastNack = &n

	fleet := n.Fleet
	if !reg.opts.HasFleet(fleet) {
		fleet = "unknown"
	}
	reg.metrics.nacks.WithLabelValues(fleet, typeLabel(n.Type)).Inc()
	if n.Count == 1 {
		reg.opts.Log.Warn("proxy refused a response", "node", n.Node, "fleet", n.Fleet, "type", typeLabel(n.Type),
			"version", n.Version, "resource", n.Resource, "source", n.Source, "message", n.Message)
	}
	reg.changed()
}

// suspect finds the resource behind a refusal among those the response carried; where that is not
// known, on SotW or when a refusal is repeated, among those that the fleet is served.
func (r *Registry) suspect(n Nack, url string, refused response) string {
	carried := refused.versions
	if carried == nil {
		if snapshot, err := r.cache.GetSnapshot(n.Fleet); err == nil {
			carried = snapshot.GetVersionMap(url)
		}
	}
	only := ""
	if len(carried) == 1 {
		for name := range carried {
			only = name
		}
	}
	return suspect(n.Message, func(name string) bool { _, ok := carried[name]; return ok }, only)
}
