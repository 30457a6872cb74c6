package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

func TestEventsHappenInOrder(t *testing.T) {
	var c clock
	var got []string
	note := func(s string) func() { return func() { got = append(got, s) } }
	c.at(3, note("c"))
	c.at(1, note("a1"))
	c.at(2, func() { c.at(1, note("late")); note("b")() })
	c.at(1, note("a2"))
	c.at(9, note("after"))
	c.run(5)
	if s := strings.Join(got, " "); s != "a1 a2 b late c" || c.now != 5 {
		t.Errorf("%s, then it is %d", s, c.now)
	}
	n := 0
	c.every(10, 10, func() { n++ })
	c.run(45)
	if n != 4 {
		t.Errorf("%d times in 4 periods", n)
	}
}

func TestQuantiles(t *testing.T) {
	h := newHistogram(1.01, time.Second)
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * time.Millisecond)
	}
	before := append([]uint64(nil), h.counts...)
	for q, want := range map[float64]float64{0.5: 500, 0.99: 990, 1: 1000} {
		if got := milliseconds(h.quantile(q, nil)); math.Abs(got/want-1) > 0.01 {
			t.Errorf("quantile %v: %v ms, want %v", q, got, want)
		}
	}
	h.add(20 * time.Millisecond)
	if got := milliseconds(h.quantile(0.5, before)); math.Abs(got/20-1) > 0.01 {
		t.Errorf("%v ms since, want 20", got)
	}
	if h.quantile(0.5, h.counts) != 0 {
		t.Error("a quantile of nothing")
	}
}

func measured(t *testing.T, policy string) *measures {
	t.Helper()
	s := defaults()
	s.servers = 2
	return newMeasures(newWorld(s, find(t, policy, policies, policyName), 1))
}

func TestImbalance(t *testing.T) {
	m := measured(t, evenkeel)
	up := func(a, b time.Duration) []usage { return []usage{{a, 0, true}, {b, 0, true}} }
	m.use = [][]usage{up(0, 0), up(1, 3), up(3, 5), {{5, 0, true}, {9, 1, true}}}
	got := m.imbalance(slice)
	if len(got) != 3 || got[0] != 1.5 || got[1] != 1 || got[2] != 1 {
		t.Errorf("%v, want 1.5, 1, and 1 without the server that restarted", got)
	}
	if got := m.imbalance(2 * slice); len(got) != 1 || got[0] != 1.25 {
		t.Errorf("%v over two slices, want 1.25", got)
	}
}

func TestConvergence(t *testing.T) {
	m := measured(t, evenkeel)
	for at := range 120 {
		w := 1.0
		if at < 45 {
			w = 2
		}
		m.weights = append(m.weights, []float64{w, 2 - w/2})
	}
	if !math.IsNaN(m.convergence()) {
		t.Error("converged though nothing changed")
	}
	m.changedAt, m.changed = m.world.warmup+20*time.Second, m.world.servers[:1]
	if got := m.convergence(); got != 25 {
		t.Errorf("%v s, want 25", got)
	}
	m.weights[115] = []float64{4, 1}
	if got := m.convergence(); !math.IsInf(got, 1) {
		t.Errorf("%v s though it moves at the end", got)
	}
}

func TestOscillation(t *testing.T) {
	m := measured(t, evenkeel)
	for at := range 120 {
		x := math.Exp(0.1 * float64(at%2*2-1))
		m.weights = append(m.weights, []float64{x, 0})
	}
	if got := m.oscillation(); math.Abs(got-0.1) > 1e-9 {
		t.Errorf("%v, want 0.1 of the one server that was there", got)
	}
}

func TestUnknownNamesAreRefused(t *testing.T) {
	_, err := choose("-scenario", "uneven,typo", scenarios, scenarioName)
	if err == nil || !strings.Contains(err.Error(), `-scenario "typo"`) || !strings.Contains(err.Error(), "rolling-restart") {
		t.Errorf("error %v, want one that names typo and lists the scenarios", err)
	}
	if chosen, err := choose("-policy", "oracle, pid", policies, policyName); err != nil || len(chosen) != 2 {
		t.Errorf("%v, %v", chosen, err)
	}
	if err := simulate([]string{"-seeds", "0"}); err == nil || !strings.Contains(err.Error(), "-seeds 0") {
		t.Errorf("error %v", err)
	}
}

func TestReportHasALineForEveryRun(t *testing.T) {
	chosen, _ := choose("", "visible-step,even", scenarios, scenarioName)
	used, _ := choose("", "least-request,evenkeel", policies, policyName)
	results := runAll(chosen, used, 1, 0.2)
	var md, js strings.Builder
	printReport(&md, "go run ./bench/sim -quick", 1, 0.2, chosen, used, results)
	for _, want := range []string{"## even\n", "## visible-step\n", "| even | 9", "| visible-step | 9", "| evenkeel | ", "| least-request | ", "12s and is measured for 24s"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("the report has no %q", want)
		}
	}
	if n := strings.Count(md.String(), "| evenkeel | "); n != 2 {
		t.Errorf("%d lines of evenkeel, want 2", n)
	}
	if err := printJSON(&js, results); err != nil {
		t.Fatal(err)
	}
	var back []result
	if err := json.Unmarshal([]byte(js.String()), &back); err != nil || len(back) != 4 || back[3].Policy != evenkeel {
		t.Errorf("%v, %+v", err, back)
	}
}

func TestReportNamesLosses(t *testing.T) {
	chosen, _ := choose("", "even,uneven,liar", scenarios, scenarioName)
	var out strings.Builder
	printLosses(&out, chosen, []result{
		{Scenario: "even", Policy: "pid", Goodput: 99.98, P99: 480},
		{Scenario: "even", Policy: evenkeel, Goodput: 99.98, P99: 500},
		{Scenario: "even", Policy: "oracle", Goodput: 100, P99: 100},
		{Scenario: "uneven", Policy: "pid", Goodput: 99.98, P99: 470},
		{Scenario: "uneven", Policy: evenkeel, Goodput: 99.98, P99: 500},
		{Scenario: "liar", Policy: "pid", Goodput: 99.99, P99: 900},
		{Scenario: "liar", Policy: evenkeel, Goodput: 99.97, P99: 500},
	})
	if n := strings.Count(out.String(), "\n- "); n != 2 ||
		!strings.Contains(out.String(), "- uneven: pid has 99.980 % goodput and a p99 of 470 ms") || !strings.Contains(out.String(), "- liar: pid") {
		t.Errorf("want two losses, to pid, in uneven and liar:\n%s", out.String())
	}
	out.Reset()
	if printLosses(&out, chosen, nil); !strings.Contains(out.String(), "Nowhere.") {
		t.Error(out.String())
	}
}
