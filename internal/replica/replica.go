// Package replica joins several processes into one control plane: a Lease says which of them leads, and one
// stream from each of the others to the leader carries the rest.
//
//	      Lease (Kubernetes)
//	     /                  \
//	leader ◀── proxies, loads ── follower ──▶ its Envoys
//	     └──── machine states ────▶
//
// The leader computes weights; all serve. Down the stream goes what a follower needs to serve the leader's
// bytes and to take over from its numbers: the state of every Service's weight machine, at once when weights
// are published and now and then in between. Up goes which proxies a follower serves, how far they are, and what
// they report of the load.
// Objects do not travel: every replica watches them itself.
//
// A replica keeps what it heard last when the leader is gone, and one that leads goes on leading until it
// sees another in the Lease: while the API server is away nobody can take over, and weights still move. Two
// leaders, for the moment that this takes, serve different weights to their own Envoys, and nothing else.
//
// What is done with a state is not its business (pipeline), nor who may call (auth).
package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/weights"
	"evenkeel.io/controlplane/internal/xds"
)

// Patience is how long a replica that starts waits for a leader to tell it the weights, before it builds
// from what it has itself, and before it may lead where somebody led before.
const Patience = 5 * time.Second

// Peer is a replica.
type Peer struct {
	// Name is unique among the replicas: the Pod's.
	Name string
	// Address is the host:port of its xDS port, for the other replicas.
	Address string
	// RateLimits is the IP:port of its rate limit service, for Envoys; "" where it has none or it is not known.
	RateLimits string
}

// String is "name (address)".
func (p Peer) String() string {
	switch {
	case p == Peer{}:
		return "nobody yet"
	case p.Address == "":
		return p.Name
	}
	return p.Name + " (" + p.Address + ")"
}

// Role says who computes the weights.
type Role struct {
	// Leads: this replica does. Leader is who does; zero while nobody is known to.
	Leads  bool
	Leader Peer
}

// MayAct says who has to be asked for an operator's action, if not this replica: what it did alone, others would
// not serve.
func (r Role) MayAct() error {
	switch {
	case r.Leads:
		return nil
	case r.Leader == Peer{}:
		return errors.New("actions are the leader's, and no replica is known to lead: try again in some seconds, and see /readyz")
	}
	return fmt.Errorf("actions are the leader's, and this replica follows %s: ask the admin port of %s; in a cluster with kubectl exec %s -- controlplane",
		r.Leader, r.Leader.Name, r.Leader.Name)
}

// Event is one thing that the pipeline is to know. One of its fields is set.
type Event struct {
	Role *Role
	// Told is what the leader told this follower.
	Told *Told
	// Joined: a follower has come that knows nothing, and everything is to be told.
	Joined bool
}

// Told is what a leader tells. It is immutable.
type Told struct {
	// Services are the new states of weight machines, by Service name.
	Services map[string]*Service
	// Gone are services that the leader has no more.
	Gone []string
	// Generations are the newest of fleets.
	Generations map[string]Generation
	// Pins are fleets that are pinned to another, each as package lastgood encodes it; empty: it is not pinned.
	Pins map[string][]byte
	// RateLimits are where Envoys are to ask the rate limit service, and Factors what limits are multiplied with,
	// by fleet and rule; nil: as before.
	RateLimits []string
	Factors    map[string]map[string]adapt.Factor
	// Frozen says that services to come are frozen too; nil: as before.
	Frozen *bool
	// All are the names of all services that the leader has, told at the end of everything; nil in between.
	// What is not among them is not the leader's any more.
	All []string
}

// TakeFleets replaces what t tells of fleets and their limits by what is newer.
func (t *Told) TakeFleets(newer *Told) {
	if t.Generations == nil {
		t.Generations = map[string]Generation{}
	}
	if t.Pins == nil {
		t.Pins = map[string][]byte{}
	}
	if newer.RateLimits != nil {
		t.RateLimits = newer.RateLimits
	}
	if newer.Factors != nil {
		t.Factors = newer.Factors
	}
	maps.Copy(t.Generations, newer.Generations)
	maps.Copy(t.Pins, newer.Pins)
}

// Generation is the number of a fleet's newest generation, and the version of its content.
type Generation struct {
	Number  uint64 `json:"number"`
	Content string `json:"content"`
	// NoQuotas: an Envoy of the fleet, at whichever replica, takes no bounds of limits in routes.
	NoQuotas bool `json:"noQuotas,omitempty"`
}

// Service is the state of a Service's weight machine at a time.
type Service struct {
	At    time.Time            `json:"at"`
	Cause string               `json:"cause,omitempty"` // of the last publication, "" if nothing was published with it
	State weights.MachineState `json:"state"`

	encoding
}

// Options of a Replica.
type Options struct {
	// Self is this replica, as the others see it.
	Self Peer
	// Leases, Namespace and LeaseName say which Lease decides. LeaseName is "evenkeel" if empty.
	Leases    coordinationv1.LeasesGetter
	Namespace string
	LeaseName string
	// Duration is how long a Lease holds that is not renewed; 15 s if 0. It is renewed after 2/15 of that, and
	// given up after 10/15 of it without success.
	Duration time.Duration
	// Credentials for the leader's port; nil is plaintext.
	Credentials credentials.TransportCredentials
	// Authorize says whether the caller of a stream is a replica, as a status; nil takes callers on loopback,
	// and with Plaintext any.
	Authorize func(ctx context.Context) error
	Plaintext bool
	// Proxies are those connected to this replica, and Nacks their refusals.
	Proxies func() []xds.Proxy
	Nacks   func() []xds.Nack
	// Loads are the load reports that this replica was told; nil: none are told to others.
	Loads Loads
	// Accept takes what is held of a Service, or of all ("") at this replica, as an operator told the leader to;
	// nil: nothing is ever held.
	Accept func(ctx context.Context, by, service string) error
	// Refusals are judged by the leader, for all replicas; nil: by each for itself.
	Refusals func() Refusals
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// Loads are summaries of load reports, on their way to the leader. It is called from the goroutines of streams.
type Loads interface {
	// TakeSummaries are those made since the last call, the newest of each Service.
	TakeSummaries() []signals.Summary
	// Made holds a token when there are some.
	Made() <-chan struct{}
	// MergeSummaries takes in what a follower tells, ForgetReplica that it tells no more.
	MergeSummaries(replica string, summaries []signals.Summary)
	ForgetReplica(replica string)
}

// noLoads are none.
type noLoads struct{}

func (noLoads) TakeSummaries() []signals.Summary         { return nil }
func (noLoads) Made() <-chan struct{}                    { return nil }
func (noLoads) MergeSummaries(string, []signals.Summary) {}
func (noLoads) ForgetReplica(string)                     {}

// Refusals are the versions of resources that proxies refused: see package xds. They are called from the goroutines
// of streams.
type Refusals interface {
	// Of the leader.
	Cases() []xds.Case
	Verdicts() []xds.Verdict
	HearVotes(replica string, votes []xds.Vote)
	ForgetVotes(replica string)
	// Of a follower.
	Votes(asked []xds.Case) []xds.Vote
	Rule(verdicts []xds.Verdict)
}

// noRefusals are none.
type noRefusals struct{}

func (noRefusals) Cases() []xds.Case            { return nil }
func (noRefusals) Verdicts() []xds.Verdict      { return nil }
func (noRefusals) HearVotes(string, []xds.Vote) {}
func (noRefusals) ForgetVotes(string)           {}
func (noRefusals) Votes([]xds.Case) []xds.Vote  { return nil }
func (noRefusals) Rule([]xds.Verdict)           {}

// Replica is this process among the replicas. Its methods are safe for concurrent use.
type Replica struct {
	opts     Options
	metrics  *metrics
	began    time.Time
	released chan struct{} // closed when Run gave up the Lease
	events   chan Event

	mu        sync.Mutex // guards what follows
	role      Role
	heard     bool          // everything, from any leader, since the start
	hearing   bool          // the leader, now
	asked     []xds.Case    // by the leader that is heard
	changed   chan struct{} // closed and replaced when role changes
	followers map[*follower]struct{}
	nodes     map[string]int // of a follower: proxies by fleet, over all replicas, as its leader counts them
}

// New makes a Replica. Run starts it.
func New(opts Options) *Replica {
	opts.LeaseName = cmp.Or(opts.LeaseName, "evenkeel")
	opts.Duration = cmp.Or(opts.Duration, 15*time.Second)
	opts.Log = cmp.Or(opts.Log, slog.Default())
	if opts.Accept == nil {
		opts.Accept = func(context.Context, string, string) error { return nil }
	}
	if opts.Refusals == nil {
		opts.Refusals = func() Refusals { return noRefusals{} }
	}
	if opts.Loads == nil {
		opts.Loads = noLoads{}
	}
	r := &Replica{
		opts: opts, released: make(chan struct{}), events: make(chan Event), changed: make(chan struct{}),
		followers: map[*follower]struct{}{},
	}
	r.metrics = newMetrics(opts.Metrics, r)
	return r
}

// Run takes part until ctx is done, and sends events up. It returns when the Lease is given up.
func (r *Replica) Run(ctx context.Context, up chan<- Event) error {
	r.mu.Lock()
	r.began = time.Now()
	r.mu.Unlock()
	defer close(r.released)
	ctx, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	parts.Go(func() { r.pass(ctx, up) })
	parts.Go(func() { r.follow(ctx) })
	defer r.retire()
	return r.elect(ctx)
}

// retire ends what is done for others, once the Lease is given up.
func (r *Replica) retire() {
	r.mu.Lock()
	r.role = Role{}
	r.mu.Unlock()
	r.dismiss(status.Error(codes.Unavailable, "this replica is shutting down"))
}

// Released is closed when the Lease is given up and Run has nothing more to do.
func (r *Replica) Released() <-chan struct{} { return r.released }

// pass hands events on, in their order.
func (r *Replica) pass(ctx context.Context, up chan<- Event) {
	for {
		select {
		case e := <-r.events:
			select {
			case up <- e:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *Replica) send(ctx context.Context, e Event) {
	select {
	case r.events <- e:
	case <-ctx.Done():
	case <-r.released:
	}
}

// Role is who leads now.
func (r *Replica) Role() Role {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.role
}

// watch is the role, and what is closed when it is another.
func (r *Replica) watch() (Role, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.role, r.changed
}

// become takes a new role.
func (r *Replica) become(ctx context.Context, next Role) {
	r.mu.Lock()
	if r.role == next {
		r.mu.Unlock()
		return
	}
	r.role = next
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	if next.Leads {
		r.opts.Log.Info("this replica leads: it computes the weights")
	} else {
		r.opts.Log.Info("this replica follows: its weights are the leader's", "leader", next.Leader)
		r.dismiss(errNotLeading(next))
	}
	r.send(ctx, Event{Role: &next})
}

// Proxies are the proxies of all replicas, as far as this one knows them: a leader knows all. Those of others
// carry their replica's name.
func (r *Replica) Proxies() []xds.Proxy {
	all := append(r.opts.Proxies(), r.elsewhere()...)
	slices.SortFunc(all, func(a, b xds.Proxy) int {
		return cmp.Or(cmp.Compare(a.Fleet, b.Fleet), cmp.Compare(a.Node, b.Node), a.ConnectedAt.Compare(b.ConnectedAt))
	})
	return all
}

func (r *Replica) elsewhere() (proxies []xds.Proxy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.followers {
		proxies = slices.AppendSeq(proxies, maps.Values(f.proxies))
	}
	return proxies
}

// Nacks are the refusals by the proxies of all replicas, newest first.
func (r *Replica) Nacks() []xds.Nack {
	all := r.opts.Nacks()
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.followers {
		all = append(all, f.nacks...)
	}
	slices.SortStableFunc(all, func(a, b xds.Nack) int { return b.At.Compare(a.At) })
	return all
}

// RateLimits are the addresses of the rate limit services of followers.
func (r *Replica) RateLimits() (addresses []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.followers {
		if f.self.RateLimits != "" {
			addresses = append(addresses, f.self.RateLimits)
		}
	}
	return addresses
}

// WorkersElsewhere is how many workers the proxies of a fleet have that are connected to other replicas. Only a
// leader knows.
func (r *Replica) WorkersElsewhere(fleet string) (workers int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.followers {
		workers += f.fleets[fleet].workers
	}
	return workers
}

// ProxiesElsewhere is how many proxies of a fleet are connected to other replicas. A follower knows it from
// its leader, a second late; here says how many it has itself.
func (r *Replica) ProxiesElsewhere(fleet string, here int) (proxies int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.followers {
		proxies += f.fleets[fleet].proxies
	}
	if !r.role.Leads {
		return max(0, r.nodes[fleet]-here)
	}
	return proxies
}

// SubscribersElsewhere counts the nodes of these fleets that take load assignments from other replicas, by the
// name of the replica, as far as this one knows them.
func (r *Replica) SubscribersElsewhere(fleets []string) map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	subscribers := map[string]int{}
	for f := range r.followers {
		for _, fleet := range fleets {
			if n := f.fleets[fleet].subscribers; n > 0 {
				subscribers[f.self.Name] += n
			}
		}
	}
	return subscribers
}

// Judges says whether this replica finds out whose fault a refusal is: it leads, or hears nobody who does.
func (r *Replica) Judges() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.role.Leads || !r.hearing
}

// Voters names the replicas that have proxies of a fleet and are heard by this one.
func (r *Replica) Voters(fleet string) (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.followers {
		if f.fleets[fleet].proxies > 0 {
			names = append(names, f.self.Name)
		}
	}
	return names
}

// everywhere counts the proxies of all replicas by fleet.
func (r *Replica) everywhere() map[string]int {
	nodes := map[string]int{}
	for _, p := range r.opts.Proxies() {
		nodes[p.Fleet]++
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.followers {
		for fleet, of := range f.fleets {
			nodes[fleet] += of.proxies
		}
	}
	return nodes
}
