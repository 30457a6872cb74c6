package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// Behaviour is how a client treats what it is sent.
type Behaviour string

// The behaviours. The first is an Envoy's; the others are wrong in one way each.
const (
	acking   Behaviour = "acks"
	nacking  Behaviour = "refuses everything"
	unacking Behaviour = "never acknowledges"
	deaf     Behaviour = "never reads"
)

const (
	// opening bounds the clients that are between their connect and their first full state.
	opening = 32
	// window is the HTTP/2 window of clients that read; those that never do have grpc-go's 64 KiB.
	window     = 16 << 20
	maxMessage = 64 << 20
)

// Swarming are the calls that a client process answers: it is many delta ADS clients at once. The calls
// come one after the other.
type Swarming struct {
	ctx         context.Context
	cancel      context.CancelFunc
	running     sync.WaitGroup
	connections []*grpc.ClientConn
	streams     int
	versions    map[string]map[string]string // of the first stream, by type and name

	goal                   atomic.Pointer[goal]
	responses, bodies, end atomic.Int64
	failed                 chan error // holds the first error of a client that is not meant to have any
}

// Open opens streams, more than once if need be.
type Open struct {
	Address       string
	Certificates  *Certificates
	Streams       int
	PerConnection int
	Shape         Shape
	NodeBytes     int
	Behaviour     Behaviour
	// Resume has the clients tell the versions that the first stream had when the swarm was closed.
	Resume bool
	Limit  time.Duration
}

// goal is what all streams wait for: that many load assignments of a tick.
type goal struct {
	tick, names     int
	received, acked []atomic.Int64 // when, as Unix nanoseconds, by stream
	left            atomic.Int64
	reached         chan struct{}
}

func newGoal(tick, names, streams int) *goal {
	g := &goal{tick: tick, names: names, reached: make(chan struct{})}
	g.received, g.acked = make([]atomic.Int64, streams), make([]atomic.Int64, streams)
	g.left.Store(int64(streams))
	return g
}

// Open returns when clients that acknowledge have everything (unless they resume, and have it already), and
// others have sent their requests.
func (s *Swarming) Open(how Open, _ *struct{}) error {
	if s.ctx == nil {
		s.ctx, s.cancel = context.WithCancel(context.Background())
		s.failed = make(chan error, 1)
	}
	versions := map[string]map[string]string(nil)
	if how.Resume {
		versions = s.versions
	}
	r, err := newRequests(how.Shape.names(), versions, how.NodeBytes)
	if err != nil {
		return err
	}
	s.versions = map[string]map[string]string{clusterType: {}, endpointType: {}}
	if how.Resume {
		s.versions = versions
	}
	creds := insecure.NewCredentials()
	if how.Certificates != nil {
		if creds, err = how.Certificates.client(); err != nil {
			return err
		}
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds), grpc.WithReadBufferSize(8 << 10),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(maxMessage)),
	}
	if how.Behaviour != deaf {
		options = append(options, grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window))
	}
	g := newGoal(0, how.Shape.Clusters, how.Streams)
	s.goal.Store(g)
	limit, cancel := context.WithTimeoutCause(s.ctx, how.Limit, fmt.Errorf("not within %s", how.Limit))
	defer cancel()
	slots := make(chan struct{}, opening)
	var conn *grpc.ClientConn
	for i := range how.Streams {
		if i%how.PerConnection == 0 {
			if conn, err = grpc.NewClient(how.Address, options...); err != nil {
				return err
			}
			s.connections = append(s.connections, conn)
		}
		select {
		case slots <- struct{}{}:
		case err := <-s.failed:
			return err
		case <-limit.Done():
			return fmt.Errorf("%d of %d clients have everything: %w", int64(how.Streams)-g.left.Load(), how.Streams, context.Cause(limit))
		}
		c := &client{swarm: s, requests: r, index: i, behaviour: how.Behaviour, resumes: how.Resume}
		c.opened = sync.OnceFunc(func() { <-slots })
		s.streams++
		own := conn // the next client may come before this one runs
		s.running.Go(func() { c.live(own) })
	}
	if how.Behaviour != acking || how.Resume {
		for range opening { // all have opened
			select {
			case slots <- struct{}{}:
			case <-limit.Done():
				return context.Cause(limit)
			}
		}
		return nil
	}
	return s.wait(limit, g)
}

func (s *Swarming) wait(ctx context.Context, g *goal) error {
	select {
	case <-g.reached:
		return nil
	case err := <-s.failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%d of %d clients have everything: %w", int64(len(g.received))-g.left.Load(), len(g.received), context.Cause(ctx))
	}
}

// Goal is what the streams are to wait for.
type Goal struct {
	Tick, Names int
	Limit       time.Duration
}

// Expect comes before the push, Await after it.
func (s *Swarming) Expect(what Goal, _ *struct{}) error {
	s.goal.Store(newGoal(what.Tick, what.Names, s.streams))
	return nil
}

// Reached tells when each stream had received it all, and when the last had acknowledged it.
type Reached struct {
	Received  []time.Time
	LastAcked time.Time
}

// Await returns when all streams have what Expect said.
func (s *Swarming) Await(limit time.Duration, r *Reached) error {
	ctx, cancel := context.WithTimeoutCause(s.ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	g := s.goal.Load()
	if err := s.wait(ctx, g); err != nil {
		return err
	}
	for i := range g.received {
		r.Received = append(r.Received, time.Unix(0, g.received[i].Load()))
		if at := time.Unix(0, g.acked[i].Load()); at.After(r.LastAcked) {
			r.LastAcked = at
		}
	}
	return nil
}

// Counts are totals over all streams.
type Counts struct {
	Responses, Bodies int64 // bodies are resources in responses
	Ended             int64 // streams that the server ended
	Connections       int   // that are open
}

// Count tells the totals so far.
func (s *Swarming) Count(_ struct{}, c *Counts) error {
	*c = Counts{Responses: s.responses.Load(), Bodies: s.bodies.Load(), Ended: s.end.Load()}
	for _, conn := range s.connections {
		if conn.GetState() == connectivity.Ready {
			c.Connections++
		}
	}
	return nil
}

// Close ends all streams and forgets them, but for the versions of the first.
func (s *Swarming) Close(struct{}, *struct{}) error {
	if s.ctx == nil {
		return nil
	}
	s.cancel()
	for _, c := range s.connections {
		c.Close()
	}
	s.running.Wait()
	s.ctx, s.connections, s.streams = nil, nil, 0
	return nil
}

// client is one stream.
type client struct {
	swarm     *Swarming
	requests  *requests
	index     int
	behaviour Behaviour
	resumes   bool
	opened    func()

	subscribed bool
	goal       *goal
	got        int // of the goal
}

func (c *client) live(conn *grpc.ClientConn) {
	defer c.opened()
	s := c.swarm
	err := c.talk(s.ctx, conn)
	if s.ctx.Err() != nil {
		return
	}
	s.end.Add(1)
	if c.behaviour == acking {
		select {
		case s.failed <- fmt.Errorf("client %d: %w", c.index, err):
		default:
		}
	}
}

func (c *client) talk(ctx context.Context, conn *grpc.ClientConn) error {
	str, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, deltaMethod, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := str.SendMsg(c.requests.first("envoy-" + strconv.Itoa(c.index))); err != nil {
		return err
	}
	// An Envoy learns from its clusters what to ask for. Who has them already asks at once.
	if c.resumes || c.behaviour == deaf {
		c.subscribed = true
		if err := str.SendMsg(c.requests.subscribe()); err != nil {
			return err
		}
	}
	if c.behaviour != acking || c.resumes {
		c.opened()
	}
	if c.behaviour == deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		if err := c.exchange(str); err != nil {
			return err
		}
	}
}

// exchange receives a response and answers it.
func (c *client) exchange(str grpc.ClientStream) error {
	var typeURL, nonce string
	complete := false
	err := str.RecvMsg(reading(func(message []byte) error {
		c.swarm.responses.Add(1)
		var err error
		typeURL, nonce, err = readResponse(message, func(typeURL string, resource []byte) error {
			done, err := c.take(typeURL, resource)
			complete = complete || done
			return err
		})
		return err
	}))
	if err != nil {
		return err
	}
	received := time.Now()
	if typeURL == clusterType && !c.subscribed {
		c.subscribed = true
		if err := str.SendMsg(c.requests.subscribe()); err != nil {
			return err
		}
	}
	switch c.behaviour {
	case acking:
		err = str.SendMsg(c.requests.ack(typeURL, nonce))
	case nacking:
		err = str.SendMsg(c.requests.nack(typeURL, nonce))
	}
	if complete && err == nil {
		c.opened()
		g := c.goal
		g.received[c.index].Store(received.UnixNano())
		g.acked[c.index].Store(time.Now().UnixNano())
		if g.left.Add(-1) == 0 {
			close(g.reached)
		}
	}
	return err
}

// take counts a resource, and tells whether it was the last of the goal.
func (c *client) take(typeURL string, resource []byte) (complete bool, err error) {
	s := c.swarm
	s.bodies.Add(1)
	if c.index == 0 && c.behaviour == acking {
		name, err := field(resource, bodyName)
		if err != nil {
			return false, err
		}
		version, err := field(resource, bodyVersion)
		if err != nil {
			return false, err
		}
		if s.versions[typeURL] == nil {
			return false, errors.New("a response of type " + typeURL + ", which was not asked for")
		}
		s.versions[typeURL][string(name)] = string(version)
	}
	if typeURL != endpointType || c.behaviour != acking {
		return false, nil
	}
	tick, err := tickOf(resource)
	if err != nil {
		return false, err
	}
	g := s.goal.Load()
	if c.goal != g {
		c.goal, c.got = g, 0
	}
	if tick != g.tick || c.got == g.names {
		return false, nil
	}
	c.got++
	return c.got == g.names, nil
}
