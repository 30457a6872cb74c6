package rls

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// logTimeout is how long the leases of a message of access logs may take. Nobody waits.
	logTimeout = time.Second
	// maxFailures in a row open the circuit: calls then fail at once, but for one in each circuitTime.
	maxFailures = 8
	circuitTime = 250 * time.Millisecond
	// maxRedisKey is the longest text of a key's values in Redis; longer ones are hashed.
	maxRedisKey = 200
)

//go:embed redis_count.lua
var countScript string

//go:embed redis_logged.lua
var loggedScript string

//go:embed redis_proxy.lua
var proxyScript string

// redisStore counts in a Redis, for all replicas that ask it. A request is one script there, and so one round trip,
// whatever number of limits it has: the clock is Redis's, and no two replicas use the same room. Keys are
//
//	evenkeel:<fleet>:<rule>:<values>           the state of a rate of one key
//	evenkeel:<fleet>:<rule>:<values>:leases    the set of leases of one key
//	evenkeel:<fleet>:held:<id>                 in which sets a request has leases
//	evenkeel:<fleet>:gone:<id>                 that it is over
//	evenkeel:<fleet>:proxy:<node>              the set of leases of one Envoy, as far as it is known who has them
//	evenkeel:<fleet>:at:<node>                 at which servers it has streams of access logs
//
// all of which expire when they say nothing any more, and none of which has a version. A Redis that is to be bounded
// has maxmemory-policy volatile-ttl, which forgets what is over soonest, as the store in memory does.
type redisStore struct {
	client   *redis.Client
	fixed    bool
	trips    trips
	loggedIn *redis.Script
	proxyIn  *redis.Script
	server   string // this one's name in Redis
	circuit  circuit
	timeout  time.Duration // of a call

	ended   *[endReasons]atomic.Uint64
	rebuilt *atomic.Uint64
}

// What go-redis logs by itself, a line for each connection that fails, the circuit says once.
func init() { redis.SetLogger(quiet{}) }

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// newRedisStore does not ask Redis for anything yet: one that is not there is one that fails.
func newRedisStore(opts Options, l *leases, log *slog.Logger) (*redisStore, error) {
	timeout := opts.Timeout * 3 / 4
	o, err := redis.ParseURL(opts.Redis)
	if err != nil {
		return nil, fmt.Errorf("expected the URL of a Redis, such as redis://redis.infra:6379/0 or rediss://user:password@host:port/0: %w", withoutURL(err))
	}
	o.MaxRetries = -1 // onError is the better answer
	o.ContextTimeoutEnabled = true
	o.DialTimeout, o.DialerRetries = time.Second, 1
	o.PoolTimeout = timeout
	o.MinIdleConns = 4 // made beside the calls, which have no time to wait for a connection
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := redis.NewClient(o)
	s := &redisStore{
		client: client, fixed: opts.FixedWindows, loggedIn: redis.NewScript(loggedScript), proxyIn: redis.NewScript(proxyScript),
		server:  rand.Text(),
		trips:   trips{client: client, script: redis.NewScript(countScript), time: timeout},
		circuit: circuit{log: log}, timeout: timeout, ended: &l.ended, rebuilt: &l.rebuilt,
	}
	s.trips.report = func(err error) { s.circuit.report(err, time.Now()) }
	return s, nil
}

// withoutURL is an error without the URL, which may hold a password.
func withoutURL(err error) error {
	if bad := new(url.Error); errors.As(err, &bad) {
		return bad.Err
	}
	return err
}

func (s *redisStore) close() { _ = s.client.Close() }

func (s *redisStore) count(ctx context.Context, hits []hit, _ int64, take bool) (over bool, err error) {
	var keys []string
	kinds := make([]byte, 0, len(hits))
	args := []any{flag(take), nil}
	by := holderOf(ctx)
	for i := range hits {
		h := &hits[i]
		if h.bound.unlimited {
			h.answer.Admitted = true
			continue
		}
		c := h.variant.counters
		var kind byte
		switch {
		case h.variant.lease && h.negative:
			kind = 'l'
			keys = append(keys, leasesKey(c, h.entries), heldKey(c.domain, h.lease), goneKey(c.domain, h.lease), proxyKey(by))
			args = append(args, h.lease, -1, tombstoneTime.Milliseconds())
		case h.variant.lease:
			kind = 'l'
			keys = append(keys, leasesKey(c, h.entries), heldKey(c.domain, h.lease), goneKey(c.domain, h.lease), proxyKey(by))
			args = append(args, h.lease, h.bound.concurrency, leaseTime.Milliseconds())
		case s.fixed:
			kind = 'w'
			most, per := h.bound.rate.Window()
			keys = append(keys, rateKey(c, h.entries))
			args = append(args, signed(h.n, h.negative), most, int64(per/time.Second))
		default:
			kind = 'g'
			interval, burst := h.bound.rate.Interval().Nanoseconds(), h.bound.rate.Burst()
			step := min(h.n, burst+1) * interval // more is refused as that is
			keys = append(keys, rateKey(c, h.entries))
			args = append(args, signed(step, h.negative), interval, burst*interval)
		}
		if h.counts() {
			kind -= 'a' - 'A'
		}
		kinds = append(kinds, kind)
	}
	asked := len(kinds)
	if asked == 0 {
		return false, nil
	}
	args[1] = kinds
	answers, err := s.ask(ctx, keys, args)
	if err != nil {
		return false, err
	}
	if len(answers) != 3*asked {
		return false, status.Errorf(codes.Internal, "Redis: %d answers: expected %d", len(answers), 3*asked)
	}
	for i := range hits {
		h := &hits[i]
		if h.bound.unlimited {
			continue
		}
		h.answer.Admitted, h.answer.Remaining, h.answer.Reset = answers[0] == 1, answers[1], time.Duration(answers[2])*time.Microsecond
		answers = answers[3:]
		over = over || h.refused() && h.counts()
	}
	for i := range hits {
		h := &hits[i]
		h.held = take && !over && h.variant.lease && !h.negative && !h.bound.unlimited && h.answer.Admitted
	}
	return over, nil
}

// ask runs the script, unless the circuit is open.
func (s *redisStore) ask(ctx context.Context, keys []string, args []any) ([]int64, error) {
	if !s.circuit.allow(time.Now()) {
		return nil, status.Error(codes.Unavailable, "Redis does not answer; it is tried again")
	}
	waiting, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	answers, err := s.trips.ask(waiting, keys, args)
	if err != nil && ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err() // the caller's doing, perhaps
	}
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "Redis: %v", err)
	}
	return answers, nil
}

func (s *redisStore) logs(ctx context.Context, fleet string, entries []logEntry, by *holder, _ int64) {
	if !s.circuit.allow(time.Now()) {
		return // leases that nobody ends expire
	}
	waiting, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	load := func() ([]redis.Cmder, error) {
		return s.client.Pipelined(waiting, func(p redis.Pipeliner) error {
			for _, e := range entries {
				keys := []string{heldKey(fleet, e.request), goneKey(fleet, e.request), proxyKey(by)}
				for _, t := range e.told {
					keys = append(keys, leasesKey(t.counters, t.entries))
				}
				ttl := leaseTime
				if e.over {
					ttl = tombstoneTime
				}
				s.loggedIn.EvalSha(waiting, p, keys, flag(e.over), e.request, ttl.Milliseconds())
			}
			return nil
		})
	}
	done, err := load()
	if redis.HasErrorPrefix(err, noScript) { // nothing of it has run
		if err = s.loggedIn.Load(waiting, s.client).Err(); err == nil {
			done, err = load()
		}
	}
	if ctx.Err() == nil { // else the stream has ended, which says nothing of Redis
		s.circuit.report(err, time.Now())
	}
	for i, d := range done {
		n, err := d.(*redis.Cmd).Int64()
		if err != nil {
			continue
		}
		if entries[i].over {
			s.ended[endLogged].Add(uint64(n))
		} else {
			s.rebuilt.Add(uint64(n))
		}
	}
}

// maxReleased is how many leases end by one run of a script, which keeps other calls waiting.
const maxReleased = 500

func (s *redisStore) proxies(ctx context.Context, w whereabouts) {
	if len(w.here)+len(w.left)+len(w.lost) == 0 {
		return
	}
	waiting, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	say := func(what string, name proxyName) (released, ended int64) {
		answer, err := s.proxyIn.Run(waiting, s.client, []string{atKey(name), leasesOf(name)}, what, s.server,
			leaseTime.Milliseconds(), heldKey(name.fleet, ""), maxReleased).Int64Slice()
		if err != nil || len(answer) != 2 {
			return 0, 0 // what is not told is not believed for long, and leases that nobody ends expire
		}
		return answer[0], answer[1]
	}
	for _, name := range w.here {
		say("here", name)
	}
	for _, name := range w.left {
		say("left", name)
	}
	for _, name := range w.lost {
		for released := int64(maxReleased); released == maxReleased; {
			var ended int64
			released, ended = say("lost", name)
			s.ended[endDisconnected].Add(uint64(ended))
		}
	}
}

// held is how many leases there are of a key.
func (s *redisStore) held(ctx context.Context, c *counters, entries []*ratelimitv3.RateLimitDescriptor_Entry) (int64, error) {
	waiting, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	return s.client.ZCard(waiting, leasesKey(c, entries)).Result()
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func signed(n int64, negative bool) int64 {
	if negative {
		return -n
	}
	return n
}

// rateKey names the state of a rate.
func rateKey(c *counters, entries []*ratelimitv3.RateLimitDescriptor_Entry) string {
	var b strings.Builder
	for i, e := range entries {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(e.GetKey()))
		b.WriteByte('=')
		b.WriteString(url.QueryEscape(e.GetValue()))
	}
	values := b.String()
	if len(values) > maxRedisKey {
		sum := sha256.Sum256([]byte(values))
		values = "sha256=" + hex.EncodeToString(sum[:])
	}
	return "evenkeel:" + c.domain + ":" + c.id + ":" + values
}

// leasesKey names a set of leases. Values have no colon.
func leasesKey(c *counters, entries []*ratelimitv3.RateLimitDescriptor_Entry) string {
	return rateKey(c, entries) + ":leases"
}

// proxyKey names the set of leases of a holder; "" if it is not known which proxy that is.
func proxyKey(by *holder) string {
	if name, ok := by.name(); ok {
		return leasesOf(name)
	}
	return ""
}

func leasesOf(p proxyName) string { return "evenkeel:" + p.fleet + ":proxy:" + url.QueryEscape(p.node) }
func atKey(p proxyName) string    { return "evenkeel:" + p.fleet + ":at:" + url.QueryEscape(p.node) }

func heldKey(fleet, id string) string { return "evenkeel:" + fleet + ":held:" + id }
func goneKey(fleet, id string) string { return "evenkeel:" + fleet + ":gone:" + id }

// circuit keeps calls from waiting for what does not answer.
type circuit struct {
	log      *slog.Logger
	failures atomic.Int64
	// until is when the next call may try, ns since 1970; 0 while all may.
	until atomic.Int64
}

// allow says whether a call may be made. While the circuit is open one in each circuitTime may.
func (c *circuit) allow(now time.Time) bool {
	until := c.until.Load()
	if until == 0 {
		return true
	}
	return now.UnixNano() >= until && c.until.CompareAndSwap(until, now.Add(circuitTime).UnixNano())
}

// report tells how a call went.
func (c *circuit) report(err error, now time.Time) {
	if err == nil {
		c.failures.Store(0)
		if c.until.Swap(0) != 0 {
			c.log.Info("Redis answers again: limits are counted")
		}
		return
	}
	if c.failures.Add(1) < maxFailures {
		return
	}
	if c.until.Swap(now.Add(circuitTime).UnixNano()) == 0 {
		c.log.Error("Redis does not answer: requests are allowed or denied as each policy's onError says", "error", err)
	}
}
