package main

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

func find[T any](t *testing.T, name string, all []T, of func(T) string) T {
	t.Helper()
	found, err := choose("name", name, all, of)
	if err != nil {
		t.Fatal(err)
	}
	return found[0]
}

// play is a run with a third of the requests and a fifth of the time.
func play(t *testing.T, name, policy string, seed uint64) *measures {
	t.Helper()
	sc := find(t, name, scenarios, scenarioName)
	change := sc.change
	sc.change = func(s *settings) {
		s.work *= 3
		if change != nil {
			change(s)
		}
	}
	return run(sc, find(t, policy, policies, policyName), seed, 0.2)
}

func TestEveryRequestEndsOnce(t *testing.T) {
	for _, p := range policies {
		for _, sc := range []string{"chaos", "black-hole", "overload"} {
			m := play(t, sc, p.name, 1)
			sum := uint64(0)
			for _, n := range m.outcomes {
				sum += n
			}
			if m.arrivals == 0 || sum != m.arrivals {
				t.Errorf("%s under %s: %d requests came, %d ended", sc, p.name, m.arrivals, sum)
			}
			for _, px := range m.world.proxies {
				for _, h := range px.hosts {
					if h.active != 0 {
						t.Errorf("%s under %s: %d requests are active when all have ended", sc, p.name, h.active)
					}
				}
			}
		}
	}
}

func TestSameSeedSameRun(t *testing.T) {
	for _, p := range policies {
		one := summarise("chaos", p.name, []*measures{play(t, "chaos", p.name, 7)})
		two := summarise("chaos", p.name, []*measures{play(t, "chaos", p.name, 7)})
		if !reflect.DeepEqual(one, two) {
			t.Errorf("%s: %+v, then %+v", p.name, one, two)
		}
	}
	if play(t, "uneven", "oracle", 1).outcomes == play(t, "uneven", "oracle", 2).outcomes {
		t.Error("two seeds give the same run")
	}
}

// TestPoliciesMeetTheSameMisfortunes: what arrives and what befalls the servers does not depend on how
// requests are balanced.
func TestPoliciesMeetTheSameMisfortunes(t *testing.T) {
	var arrivals uint64
	var stolen float64
	for _, p := range policies {
		m := play(t, "neighbours", p.name, 3)
		sum := 0.0
		for _, s := range m.world.servers {
			sum += s.visible
		}
		if arrivals == 0 {
			arrivals, stolen = m.arrivals, sum
		}
		if m.arrivals != arrivals || sum != stolen {
			t.Errorf("%s: %d arrivals and %v stolen, others have %d and %v", p.name, m.arrivals, sum, arrivals, stolen)
		}
	}
}

// TestLookingChangesNothing: a policy that does not scrape does not notice that scrapes fail.
func TestLookingChangesNothing(t *testing.T) {
	for _, p := range []string{"least-request", "orca-wrr"} {
		if a, b := play(t, "uneven", p, 1), play(t, "metrics-100", p, 1); a.outcomes != b.outcomes {
			t.Errorf("%s: outcomes %v, without scrapes %v", p, a.outcomes, b.outcomes)
		}
	}
}

// serve lets a Poisson process of exponential requests into one server and returns the mean time from
// arrival to answer.
func serve(s *server, c *clock, rate, mean float64, d time.Duration) time.Duration {
	random := rand.New(rand.NewPCG(1, 2))
	var sum time.Duration
	n := 0
	px := &proxy{clock: c}
	var arrive func()
	arrive = func() {
		r := &request{arrived: c.now, work: mean * random.ExpFloat64(), proxy: px, host: &host{server: s}}
		r.over = func(r *request, _ outcome) { sum, n = sum+c.now-r.arrived, n+1 }
		s.accept(r)
		c.after(seconds(random.ExpFloat64()/rate), arrive)
	}
	c.after(0, arrive)
	c.run(d)
	return sum / time.Duration(n)
}

// TestServerIsAnMMcQueue compares with Erlang's C formula.
func TestServerIsAnMMcQueue(t *testing.T) {
	const mean = 0.06
	for _, c := range []int{1, 2, 5} {
		for _, load := range []float64{0.5, 0.8} {
			var k clock
			s := newServer(&k, 0, c, 1<<30, 1)
			rate := load * float64(c) / mean
			d := seconds(1e5 / rate)
			took := serve(s, &k, rate, mean, d)
			s.account()

			offered := load * float64(c)
			term, sum := 1.0, 0.0
			for i := range c {
				sum += term
				term *= offered / float64(i+1)
			}
			waits := term / (1 - load) / (sum + term/(1-load))
			want := mean + waits/(float64(c)/mean-rate)
			if got := took.Seconds(); math.Abs(got/want-1) > 0.05 {
				t.Errorf("M/M/%d at %v: %.4f s in the system, want %.4f", c, load, got, want)
			}
			if got := s.busy.Seconds() / float64(c) / d.Seconds(); math.Abs(got/load-1) > 0.02 {
				t.Errorf("M/M/%d: utilisation %.3f, want %v", c, got, load)
			}
			if got := s.said.cpuSeconds() / s.busy.Seconds(); math.Abs(got-1) > 1e-9 {
				t.Errorf("M/M/%d: CPU is %v of the time in use", c, got)
			}
		}
	}
}

func TestWorkHasItsMeanAndVariation(t *testing.T) {
	for _, variation := range []float64{1, 4} {
		s := defaults()
		s.variation = variation
		w := newWorld(s, find(t, "round-robin", policies, policyName), 1)
		const n = 200_000
		sum, squares := 0.0, 0.0
		for range n {
			x := w.draw()
			sum, squares = sum+x, squares+x*x
		}
		mean := sum / n
		if got := squares/n/mean/mean - 1; math.Abs(mean/0.06-1) > 0.02 || math.Abs(got/variation-1) > 0.05 {
			t.Errorf("mean %.4f, variation %.2f; want 0.06, %v", mean, got, variation)
		}
	}
}

// TestPowerOfTwoChoicesMeetsTheory: with one proxy before many single-worker servers, the mean time in
// the system is the sum over i of load^(2^i - 2) service times (M. Mitzenmacher, The Power of Two Choices
// in Randomized Load Balancing, 1996), and that of random choice 1/(1 - load).
func TestPowerOfTwoChoicesMeetsTheory(t *testing.T) {
	s := defaults()
	s.servers, s.workers, s.proxies, s.slowest, s.fastest = 100, 1, 1, 1, 1
	s.work, s.variation, s.load = 10*time.Millisecond, 1, 0.9
	s.warmup, s.window = 2*time.Second, 8*time.Second
	w := newWorld(s, find(t, "least-request", policies, policyName), 1)
	var sum time.Duration
	w.play()
	n := 0.0
	for i, count := range w.measures.latency.counts {
		middle := float64(shortest) * math.Exp((float64(i)-0.5)*w.measures.latency.logGrowth)
		sum += time.Duration(middle * float64(count))
		n += float64(count)
	}
	want := 0.0
	for i := 1; i < 10; i++ {
		want += math.Pow(s.load, math.Pow(2, float64(i))-2)
	}
	if got := sum.Seconds() / n / s.work.Seconds(); math.Abs(got/want-1) > 0.05 {
		t.Errorf("%.3f service times in the system, want %.3f", got, want)
	}
}

func TestEngineFindsTheCapacities(t *testing.T) {
	m := run(find(t, "uneven", scenarios, scenarioName), find(t, evenkeel, policies, policyName), 1, 0.5)
	w, late, mean := m.world, m.weights[len(m.weights)/2:], 0.0
	for _, s := range w.servers {
		mean += s.speed / float64(len(w.servers))
	}
	for i, s := range w.servers {
		got := 0.0 // over the second half: a weight may doubt an endpoint for a while
		for _, weights := range late {
			got += weights[i] / float64(len(late))
		}
		if want := s.speed / mean; math.Abs(math.Log(got/want)) > 0.2 {
			t.Errorf("server %d: weight %.3f of the mean, speed %.3f of the mean", i, got, want)
		}
	}
	if m.pushes == 0 {
		t.Error("nothing was pushed")
	}
}

func TestEqualServersGetEqualShares(t *testing.T) {
	for _, p := range []string{"round-robin", "least-request", evenkeel, "oracle", "pid", "orca-wrr", "rtt"} {
		m := play(t, "even", p, 1)
		if v := m.imbalance(20 * time.Second); len(v) != 1 || v[0] > 1.5 {
			t.Errorf("%s: max/avg %v of equal servers", p, v)
		}
	}
}

// TestMisfortunesBefall checks that each scenario is what it says.
func TestMisfortunesBefall(t *testing.T) {
	world := func(scenario string) *world { return play(t, scenario, "least-request", 1).world }
	if w := world("visible-step"); w.servers[0].visible != 0.5 || w.servers[1].visible != 0 {
		t.Error("visible-step slows others than a quarter")
	}
	if w := world("hidden-step"); w.servers[4].hidden != 0.5 || w.servers[4].visible != 0 {
		t.Error("hidden-step is not hidden")
	}
	if m := play(t, "sinkhole-100", "least-request", 1); m.outcomes[failed] == 0 || m.world.servers[one].errorRate != 0 {
		t.Error("sinkhole-100 fails nothing, or does not end")
	}
	if n := play(t, "black-hole", evenkeel, 1).outcomes[timedOut]; n <= play(t, "uneven", evenkeel, 1).outcomes[timedOut] {
		t.Errorf("black-hole swallows nothing: %d gave up", n)
	}
	if m := play(t, "overload", "least-request", 1); m.outcomes[succeeded]+m.outcomes[failed] == m.arrivals {
		t.Error("overload times nothing out")
	}
	if w := world("rolling-restart"); w.servers[0].instance != 1 || w.servers[20].instance != 1 || w.servers[0].warm {
		t.Error("rolling-restart leaves out servers")
	}
	for name, want := range map[string]int{"metrics-30": 7, "metrics-50": 12, "metrics-100": 24} {
		mute := 0
		for _, s := range world(name).servers {
			if s.mute {
				mute++
			}
		}
		if mute != want {
			t.Errorf("%s: %d of 24 servers are mute, want %d", name, mute, want)
		}
	}
	down := play(t, "control-down", evenkeel, 1)
	for at := 6; at < 15; at++ { // of 24 s it is gone from 4 to 16
		if !reflect.DeepEqual(down.weights[at], down.weights[5]) {
			t.Fatalf("second %d: weights move while the control plane is down", at)
		}
	}
}
