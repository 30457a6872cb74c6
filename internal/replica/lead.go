package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // followers ask for it
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/xds"
)

// follower is a stream of a follower. Replica.mu guards it.
type follower struct {
	self    Peer
	pending pending
	wake    chan struct{} // holds at most one
	ended   chan error    // holds at most one: why the stream is to end
	proxies map[string]xds.Proxy
	fleets  map[string]load
	nacks   []xds.Nack
}

func errNotLeading(role Role) error {
	return status.Errorf(codes.FailedPrecondition, "this replica does not lead; it follows %s", role.Leader)
}

// Tell hands a Told to all followers, without waiting for them.
func (r *Replica) Tell(t *Told) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.followers {
		f.pending.add(t)
		f.poke()
	}
}

// Accept has all followers take what is held of a Service, or of all (""); by is who says so. It does not wait for
// them, and names those that cannot be told.
func (r *Replica) Accept(by, service string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var busy []string
	for f := range r.followers {
		if !f.pending.accept(service, by) {
			r.metrics.untold.Inc()
			busy = append(busy, f.self.Name)
		}
		f.poke()
	}
	if len(busy) > 0 {
		slices.Sort(busy)
		return fmt.Errorf("%s cannot be told: %d such actions wait there", strings.Join(busy, ", "), maxAccepts)
	}
	return nil
}

// Followers is how many there are to be told.
func (r *Replica) Followers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.followers)
}

func (f *follower) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// lead serves a follower's stream.
func (r *Replica) lead(s grpc.ServerStream) error {
	if err := r.authorize(s.Context()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	var hello up
	if unread, err := r.take(s, &hello, &hello.Version); err != nil {
		return err
	} else if unread != nil {
		return status.Errorf(codes.FailedPrecondition, "the first message is not understood: %v", unread)
	}
	f := &follower{self: hello.Self, wake: make(chan struct{}, 1), ended: make(chan error, 1), proxies: map[string]xds.Proxy{}}
	if err := r.enlist(f); err != nil {
		return err
	}
	defer r.strike(f)
	r.opts.Log.Info("a replica follows", "replica", f.self)
	r.heed(f, hello)
	go func() { // ends with the stream
		defer cancel()
		r.listen(s, f)
	}()
	r.send(ctx, Event{Joined: true})
	count := time.NewTicker(reportEvery)
	defer count.Stop()
	var told down
	for {
		select {
		case <-count.C:
			if err := r.tellAround(s, &told); err != nil {
				return err
			}
		case <-f.wake:
			if err := r.tell(s, f); err != nil {
				return err
			}
		case err := <-f.ended:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// authorize says whether the caller is a replica.
func (r *Replica) authorize(ctx context.Context) error {
	switch {
	case r.opts.Authorize != nil:
		return r.opts.Authorize(ctx)
	case r.opts.Plaintext:
		return nil
	}
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.Addr.(*net.TCPAddr); ok && a.IP.IsLoopback() {
			return nil
		}
	}
	return status.Error(codes.PermissionDenied, "expected a replica of the control plane: in plaintext, one on loopback")
}

// enlist takes a follower in. One that comes back before its old stream is known to be dead replaces it.
func (r *Replica) enlist(f *follower) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.role.Leads {
		return errNotLeading(r.role)
	}
	for old := range r.followers {
		if old.self == f.self {
			old.end(status.Error(codes.Aborted, "the replica has come again"))
			delete(r.followers, old)
		}
	}
	if len(r.followers) >= maxFollowers {
		return status.Errorf(codes.ResourceExhausted, "%d replicas follow: expected no more", maxFollowers)
	}
	r.followers[f] = struct{}{}
	return nil
}

func (f *follower) end(why error) {
	select {
	case f.ended <- why:
	default:
	}
}

func (r *Replica) strike(f *follower) {
	r.mu.Lock()
	_, last := r.followers[f] // it has not come again
	delete(r.followers, f)
	r.mu.Unlock()
	if last {
		r.opts.Loads.ForgetReplica(f.self.Name)
		r.opts.Refusals().ForgetVotes(f.self.Name)
	}
	r.opts.Log.Info("a replica does not follow any more", "replica", f.self)
}

// dismiss ends the streams of all followers.
func (r *Replica) dismiss(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.followers {
		f.end(why)
		delete(r.followers, f)
	}
}

// tell sends a follower what is pending.
func (r *Replica) tell(s grpc.ServerStream, f *follower) error {
	for {
		r.mu.Lock()
		services, message, more := f.pending.next()
		r.mu.Unlock()
		if !more {
			return nil
		}
		message.Version = protocol
		message.Services = make(map[string]json.RawMessage, len(services))
		for name, service := range services {
			raw, err := service.encoded()
			if err != nil { // a number that JSON does not have: the follower keeps what it has
				r.opts.Log.Error("a state cannot be told", "service", name, "error", err)
				continue
			}
			message.Services[name] = raw
		}
		if err := r.put(s, message); err != nil {
			return err
		}
	}
}

// tellAround tells a follower what is new since told of proxies everywhere and of what they refuse.
func (r *Replica) tellAround(s grpc.ServerStream, told *down) error {
	now := down{Version: protocol, Nodes: r.everywhere(), Cases: r.opts.Refusals().Cases(), Verdicts: r.opts.Refusals().Verdicts()}
	news := now
	if maps.Equal(now.Nodes, told.Nodes) {
		news.Nodes = nil
	}
	if slices.Equal(now.Cases, told.Cases) {
		news.Cases = nil
	}
	if reflect.DeepEqual(now.Verdicts, told.Verdicts) {
		news.Verdicts = nil
	}
	*told = now
	if news.Nodes == nil && news.Cases == nil && news.Verdicts == nil {
		return nil
	}
	return r.put(s, news)
}

// listen takes what a follower says until its stream ends.
func (r *Replica) listen(s grpc.ServerStream, f *follower) {
	said := false
	for {
		var message up
		unread, err := r.take(s, &message, &message.Version)
		switch {
		case err != nil:
			return
		case unread == nil:
			r.heed(f, message)
		case !said:
			said = true
			r.opts.Log.Warn("a replica says something that is not understood and is left aside", "replica", f.self, "error", unread)
		}
	}
}

// heed takes in what a follower said: its proxies first, for of these its votes are.
func (r *Replica) heed(f *follower, message up) {
	r.heedProxies(f, message)
	if message.Votes != nil {
		r.opts.Refusals().HearVotes(f.self.Name, message.Votes)
	}
	if len(message.Loads) > 0 {
		r.opts.Loads.MergeSummaries(f.self.Name, message.Loads)
	}
}

func (r *Replica) heedProxies(f *follower, message up) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range message.Gone {
		delete(f.proxies, key)
	}
	for key, p := range message.Proxies {
		if _, known := f.proxies[key]; known || len(f.proxies) < maxProxies {
			p.Replica = f.self.Name
			f.proxies[key] = p
		}
	}
	f.fleets = loads(f.proxies)
	if message.Nacks != nil {
		f.nacks = newest(message.Nacks)
	}
}
