package rls

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// memoryInUse is what is alive on the heap.
func memoryInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestAFloodOfKeys has an attacker come with a million new keys a minute, for a quarter of one, under limits that
// remember each for longer, while clients of the same rule and of another one use their limits to the full.
func TestAFloodOfKeys(t *testing.T) {
	const (
		keys    = 20_000
		perTick = 167
		ticks   = 1500 // of 10 ms
	)
	synctest.Test(t, func(t *testing.T) {
		slow := func(l *v1alpha1.Limit) { l.Rate.Per.Duration = time.Minute }
		r := newRigWith(t, Options{MaxKeys: keys}, rate("attacked", 60, "header:X-Tenant", burst(30), slow), rate("other", 60, "header:X-Tenant", burst(30), slow),
			rate("first", 1, "header:X-Tenant", slow))
		before := memoryInUse()
		random := rand.New(rand.NewPCG(1, 2))
		admitted := map[string]int{}
		for tick := range ticks {
			for range perTick {
				// An attacker's key is new: it is admitted, and that its own limit is exact means no more.
				name := fmt.Sprintf("%x", random.Uint64())
				if !r.ok(tenant("first", name)) {
					t.Fatal("the first request of a key was refused")
				}
				if !r.ok(tenant("attacked", name)) {
					t.Fatal("the first request of a key was refused")
				}
			}
			if tick%10 == 0 { // ten times what is allowed
				for _, rule := range []string{"attacked", "other"} {
					for i := range 5 {
						if name := fmt.Sprintf("client-%d", i); r.ok(tenant(rule, name)) {
							admitted[rule+" "+name]++
						}
					}
				}
			}
			if tick%100 == 0 {
				r.sweep(t.Context(), tick/100, time.Now().UnixNano())
				if all := int(r.metric("evenkeel_rls_keys")); all > keys+3*shards {
					t.Fatalf("%d keys are kept, expected %d at most", all, keys)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		for _, rule := range []string{"attacked", "other"} {
			for i := range 5 {
				name := fmt.Sprintf("%s client-%d", rule, i)
				if n := admitted[name]; n < 30+14 || n > 30+15 {
					t.Errorf("%s was admitted %d times in 15 s, expected 45", name, n)
				}
			}
		}
		if r.metric("evenkeel_rls_forgotten_keys_total") == 0 {
			t.Error("no key was forgotten: the flood was none")
		}
		if grown := int64(memoryInUse()) - int64(before); grown > 4<<20 {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		time.Sleep(2 * time.Minute)
		for tick := range sweepEvery {
			r.sweep(t.Context(), tick, time.Now().UnixNano())
		}
		r.expect("keys when all is earned back", r.metric("evenkeel_rls_keys"), 0.0)
	})
}

// TestEachRuleHasRoom has one rule take all that is common: the keys of another are all kept.
func TestEachRuleHasRoom(t *testing.T) {
	r := newRigWith(t, Options{MaxKeys: 4000}, rate("greedy", 1, "header:X-Tenant", per(24*time.Hour)), rate("modest", 1, "header:X-Tenant", per(time.Hour)))
	for i := range 20_000 {
		r.ok(tenant("greedy", fmt.Sprint(i)))
	}
	for range 2 {
		for i := range 900 {
			r.ok(tenant("modest", fmt.Sprint(i)))
		}
	}
	r.expect("greedy", r.metric("evenkeel_rls_keys", "rule=shop/api/greedy"), 3000.0)
	r.expect("modest", r.metric("evenkeel_rls_keys", "rule=shop/api/modest"), 900.0)
	r.expect("refused again", r.metric("evenkeel_rls_requests_total", "rule=shop/api/modest", "outcome=refused"), 900.0)
	r.Configure(edge, []*rlsconfig.Rule{rate("modest", 1, "header:X-Tenant", per(time.Hour))}, nil)
	for i := range 3000 {
		r.ok(tenant("modest", fmt.Sprint(i)))
	}
	r.expect("the room of a rule that is gone", r.metric("evenkeel_rls_keys", "rule=shop/api/modest"), 3000.0)
}

// BenchmarkKeys says what a key takes in memory, of a million that are live.
func BenchmarkKeys(b *testing.B) {
	for b.Loop() {
		before := memoryInUse()
		s, err := New(Options{MaxKeys: 1 << 30})
		if err != nil {
			b.Fatal(err)
		}
		s.Configure(edge, []*rlsconfig.Rule{rate("tenant", 1, "header:X-Tenant", per(time.Hour))}, nil)
		c := s.domain(edge).rules["shop/api/tenant"]
		const keys = 1_000_000
		for i := range uint64(keys) {
			c.table.take(key{mix(1, i), mix(2, i)}, c.variants[0].bound.rate, time.Now().UnixNano(), 1)
		}
		b.ReportMetric(float64(int64(memoryInUse())-int64(before))/keys, "B/key")
		if n := c.table.keys.Load(); n != keys {
			b.Fatal(n)
		}
	}
}
