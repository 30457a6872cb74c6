// Package rls is the rate limit service in the process: Envoys ask it (envoy.service.ratelimit.v3) whether a
// request is within the limits of its fleet, and tell it by their access logs which requests are still in service.
//
//	descriptors -> domain.go  which rule, key and bound
//	            -> gcra/      what the bound and the key's state say        pure
//	            -> local.go   counts in this process: memory.go has the     \ one
//	                          states of rates by key, lease.go who is in     | of
//	                          service, for limits of concurrency             | them
//	               redis.go   counts in Redis, for all replicas             /
//	            -> service.go the answer
//	wire/                     both services on the wire
//
// # What it promises
//
// A request that any enforced limit refuses takes nothing from the others. A changed rule or factor acts on the
// next call, and no count is lost by it: counters are known by fleet, rule ID and values alone. What cannot be
// counted (an unknown rule, an empty descriptor) is allowed and counted as ignored. A panic fails one call.
// Memory is bounded whatever is sent.
//
// What a rule is and how a request is described is package rlsconfig's; which rules a fleet has, and when, the
// pipeline's; who a client is, package auth's.
package rls

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/rls/wire"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// Options of a Server. All have defaults.
type Options struct {
	// Auth lets clients in, and they may ask only for the fleets that their certificates name. Nil: plaintext,
	// and everybody may ask for everything.
	Auth *auth.Gate
	// FixedWindows counts in windows that begin at multiples of a rate's time since 1970, without a burst, as
	// other rate limit services do, in place of GCRA: twice the rate can pass where two windows meet.
	FixedWindows bool
	// Redis is the URL of a Redis that keeps the counts, for all servers that use it: redis://host:port/database,
	// or rediss:// with TLS. Empty: they are in this process. While it does not answer, calls fail.
	Redis string
	// Timeout is how long Envoys wait for an answer, 20 ms by default. Redis is given three quarters of it.
	Timeout time.Duration
	// MaxKeys bounds the keys that are kept in memory over all rules, 60 bytes each; 1,048,576 by default.
	// Half of it is shared out evenly among the rules.
	MaxKeys int
	// MaxLeases bounds the leases of limits of concurrency over all rules; 1,048,576 by default. A request
	// past it is refused.
	MaxLeases int
	// MaxStreams bounds the streams of access logs, 4096 by default.
	MaxStreams int
	// Log gets panics and refused clients; nil is slog.Default().
	Log *slog.Logger
	// Metrics registers evenkeel_rls_*; nil registers none.
	Metrics prometheus.Registerer
}

// Server is the service. Its methods are safe for concurrent use.
type Server struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	hasher  hasher
	memory  *memory
	leases  *leases
	store   store
	streams atomic.Int64
	proxies proxies

	// domains by name; what it points to is never changed, but replaced under mu.
	domains atomic.Pointer[map[string]*domain]

	mu         sync.Mutex
	configured map[string]configured
	factors    map[string]map[string]float64
	counters   map[string]map[string]*counters // by domain and rule ID
}

// configured is what Configure was called with.
type configured struct{ rules, old []*rlsconfig.Rule }

// New makes a Server without rules.
func New(opts Options) (*Server, error) {
	opts.Timeout = cmp.Or(opts.Timeout, 20*time.Millisecond)
	opts.MaxKeys = cmp.Or(opts.MaxKeys, 1<<20)
	opts.MaxLeases = cmp.Or(opts.MaxLeases, 1<<20)
	opts.MaxStreams = cmp.Or(opts.MaxStreams, 4096)
	if opts.MaxKeys < 0 || opts.MaxLeases < 0 || opts.MaxStreams < 0 {
		return nil, fmt.Errorf("rate limit service: MaxKeys %d, MaxLeases %d, MaxStreams %d: expected none below 0", opts.MaxKeys, opts.MaxLeases, opts.MaxStreams)
	}
	s := &Server{
		opts:       opts,
		log:        cmp.Or(opts.Log, slog.Default()),
		hasher:     newHasher(),
		memory:     &memory{fixed: opts.FixedWindows, most: int64(opts.MaxKeys)},
		leases:     &leases{most: int64(opts.MaxLeases)},
		configured: map[string]configured{},
		counters:   map[string]map[string]*counters{},
	}
	s.store = &local{s.hasher, s.leases}
	if opts.Redis != "" {
		var err error
		if s.store, err = newRedisStore(opts, s.leases, s.log); err != nil {
			return nil, fmt.Errorf("rate limit service: %w", err)
		}
	}
	s.metrics = newMetrics(s, opts.Metrics)
	s.domains.Store(&map[string]*domain{})
	return s, nil
}

// Configure gives a fleet its rules, in place of those that it had. old are the rules that its Envoys may still ask
// by: of another key they are counted as well; where one differs from the new rule of its ID in bounds alone,
// the tighter bound holds. No rules at all forget the fleet. Counters of IDs that remain stay as they are.
func (s *Server) Configure(name string, rules, old []*rlsconfig.Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(rules)+len(old) == 0 {
		delete(s.configured, name)
	} else {
		s.configured[name] = configured{slices.Clone(rules), slices.Clone(old)}
	}
	s.compile(name)
	s.count()
}

// SetFactors multiplies the bounds of rules, by fleet and rule ID; rules without a factor have 1. It replaces
// the factors of before. A factor is more than 0, any other is 1.
func (s *Server) SetFactors(factors map[string]map[string]float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.factors
	s.factors = make(map[string]map[string]float64, len(factors))
	for name, of := range factors {
		usable := maps.Clone(of)
		maps.DeleteFunc(usable, func(_ string, f float64) bool { return !(f > 0) })
		s.factors[name] = usable
	}
	for name := range s.configured {
		if !maps.Equal(before[name], s.factors[name]) {
			s.compile(name)
		}
	}
}

// compile makes a domain anew and puts it in place. It is called with mu.
func (s *Server) compile(name string) {
	domains := maps.Clone(*s.domains.Load())
	had, kept := s.counters[name], map[string]*counters{}
	of := func(id string) *counters {
		if kept[id] == nil {
			if kept[id] = had[id]; kept[id] == nil {
				kept[id] = &counters{domain: name, id: id, table: table{memory: s.memory}}
			}
		}
		return kept[id]
	}
	if c, ok := s.configured[name]; ok {
		domains[name] = newDomain(name, c.rules, c.old, s.factors[name], of)
		s.counters[name] = kept
	} else {
		delete(domains, name)
		delete(s.counters, name)
	}
	s.domains.Store(&domains)
}

// count shares out the room for keys. It is called with mu.
func (s *Server) count() {
	var tables []*table
	for _, of := range s.counters {
		for _, c := range of {
			tables = append(tables, &c.table)
		}
	}
	s.memory.count(tables)
}

// domain is nil for a fleet that has no rules.
func (s *Server) domain(name string) *domain { return (*s.domains.Load())[name] }

// Run forgets what is over, until ctx is done.
func (s *Server) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.sweep(ctx, i, time.Now().UnixNano())
	}
}

// sweepEvery is in how many ticks all keys are looked at once.
const sweepEvery = 8

// sayEvery is in how many ticks the store is told of all proxies anew, a third of what it believes it.
const sayEvery = 10

// sweep forgets keys that are over, a part of them at each tick, and ends leases that are.
func (s *Server) sweep(ctx context.Context, tick int, now int64) {
	for i := range shards {
		s.leases.sweep(i, now)
	}
	s.store.proxies(ctx, s.proxies.sweep(now, tick%sayEvery == 0))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.counters {
		for _, c := range of {
			for i := tick % sweepEvery; i < shards; i += sweepEvery {
				c.table.sweep(i, now)
			}
		}
	}
	s.count()
}

const (
	// maxRequest is the longest request: a few descriptors of headers, which Envoy bounds to 60 KB.
	maxRequest = 1 << 20
	// maxCalls is per connection; an Envoy gives a call up after 20 ms, and has a connection per worker.
	maxCalls = 10_000
	// drainTime is how long calls may take to end when the server stops.
	drainTime = 100 * time.Millisecond
)

// Serve serves on a listener, which it closes, until ctx is done; then it takes no new calls and returns nil when
// those there are have ended, or nobody can wait for them any more. It is called once.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	options := wire.Options{
		Unary:      map[string]*wire.Unary{rlsv3.RateLimitService_ShouldRateLimit_FullMethodName: {Answer: s.answerCall, Waits: s.opts.Redis != ""}},
		Upload:     map[string]wire.Upload{alsv3.AccessLogService_StreamAccessLogs_FullMethodName: s.takeLogs},
		MaxCalls:   maxCalls,
		MaxMessage: maxRequest,
		Refused:    s.metrics.errors.WithLabelValues("calls").Inc,
		Panicked:   func(p any) { _ = s.panicked("connection", p) },
	}
	if s.opts.Auth != nil {
		options.Credentials, options.Admit = s.opts.Auth.Credentials(), s.opts.Auth.Admit
	}
	server := wire.New(options)

	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wait sync.WaitGroup
	wait.Go(func() { s.Run(running) })
	defer func() {
		stop()
		wait.Wait()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		s.store.proxies(ctx, s.proxies.sweep(time.Now().UnixNano(), false))
		s.store.close()
	}()

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener{lis}) }()
	select {
	case err := <-failed:
		server.Stop(0)
		return err
	case <-ctx.Done():
	}
	_ = lis.Close()
	<-failed
	server.Stop(drainTime) // streams of access logs do not end by themselves
	return nil
}

// answerCall is ShouldRateLimit as it is on the wire.
func (s *Server) answerCall(ctx context.Context, message, to []byte) ([]byte, error) {
	var req rlsv3.RateLimitRequest
	if err := proto.Unmarshal(message, &req); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "request: expected a RateLimitRequest: %v", err)
	}
	answer, err := s.ShouldRateLimit(ctx, &req)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(to, answer)
}

// takeLogs is StreamAccessLogs as it is on the wire.
func (s *Server) takeLogs(ctx context.Context, receive func() ([]byte, error)) ([]byte, error) {
	return nil, s.streamAccessLogs(ctx, func() (*alsv3.StreamAccessLogsMessage, error) {
		message, err := receive()
		if err != nil {
			return nil, err
		}
		logs := &alsv3.StreamAccessLogsMessage{}
		if err := proto.Unmarshal(message, logs); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "access log: expected a StreamAccessLogsMessage: %v", err)
		}
		return logs, nil
	})
}
