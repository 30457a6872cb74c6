package rls

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// redisServer is a real one.
type redisServer struct {
	*demo.Process
	t      testing.TB
	binary string
	port   uint16
	client *redis.Client
}

func startRedis(t testing.TB) *redisServer {
	t.Helper()
	binary, err := demo.FindTool("redis-server")
	if err != nil {
		t.Skip("no redis-server: run hack/tools.sh redis")
	}
	r := &redisServer{t: t, binary: binary}
	if r.port, err = demo.FreePort(0, netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	r.client = redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", r.port)})
	t.Cleanup(func() { r.client.Close(); r.Kill(); <-r.Done() })
	r.start()
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	var err error
	if r.Process, err = demo.StartProcess("redis", r.t.TempDir(), nil, r.binary, "--port", fmt.Sprint(r.port), "--bind", "127.0.0.1", "--save", ""); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); r.client.Ping(context.Background()).Err() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal("Redis does not start")
		}
	}
}

func (r *redisServer) url() string { return fmt.Sprintf("redis://127.0.0.1:%d/0", r.port) }

// members is how many there are of a set.
func (r *redisServer) members(t *testing.T, name string) int {
	t.Helper()
	n, err := r.client.ZCard(t.Context(), name).Result()
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// over makes a Server of ours with rules, whose calls have time: the machine may be busier than a fleet's.
func (r *redisServer) over(t *testing.T, o Options, rules ...*rlsconfig.Rule) *rig {
	t.Helper()
	o.Redis, o.Timeout = r.url(), cmp.Or(o.Timeout, patience)
	s := newRigWith(t, o, rules...)
	t.Cleanup(s.store.close)
	return s
}

// daily is a rate in so long a time that what a test takes earns nothing back.
func daily(l *v1alpha1.Limit) { l.Rate.Per.Duration = 24 * time.Hour }

// TestRedisDecidesAsMemoryDoes asks two servers the same: what is decided, what remains and what is said are equal.
func TestRedisDecidesAsMemoryDoes(t *testing.T) {
	redis := startRedis(t)
	for _, fixed := range []bool{false, true} {
		vip := func(l *v1alpha1.Limit) {
			l.Values = []v1alpha1.ValueLimit{
				{Match: map[string]string{"X-Tenant": "vip"}, Rate: &v1alpha1.Rate{Requests: 20, Per: metav1.Duration{Duration: 24 * time.Hour}}},
				{Match: map[string]string{"X-Tenant": "internal"}, Unlimited: new(true)},
			}
		}
		rules := []*rlsconfig.Rule{rate("a", 5, "header:X-Tenant", daily, vip), rate("b", 8, "", daily, burst(12)), rate("c", 4, "", daily, shadow),
			rate("years", 10, "", per(10*365*24*time.Hour)), rate("streams", 0, "header:X-Tenant", concurrent(3))}
		here := newRigWith(t, Options{FixedWindows: fixed}, rules...)
		there := redis.over(t, Options{FixedWindows: fixed}, rules...)
		rapid.Check(t, func(rt *rapid.T) {
			redis.client.FlushDB(context.Background())
			here.Configure(edge, nil, nil)
			here.Configure(edge, rules, nil)
			here.leases = &leases{most: 1000}
			here.store = &local{here.hasher, here.leases}
			for range rapid.IntRange(1, 30).Draw(rt, "requests") {
				var ds []*ratelimitv3.RateLimitDescriptor
				for range rapid.IntRange(1, 3).Draw(rt, "descriptors") {
					d := rapid.SampledFrom([]func() *ratelimitv3.RateLimitDescriptor{
						func() *ratelimitv3.RateLimitDescriptor {
							return tenant("a", rapid.SampledFrom([]string{"x", "a=b&c", "vip", "internal", strings.Repeat("long", 100)}).Draw(rt, "tenant"))
						},
						func() *ratelimitv3.RateLimitDescriptor { return desc("rule=shop/api/b") },
						func() *ratelimitv3.RateLimitDescriptor { return desc("rule=shop/api/c") },
						func() *ratelimitv3.RateLimitDescriptor { return desc("rule=shop/api/years") },
						func() *ratelimitv3.RateLimitDescriptor {
							return leaseOf("x", fmt.Sprint(rapid.IntRange(0, 6).Draw(rt, "id")))
						},
					}).Draw(rt, "of")()
					if n := rapid.IntRange(-1, 4).Draw(rt, "hits"); n >= 0 {
						d.HitsAddend = wrapperspb.UInt64(uint64(n))
					}
					d.IsNegativeHits = rapid.IntRange(0, 4).Draw(rt, "sign") == 0
					ds = append(ds, d)
				}
				if rapid.Bool().Draw(rt, "one") || twice(ds) {
					ds = ds[:1]
				}
				a, b := here.ask(ds...), there.ask(ds...)
				for _, s := range append(a.Statuses, b.Statuses...) {
					s.DurationUntilReset = nil // two clocks
				}
				if a.String() != b.String() {
					rt.Fatalf("%v: memory says %v, Redis %v", ds, a, b)
				}
				if !fixed {
					redis.keepsStates(rt)
				}
			}
		})
	}
}

// keepsStates has each state of a rate kept at least until it is over. An hour, of rates by the day, is what a
// state falls short by if its expiry is not put off.
func (r *redisServer) keepsStates(rt *rapid.T) {
	ctx := context.Background()
	now := r.client.Time(ctx).Val()
	for _, name := range r.client.Keys(ctx, "evenkeel:"+edge+":shop/api/[abc]:*").Val() {
		tat, err := r.client.Get(ctx, name).Int64()
		if err != nil {
			rt.Fatal(err)
		}
		over := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(tat))
		if expires := now.Add(r.client.PTTL(ctx, name).Val()); expires.Before(over.Add(-time.Hour)) {
			rt.Fatalf("%s expires at %v, expected not before %v", name, expires, over)
		}
	}
}

// TestRedisEarnsBack has a key be asked for more than it has, after times in which it was idle.
func TestRedisEarnsBack(t *testing.T) {
	redis := startRedis(t)
	r := redis.over(t, Options{}, rate("all", 100, "", burst(2)))
	for range 5 {
		began := redis.client.Time(t.Context()).Val()
		admitted := 0
		for range 50 {
			if r.ok(desc("rule=shop/api/all")) {
				admitted++
			}
		}
		took := redis.client.Time(t.Context()).Val().Sub(began)
		if most := 2 + int(took/(10*time.Millisecond)) + 1; admitted < 1 || admitted > most {
			t.Errorf("%d were admitted in %v, expected 1 to %d", admitted, took, most)
		}
		time.Sleep(150 * time.Millisecond)
	}
}

// twice says whether a request names a counter twice, or takes and gives back of one: what remains in
// between is not the same.
func twice(ds []*ratelimitv3.RateLimitDescriptor) bool {
	seen := map[string]bool{}
	for _, d := range ds {
		name := d.Entries[0].Value
		if seen[name] {
			return true
		}
		seen[name] = true
	}
	return false
}

// TestTwoServersAreOne has traffic split over two servers of one Redis, all at once.
func TestTwoServersAreOne(t *testing.T) {
	redis := startRedis(t)
	rules := func(requests int64, change ...func(*v1alpha1.Limit)) []*rlsconfig.Rule {
		return []*rlsconfig.Rule{rate("all", requests, "", append(change, daily)...), streams(5)}
	}
	servers := []*rig{redis.over(t, Options{}, rules(300)...), redis.over(t, Options{}, rules(300)...)}
	var admitted, leases atomic.Int64
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for n := range 60 {
				if servers[i%2].ask(desc("rule=shop/api/all")).OverallCode == rlsv3.RateLimitResponse_OK {
					admitted.Add(1)
				}
				if n < 2 && servers[i%2].ask(leaseOf("a", fmt.Sprint(i, n))).OverallCode == rlsv3.RateLimitResponse_OK {
					leases.Add(1)
				}
			}
		})
	}
	wait.Wait()
	if n := admitted.Load(); n != 300 {
		t.Errorf("%d of 480 were admitted, expected 300", n)
	}
	if n := leases.Load(); n != 5 {
		t.Errorf("%d leases of 16 were given, expected 5", n)
	}
	// Raised and lowered in mid-window: what one server took counts at the other, and the new rate is that of the
	// next call.
	next := func(s *rig) time.Duration {
		return s.ask(desc("rule=shop/api/all")).Statuses[0].DurationUntilReset.AsDuration().Round(10 * time.Second)
	}
	servers[0].expect("the next, of 300 a day", next(servers[0]), 290*time.Second)
	for _, requests := range []int64{3000, 30} {
		for _, s := range servers {
			s.Configure(edge, rules(requests), nil)
			s.expect(fmt.Sprintf("the next, of %d a day", requests), next(s), (24 * time.Hour / time.Duration(requests)).Round(10*time.Second))
		}
	}
	names, err := redis.client.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if ttl := redis.client.PTTL(t.Context(), name).Val(); ttl <= 0 {
			t.Errorf("%s never expires", name)
		}
		if !strings.HasPrefix(name, "evenkeel:shop/edge:") {
			t.Errorf("a key is named %s", name)
		}
	}
}

func TestLeasesInRedis(t *testing.T) {
	redis := startRedis(t)
	one, two := redis.over(t, Options{}, streams(2)), redis.over(t, Options{}, streams(2))
	ok := func(r *rig, d *ratelimitv3.RateLimitDescriptor) bool {
		return r.ask(d).OverallCode == rlsv3.RateLimitResponse_OK
	}
	held := func(want int64) {
		t.Helper()
		e, err := two.Explain(t.Context(), edge, "shop/api/streams", map[string]string{"X-Tenant": "a"})
		if err != nil || e.Held != want {
			t.Errorf("%d are held (%v), expected %d", e.Held, err, want)
		}
	}
	metadata := one.ask(leaseOf("a", "1")).DynamicMetadata
	one.expect("told", len(metadata.GetFields()), 2)
	one.expect("second", ok(two, leaseOf("a", "2")), true)
	one.expect("third", ok(one, leaseOf("a", "3")), false)
	one.expect("the first again", ok(two, leaseOf("a", "1")), true)
	ok(one, released("a", "3"))
	held(2)
	ok(two, released("a", "1"))
	held(1)
	two.log(goesOn, "1", metadata, nil)
	held(1) // a report that the end has overtaken
	two.log(isOver, "2", nil, nil)
	held(0)
	one.expect("of a request that is over", ok(one, leaseOf("a", "2")), false)
	for i := range 4 {
		one.log(goesOn, fmt.Sprint("told-", i), metadata, nil)
	}
	held(4)
	one.expect("rebuilt", one.metric("evenkeel_rls_leases_rebuilt_total"), 4.0)
	one.expect("logged", two.metric("evenkeel_rls_leases_ended_total", "reason=logged"), 1.0)
	two.store.logs(t.Context(), edge, two.entries(edge, []*accesslogv3.HTTPAccessLogEntry{
		entry(isOver, "told-0", nil), entry(isOver, "told-1", nil), entry(isOver, "none", nil), entry(isOver, "told-2", nil), entry(isOver, "told-3", nil),
	}), nil, 0)
	held(0)
	for _, r := range []*rig{one, two} {
		r.Configure(edge, []*rlsconfig.Rule{rate("streams", 1, "header:X-Tenant", daily)}, nil)
	}
	one.expect("a rate of that name", ok(one, tenant("streams", "a")), true)
	two.expect("a rate of that name", ok(two, tenant("streams", "a")), false)
	one.Configure(edge, []*rlsconfig.Rule{streams(2)}, nil)
	one.expect("streams again", ok(one, leaseOf("a", "9")), true)
}

// TestAProxyAtTwoServers has an Envoy that takes leases at two servers and loses its streams of access logs at one of them,
// then finds it again, and is gone at last.
func TestAProxyAtTwoServers(t *testing.T) {
	redis := startRedis(t)
	a, b := redis.over(t, Options{}, streams(9)), redis.over(t, Options{}, streams(9))
	name := proxyName{edge, "envoy:1"}
	const set = "evenkeel:shop/edge:shop/api/streams:header%3AX-Tenant=t:leases"
	now := time.Now()
	later := func(d time.Duration, held int) {
		t.Helper()
		now = now.Add(d)
		for _, r := range []*rig{a, b} { // who sweeps first may not matter
			r.sweep(t.Context(), 1, now.UnixNano())
		}
		if n := redis.members(t, set); n != held {
			t.Errorf("%d leases are held, expected %d", n, held)
		}
	}
	atA, atB := a.proxies.opened(name), b.proxies.opened(name)
	byA, byB, other := &holder{}, &holder{}, &holder{}
	byA.proxy.Store(&atA.proxy)
	byB.proxy.Store(&atB.proxy)
	other.proxy.Store(&a.proxies.opened(proxyName{edge, "envoy:2"}).proxy)
	metadata := a.ask(leaseOf("t", "first")).DynamicMetadata // by a connection without a name, and told of later
	many := make([]*accesslogv3.HTTPAccessLogEntry, 2*maxReleased)
	for i := range many {
		many[i] = entry(goesOn, fmt.Sprint("many-", i), metadata)
	}
	third := &holder{}
	third.proxy.Store(&a.proxies.opened(proxyName{edge, "envoy:3"}).proxy)
	a.store.logs(t.Context(), edge, a.entries(edge, many), third, 0)
	later(0, len(many)+1)
	a.proxies.closed(proxyName{edge, "envoy:3"}, a.proxies.known[proxyName{edge, "envoy:3"}], now)
	later(grace, 1)
	ended := a.metric("evenkeel_rls_leases_ended_total", "reason=disconnected")
	a.expect("ended at once", ended, float64(len(many)))
	for i := range 3 {
		a.log(goesOn, fmt.Sprint("a-", i), metadata, byA)
		b.log(goesOn, fmt.Sprint("b-", i), metadata, byB)
	}
	b.log(goesOn, "first", metadata, byB)
	a.log(goesOn, "other", metadata, other)
	b.log(isOver, "b-2", nil, byB)
	a.expect("known to be the proxy's", redis.members(t, leasesOf(name)), 6)
	a.expect("rebuilt", a.metric("evenkeel_rls_leases_rebuilt_total")+b.metric("evenkeel_rls_leases_rebuilt_total"), float64(len(many)+7))
	later(0, 7)
	a.proxies.closed(name, atA, now)
	later(0, 7)
	later(grace, 7) // it has streams at b
	a.expect("proxies at a", len(a.proxies.known), 1)

	b.proxies.closed(name, atB, now)
	later(0, 7)
	atA = a.proxies.opened(name)
	later(grace, 7) // it is back, at a
	a.proxies.closed(name, atA, now)
	later(grace-time.Second, 7)
	later(time.Second, 1)
	a.expect("disconnected", a.metric("evenkeel_rls_leases_ended_total", "reason=disconnected")+b.metric("evenkeel_rls_leases_ended_total", "reason=disconnected")-ended, 6.0)
	a.expect("known to be the proxy's", redis.members(t, leasesOf(name)), 0)
	b.log(goesOn, "b-1", metadata, byB) // it was wrong to believe that it is gone
	later(0, 2)
	if left := redis.client.Keys(t.Context(), "evenkeel:*:held:*").Val(); len(left) != 2 {
		t.Errorf("there are %v, expected those of two requests", left)
	}
}

// TestAConnectionIsAProxys has leases be the proxy's whose access logs come by the same connection.
func TestAConnectionIsAProxys(t *testing.T) {
	redis := startRedis(t)
	r := redis.over(t, Options{}, streams(9), rate("all", 0, "", concurrent(9)))
	conn := dial(t, serve(t, r.Server), insecure.NewCredentials())
	stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&alsv3.StreamAccessLogsMessage{Identifier: &alsv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: "envoy-1", Cluster: edge}}}); err != nil {
		t.Fatal(err)
	}
	r.until("the stream is there", func() bool { return r.streams.Load() == 1 && redis.members(t, atKey(proxyName{edge, "envoy-1"})) == 1 })
	of := leasesOf(proxyName{edge, "envoy-1"})
	all := func(id string) *ratelimitv3.RateLimitDescriptor { return desc("rule=shop/api/all", "lease="+id) }
	ask := func(ds ...*ratelimitv3.RateLimitDescriptor) {
		t.Helper()
		if _, err := rlsv3.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), request(ds...)); err != nil {
			t.Fatal(err)
		}
	}
	ask(leaseOf("a", "1"), all("1"))
	ask(leaseOf("a", "2"))
	r.expect("known to be the proxy's", redis.members(t, of), 2)
	ask(released("a", "2"))
	r.expect("after the end of one", redis.members(t, of), 1)
	ask(released("a", "1"))
	r.expect("after half the end of the other", redis.members(t, of), 1)
	end := all("1")
	end.IsNegativeHits = true
	ask(end)
	r.expect("after all of it", redis.members(t, of), 0)
	if left := redis.client.Keys(t.Context(), "evenkeel:*:held:*").Val(); len(left) != 0 {
		t.Errorf("there are %v", left)
	}
}

// TestRedisThatDoesNotAnswer has it die, and hang, and come back.
func TestRedisThatDoesNotAnswer(t *testing.T) {
	redis := startRedis(t)
	r := redis.over(t, Options{Timeout: 20 * time.Millisecond}, rate("all", 5, "", daily))
	client := rlsv3.NewRateLimitServiceClient(dial(t, serve(t, r.Server), insecure.NewCredentials()))
	all := request(desc("rule=shop/api/all"))
	call := func() error { _, err := client.ShouldRateLimit(t.Context(), all); return err }
	open := func() bool { return r.store.(*redisStore).circuit.until.Load() != 0 }
	for _, c := range []struct {
		name        string
		fail, mends func()
	}{
		{"dead", func() { redis.Kill(); <-redis.Done() }, redis.start},
		{"hung", func() { _ = syscall.Kill(redis.PID(), syscall.SIGSTOP) }, func() { _ = syscall.Kill(redis.PID(), syscall.SIGCONT) }},
	} {
		c.fail()
		r.until(c.name+": the circuit opens", func() bool {
			if code := status.Code(call()); code != codes.Unavailable && code != codes.OK {
				t.Fatalf("%s: %v", c.name, code)
			}
			return open()
		})
		waited := r.metric("evenkeel_rls_errors_total", "reason=store")
		for range 100 {
			if code := status.Code(call()); code != codes.Unavailable {
				t.Errorf("%s: %v", c.name, code)
			}
		}
		r.expect(c.name+": errors", r.metric("evenkeel_rls_errors_total", "reason=store")-waited, 100.0)
		c.mends()
		r.until(c.name+": it heals", func() bool { return call() == nil })
		r.expect(c.name+": the circuit", open(), false)
	}
}

func TestCircuit(t *testing.T) {
	c := circuit{log: slog.New(slog.DiscardHandler)}
	now := time.Now()
	failed := func() { c.report(context.DeadlineExceeded, now) }
	for range maxFailures - 1 {
		failed()
	}
	c.report(nil, now)
	for range maxFailures - 1 {
		failed()
	}
	for range 2 {
		if !c.allow(now) {
			t.Error("is open after failures that did not follow each other")
		}
	}
	failed()
	if c.allow(now) || !c.allow(now.Add(circuitTime)) || c.allow(now.Add(circuitTime)) {
		t.Error("lets pass other than one in each time")
	}
	now = now.Add(circuitTime)
	failed()
	if c.allow(now) || !c.allow(now.Add(circuitTime)) {
		t.Error("after a failed try, lets pass other than one")
	}
	c.report(nil, now)
	for range 2 {
		if !c.allow(now) {
			t.Error("is open after a success")
		}
	}
}

func TestBadRedisURL(t *testing.T) {
	for _, address := range []string{"http://user:secret@host:1", "redis://user:secret@ho st:1", "redis://user:secret@host:1/x", "://user:secret@"} {
		_, err := New(Options{Redis: address})
		if err == nil || !strings.Contains(err.Error(), "expected the URL") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestTrips has many calls wait for few trips: each gets its own answer, and a Redis that forgot the script is told
// it again. At the end no trip is under way.
func TestTrips(t *testing.T) {
	server := startRedis(t)
	trips := trips{client: server.client, script: redis.NewScript("return {tonumber(ARGV[1])}"), time: patience, report: func(err error) {
		if err != nil {
			t.Errorf("a trip: %v", err)
		}
	}}
	var wait sync.WaitGroup
	for i := range 500 {
		if i == 250 {
			wait.Wait()
			server.client.ScriptFlush(t.Context())
		}
		wait.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%5 == 0 {
				cancel()
			}
			answers, err := trips.ask(ctx, nil, []any{i})
			if i%5 == 0 && err != nil {
				return // or it was answered before
			}
			if err != nil || len(answers) != 1 || answers[0] != int64(i) {
				t.Errorf("call %d: %v, %v", i, answers, err)
			}
		})
	}
	wait.Wait()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		trips.mu.Lock()
		left, waiting := trips.underWay, len(trips.waiting)
		trips.mu.Unlock()
		if left == 0 && waiting == 0 {
			return
		}
		if left < 0 || time.Now().After(deadline) {
			t.Fatalf("%d trips are under way and %d calls wait", left, waiting)
		}
	}
}
