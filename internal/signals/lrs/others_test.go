package lrs

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"evenkeel.io/controlplane/internal/signals"
)

// replicas are a leader, a, and a follower, b.
type replicas struct {
	leader, follower *bench

	mu          sync.Mutex
	role        string // of the first: "leads" or ""
	subscribers int    // of the second, as the first knows them
}

func startReplicas(t *testing.T) *replicas {
	t.Helper()
	r := &replicas{role: "leads"}
	of := func(role string, elsewhere func() map[string]int) *bench {
		return startWith(t, func(o *Options) {
			o.Leads = func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.role == role }
			o.Elsewhere = func(fleets []string) map[string]int {
				if !slices.Equal(fleets, cart().Fleets) {
					t.Errorf("asked of fleets %v", fleets)
				}
				return elsewhere()
			}
		}, cart())
	}
	r.leader = of("leads", func() map[string]int {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.subscribers == 0 {
			return map[string]int{}
		}
		return map[string]int{"b": r.subscribers}
	})
	r.follower = of("", func() map[string]int { return nil })
	return r
}

func (r *replicas) become(role string) { r.mu.Lock(); defer r.mu.Unlock(); r.role = role }
func (r *replicas) has(n int)          { r.mu.Lock(); defer r.mu.Unlock(); r.subscribers = n }

func (r *replicas) stop() { r.leader.stop(); r.follower.stop() }

// tell takes what the follower has for the leader there, as JSON.
func (r *replicas) tell(t *testing.T) (told int) {
	t.Helper()
	raw, err := json.Marshal(r.follower.TakeSummaries())
	if err != nil {
		t.Fatal(err)
	}
	var summaries []signals.Summary
	if err := json.Unmarshal(raw, &summaries); err != nil {
		t.Fatal(err)
	}
	r.leader.MergeSummaries("b", summaries)
	return len(summaries)
}

// TestAllOfAllReplicas: the leader has the sum over the Envoys of all replicas, and they are all only if those
// of each are.
func TestAllOfAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startReplicas(t)
		defer r.stop()
		one, two, three := r.leader.connect("envoy-1", edge), r.follower.connect("envoy-2", edge), r.follower.connect("envoy-3", edge)
		defer one.close()
		defer two.close()
		r.has(2)
		busy := func(n uint64) { one.report(statsOf(shop, interval, endpointOf("10.0.0.1", 8080, n, 0, n, 1))) }
		reports := func(c *client, n, failed uint64, over time.Duration) {
			c.report(statsOf(shop, over, endpointOf("10.0.0.1", 8080, n, failed, n, 2)))
		}
		busy(10)
		if got := r.leader.take(interval)[a]; got.Done != 10 || got.All {
			t.Errorf("nothing is heard of the other replica: %+v", got)
		}
		reports(two, 20, 2, interval)
		if got := r.follower.take(interval); len(got) != 0 {
			t.Errorf("one that follows makes readings: %v", got)
		}
		r.tell(t)
		busy(10)
		if got := r.leader.take(interval)[a]; got.Done != 30 || got.Failed != 2 || got.InFlight != 3 || got.All {
			t.Errorf("one of the two elsewhere has reported: %+v", got)
		}
		reports(two, 20, 0, interval)
		reports(three, 20, 0, 2*interval) // half as many in the same time
		r.follower.take(interval)
		r.tell(t)
		busy(10)
		got := r.leader.take(interval)[a]
		if got.Done != 40 || !got.All {
			t.Errorf("all have reported: %+v", got)
		}
		if target := r.leader.Targets()[0]; target.Health != signals.Up || target.LastError != "" {
			t.Errorf("all have reported: %+v", target)
		}
		if window := got.To.Sub(got.From); window != interval {
			t.Errorf("a window of %v", window)
		}
		// An Envoy goes to the other replica: it is in neither sum until it reports there, and not in both then.
		reports(three, 20, 0, interval) // which is fresh still when the follower adds up
		three.close()
		r.follower.ads("envoy-3", edge, -1)
		r.has(1)
		three = r.leader.connect("envoy-3", edge)
		defer three.close()
		reports(two, 20, 0, interval)
		r.follower.take(interval)
		r.tell(t)
		busy(10)
		if got := r.leader.take(interval)[a]; got.Done != 30 || got.All {
			t.Errorf("one is on its way: %+v", got)
		}
		reports(three, 40, 0, interval)
		busy(10)
		if got := r.leader.take(interval)[a]; got.Done != 70 || !got.All {
			t.Errorf("it has come: %+v", got)
		}
	})
}

// TestWhatIsToldIsFresh: whenever Envoys report between the turns of their replica, the leader has a fresh reading
// of them at any time.
func TestWhatIsToldIsFresh(t *testing.T) {
	for phase := time.Duration(0); phase < interval; phase += interval / 20 {
		synctest.Test(t, func(t *testing.T) {
			r := startReplicas(t)
			defer r.stop()
			two := r.follower.connect("envoy-2", edge)
			defer two.close()
			r.has(1)
			report := func() {
				two.report(statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 20, 0, 20, 0)))
				synctest.Wait()
			}
			time.Sleep(phase)
			var last signals.Reported
			const steps = 50
			for i := range 6 * steps {
				if i%steps == 0 {
					report()
				}
				if got, ok := r.leader.take(interval / steps)[a]; ok {
					last = got
				}
				select {
				case <-r.follower.Made():
					r.tell(t)
				default:
				}
				if age := time.Since(last.To); i > 3*steps && age > fresh {
					t.Fatalf("reported %v after the start of a turn: the leader's reading is %v old", phase, age)
				}
			}
			if last.Done != 20 || !last.All {
				t.Errorf("%+v", last)
			}
		})
	}
}

// TestASilentReplicaIsNotBelievedForEver: its numbers count as long as a report does, and its Envoys are silent
// after that; when it is gone others are not taken for all before its Envoys can have come to them.
func TestASilentReplicaIsNotBelievedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startReplicas(t)
		defer r.stop()
		one, two := r.leader.connect("envoy-1", edge), r.follower.connect("envoy-2", edge)
		defer one.close()
		defer two.close()
		r.has(1)
		next := func() signals.Reported {
			one.report(statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 10, 0, 10, 0)))
			return r.leader.take(interval)[a]
		}
		two.report(statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 20, 0, 20, 0)))
		r.follower.take(interval)
		r.tell(t)
		if got := next(); got.Done != 30 || !got.All {
			t.Fatalf("both report: %+v", got)
		}
		time.Sleep(fresh)
		if got := next(); got.Done != 10 || got.All {
			t.Errorf("the follower has told nothing for %v: %+v", fresh, got)
		}
		r.follower.take(interval) // its Envoy does not report any more, and it says so
		r.tell(t)
		if got := next(); got.Done != 10 || got.All {
			t.Errorf("its Envoy reports nothing: %+v", got)
		}
		two.report(statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 20, 0, 20, 0)))
		r.follower.take(interval)
		r.tell(t)
		if got := next(); got.Done != 30 || !got.All {
			t.Errorf("it tells again: %+v", got)
		}
		r.has(0)
		r.leader.ForgetReplica("b")
		if got := next(); got.Done != 10 || got.All {
			t.Errorf("it is gone, and where its Envoy is nobody knows: %+v", got)
		}
		r.leader.take(regroup)
		if got := next(); got.Done != 10 || !got.All {
			t.Errorf("its Envoy would have come by now: %+v", got)
		}
		// The leader leads no more, and then again.
		r.become("")
		if r.leader.take(interval); len(r.leader.TakeSummaries()) != 1 {
			t.Error("one that follows makes no summary")
		}
		r.become("leads")
		if got := next(); got.All {
			t.Errorf("whoever has just taken over takes what it hears for all: %+v", got)
		}
	})
}

// TestSummariesAreBounded: one of each Service waits for the leader, the newest; what is lost is counted.
func TestSummariesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startReplicas(t)
		defer r.stop()
		r.follower.TakeSummaries()
		before := testutil.ToFloat64(r.follower.metrics.untold)
		r.follower.take(3 * interval)
		if n := testutil.ToFloat64(r.follower.metrics.untold) - before; n != 2 {
			t.Errorf("%v of 3 summaries are counted as superseded, want 2", n)
		}
		if n := r.tell(t); n != 1 {
			t.Errorf("%d summaries wait, want the newest", n)
		}
		if n := r.tell(t); n != 0 {
			t.Errorf("%d summaries are told twice", n)
		}

		large := cart()
		for i := range maxSummary {
			large.Endpoints = append(large.Endpoints, fmt.Sprintf("10.1.%d.%d:80", i/250, i%250+1))
		}
		r.follower.SetTargets([]Spec{large})
		c := r.follower.connect("envoy-1", edge)
		defer c.close()
		stats := statsOf(shop, interval)
		for i := range maxSummary {
			stats.UpstreamLocalityStats[0].UpstreamEndpointStats = append(stats.UpstreamLocalityStats[0].UpstreamEndpointStats,
				endpointOf(fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), 80, 1, 0, 1, 0))
		}
		stats.UpstreamLocalityStats[0].UpstreamEndpointStats = append(stats.UpstreamLocalityStats[0].UpstreamEndpointStats, endpointOf("10.0.0.1", 8080, 1, 0, 1, 0))
		c.report(stats)
		r.follower.take(interval)
		got := r.follower.TakeSummaries()
		if len(got) != 1 || len(got[0].Endpoints) != 0 || got[0].Silent != 1 || r.follower.dropped(reasonTooLarge) != 1 {
			t.Errorf("of too many endpoints: %d with %d silent, %v dropped", len(got[0].Endpoints), got[0].Silent, r.follower.dropped(reasonTooLarge))
		}
	})
}

// TestSummariesAreChecked: what another replica tells is held against what is known here, like a report.
func TestSummariesAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startReplicas(t)
		defer r.stop()
		r.has(1)
		of := func(change func(*signals.Summary)) signals.Summary {
			s := signals.Summary{Service: shop, Subscribers: 1, Interval: interval, Endpoints: []signals.SummaryOf{{Address: a, Done: 10}}}
			change(&s)
			return s
		}
		for what, s := range map[string]signals.Summary{
			"of no Service":       of(func(s *signals.Summary) { s.Service = "shop/other:80" }),
			"of too short":        of(func(s *signals.Summary) { s.Interval = time.Millisecond }),
			"of the future":       of(func(s *signals.Summary) { s.Age = -time.Hour }),
			"of no nodes":         of(func(s *signals.Summary) { s.Subscribers = -1 }),
			"of less than none":   of(func(s *signals.Summary) { s.Endpoints[0].Failed = -1 }),
			"of more than can be": of(func(s *signals.Summary) { s.Endpoints[0].Done = 1e300 }),
		} {
			before := r.leader.dropped(reasonSummary)
			r.leader.MergeSummaries("b", []signals.Summary{s})
			if got := r.leader.take(interval); len(got) != 0 || r.leader.dropped(reasonSummary) != before+1 {
				t.Errorf("%s: %v, %v dropped", what, got, r.leader.dropped(reasonSummary)-before)
			}
		}
		twice := of(func(s *signals.Summary) {
			s.Endpoints = append(s.Endpoints, s.Endpoints[0], signals.SummaryOf{Address: "10.9.9.9:80", Done: 5}, signals.SummaryOf{Address: "somewhere"})
		})
		r.leader.MergeSummaries("b", []signals.Summary{twice})
		if got := r.leader.take(interval); got[a].Done != 10 || !got[a].All || len(got) != 2 {
			t.Errorf("what is not known here is left out: %v", got)
		}
	})
}
