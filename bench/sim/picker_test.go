package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func hostsOf(weights ...uint32) []*host {
	var hosts []*host
	for i, w := range weights {
		hosts = append(hosts, &host{server: &server{index: i}, weight: w})
	}
	return hosts
}

func picks(p interface{ pick() *host }, n int) []int {
	var out []int
	for range n {
		out = append(out, p.pick().server.index)
	}
	return out
}

func byWeight(h *host) float64 { return float64(h.weight) }

func drawWeights(t *rapid.T) []uint32 {
	return rapid.SliceOfN(rapid.Uint32Range(1, 8000), 2, 12).Draw(t, "weights")
}

// TestEDFSharesFollowWeights: of n picks a host with the part p of the weights gets p*n, give or take
// what its neighbours' deadlines round to.
func TestEDFSharesFollowWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := drawWeights(t)
		sum := 0.0
		for _, w := range weights {
			sum += float64(w)
		}
		e := newEDF(hostsOf(weights...), byWeight, rapid.Uint32().Draw(t, "seed"))
		const n = 2000
		got := make([]float64, len(weights))
		for _, i := range picks(e, n) {
			got[i]++
		}
		for i, w := range weights {
			if want := n * float64(w) / sum; math.Abs(got[i]-want) > float64(len(weights)) {
				t.Fatalf("host %d of weights %v: %v picks of %d, want %.1f", i, weights, got[i], n, want)
			}
		}
	})
}

// TestEDFSkipsPicksAsIfTheyWereMade compares the short cut with its definition.
func TestEDFSkipsPicksAsIfTheyWereMade(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := drawWeights(t)
		slices.Sort(weights)
		weights = slices.Compact(weights)
		skipped := rapid.Uint32Range(0, 3000).Draw(t, "picks")
		short := newEDF(hostsOf(weights...), byWeight, skipped)
		long := newEDF(hostsOf(weights...), byWeight, 0)
		picks(long, int(skipped))
		// Deadlines that are equal but for rounding may come in either order, so counts are compared.
		a, b := make([]int, len(weights)), make([]int, len(weights))
		for range 200 {
			a[short.pick().server.index]++
			b[long.pick().server.index]++
		}
		for i := range a {
			if d := a[i] - b[i]; d < -1 || d > 1 {
				t.Fatalf("weights %v after %d picks: %v and %v", weights, skipped, a, b)
			}
		}
	})
}

func TestEDFTakesTheWeightWhenItPutsBack(t *testing.T) {
	hosts := hostsOf(1000, 1000)
	hosts[0].active = 3
	p := newLeastRequest(&clock{}, rand.New(rand.NewPCG(1, 1)), 1, 0)
	hosts[1].weight = 1001
	p.rebuild(hosts)
	count := func() [2]int {
		var n [2]int
		for _, i := range picks(p, 500) {
			n[i]++
		}
		return n
	}
	if n := count(); n[0] != 100 && n[0] != 99 && n[0] != 101 {
		t.Errorf("3 active against 0, bias 1: %v picks, want 1 to 4", n)
	}
	hosts[0].active, hosts[1].active = 0, 3
	if n := count(); n[1] < 95 || n[1] > 105 {
		t.Errorf("0 active against 3: %v picks, want 4 to 1", n)
	}
}

func TestBiasOfActiveRequests(t *testing.T) {
	h := &host{weight: 1000, active: 3}
	for b, want := range map[float64]float64{0: 1000, 1: 250, 1.5: 125} {
		if got := newLeastRequest(&clock{}, rand.New(rand.NewPCG(1, 1)), b, 0).weight(h); math.Abs(got-want) > 1e-9 {
			t.Errorf("bias %v: %v, want %v", b, got, want)
		}
	}
}

// TestRebuildStartsAtTheSamePlace is why frequent pushes cost accuracy.
func TestRebuildStartsAtTheSamePlace(t *testing.T) {
	hosts := hostsOf(1000, 2000, 3500, 700)
	for name, p := range map[string]picker{
		"round robin":   newRoundRobin(rand.New(rand.NewPCG(1, 2))),
		"least request": newLeastRequest(&clock{}, rand.New(rand.NewPCG(1, 2)), 1.5, 0),
	} {
		p.rebuild(hosts)
		first := picks(p, 20)
		p.rebuild(hosts)
		if again := picks(p, 20); !slices.Equal(first, again) {
			t.Errorf("%s: %v, after a rebuild %v", name, first, again)
		}
	}
}

func TestRoundRobinOfEqualWeightsGoesOnAfterARebuild(t *testing.T) {
	p := newRoundRobin(rand.New(rand.NewPCG(1, 2)))
	hosts := hostsOf(5, 5, 5)
	p.rebuild(hosts)
	seen := picks(p, 4)
	p.rebuild(hosts)
	seen = append(seen, picks(p, 2)...)
	for i := 1; i < len(seen); i++ {
		if seen[i] != (seen[i-1]+1)%3 {
			t.Fatalf("%v is not in turn", seen)
		}
	}
}

func TestTwoChoicesTakeTheLessBusy(t *testing.T) {
	p := newLeastRequest(&clock{}, rand.New(rand.NewPCG(1, 2)), 1.5, 0)
	hosts := hostsOf(1000, 1000, 1000, 1000)
	hosts[2].active = 10
	p.rebuild(hosts)
	n := make([]int, 4)
	for _, i := range picks(p, 8000) {
		n[i]++
	}
	// Only when both draws are the busy one: 1 in 16.
	if n[2] < 400 || n[2] > 600 {
		t.Errorf("%v picks of 8000, want about 500 of the busy one", n)
	}
}

func testProxy(n int) (*proxy, *clock) {
	var c clock
	p := &proxy{clock: &c, workers: []picker{newLeastRequest(&c, rand.New(rand.NewPCG(1, 2)), 1.5, 0)}}
	var endpoints []endpoint
	for i := range n {
		endpoints = append(endpoints, endpoint{newServer(&c, i, 2, 10, 1), 0, 1000})
	}
	p.update(endpoints)
	return p, &c
}

func (p *proxy) observeN(h *host, ok bool, n int) {
	for range n {
		p.observe(h, ok)
	}
}

func TestFiveErrorsInARowEject(t *testing.T) {
	p, c := testProxy(10)
	h := p.hosts[3]
	p.observeN(h, false, 4)
	p.observe(h, true)
	p.observeN(h, false, 4)
	if h.outlier.ejected {
		t.Fatal("ejected though a success came between")
	}
	p.observe(h, false)
	p.observeN(h, false, 3)
	if !h.outlier.ejected || p.ejected != 1 {
		t.Fatal("five errors in a row do not eject")
	}
	if slices.Contains(picks(p.workers[0], 200), 3) {
		t.Error("an ejected host is picked")
	}
	for _, step := range []struct {
		at      time.Duration
		ejected bool
	}{{29 * time.Second, true}, {30 * time.Second, false}} {
		c.now = step.at
		p.review()
		if h.outlier.ejected != step.ejected {
			t.Errorf("at %v: ejected %v", step.at, h.outlier.ejected)
		}
	}
	if p.observeN(h, false, 4); h.outlier.ejected {
		t.Error("errors from before the ejection still count")
	}
}

func TestEjectionsGrowAndAreForgiven(t *testing.T) {
	p, c := testProxy(10)
	h := p.hosts[0]
	p.observeN(h, false, 5)
	h.outlier.backoff++ // a second ejection before it was forgiven
	c.now = 59 * time.Second
	p.review()
	if !h.outlier.ejected {
		t.Error("the second ejection lasts no longer than the first")
	}
	c.now = time.Minute
	p.review()
	p.review()
	if h.outlier.ejected || h.outlier.backoff != 0 {
		t.Errorf("%+v after two good intervals", h.outlier)
	}
}

func TestEjectionsAreBounded(t *testing.T) {
	for n, want := range map[int]int{1: 1, 3: 1, 10: 2, 24: 4} {
		p, _ := testProxy(n)
		for _, h := range p.hosts {
			p.observeN(h, false, 5)
		}
		if p.ejected != want {
			t.Errorf("%d of %d hosts are ejected, want %d", p.ejected, n, want)
		}
	}
}

func TestAllEjectedFails(t *testing.T) {
	p, _ := testProxy(1)
	p.observeN(p.hosts[0], false, 5)
	got := outcomes
	p.send(&request{over: func(_ *request, how outcome) { got = how }}, 0)
	if got != failed {
		t.Errorf("outcome %v, want failed", got)
	}
}

func TestUpdateKeepsWhatIsKnownOfAHost(t *testing.T) {
	p, _ := testProxy(2)
	a, b := p.hosts[0], p.hosts[1]
	a.active, b.active = 3, 4
	p.update([]endpoint{{a.server, 0, 500}, {b.server, 1, 700}})
	if p.hosts[0] != a || a.weight != 500 || a.gone {
		t.Error("an update replaced a host that stays")
	}
	if p.hosts[1] == b || p.hosts[1].active != 0 || !b.gone {
		t.Error("a new instance inherited what was known of the one before")
	}
}

func TestORCAWeights(t *testing.T) {
	for _, test := range []struct {
		report orcaReport
		want   string
	}{
		{orcaReport{100, 0, 0.5}, "200 true"},
		{orcaReport{100, 50, 0.5}, "100 true"},
		{orcaReport{0, 0, 0.5}, "0 false"},
		{orcaReport{100, 0, 0}, "0 false"},
	} {
		w, ok := test.report.weight()
		if got := fmt.Sprint(w, ok); got != test.want {
			t.Errorf("%+v: %s, want %s", test.report, got, test.want)
		}
	}
	p, c := testProxy(4)
	p.orca = true
	for i, cpu := range []float64{0.25, 0.5, 1} {
		p.hosts[i].orca.take(0, orcaReport{100, 0, cpu})
	}
	weights := func() (out []uint32) {
		p.reweigh()
		for _, h := range p.hosts {
			out = append(out, h.weight)
		}
		return out
	}
	c.now = 9 * time.Second
	if got := weights(); !slices.Equal(got, []uint32{1, 1, 1, 1}) {
		t.Errorf("weights %v within the blackout", got)
	}
	c.now = 10 * time.Second
	if got := weights(); !slices.Equal(got, []uint32{400, 200, 100, 200}) {
		t.Errorf("weights %v, want the reported and the median", got)
	}
	c.now = 181 * time.Second
	if got := weights(); !slices.Equal(got, []uint32{1, 1, 1, 1}) {
		t.Errorf("weights %v after they expired", got)
	}
}

func TestSlowStart(t *testing.T) {
	c := clock{now: time.Minute}
	p := newLeastRequest(&c, rand.New(rand.NewPCG(1, 2)), 1, 30*time.Second)
	hosts := hostsOf(1000, 1000)
	hosts[1].since = c.now
	p.rebuild(hosts)
	for _, step := range []struct {
		age  time.Duration
		want float64
	}{{0, 100}, {15 * time.Second, 500}, {30 * time.Second, 1000}} {
		c.now = time.Minute + step.age
		if got := p.weight(hosts[1]); got != step.want || p.weight(hosts[0]) != 1000 {
			t.Errorf("after %v: weight %v, want %v", step.age, got, step.want)
		}
	}
	c.now = 10 * time.Minute
	if p.schedule == nil {
		t.Error("the schedule ended before an update")
	}
	p.rebuild(hosts)
	if p.schedule != nil {
		t.Error("an update without a host in slow start keeps the schedule")
	}
}
