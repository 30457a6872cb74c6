package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// study is the runs of one scenario.
type study struct {
	scenario string
	arms     []string            // in the order of the plan: ours first
	runs     map[string][]record // of each arm, in the order of repetitions, counted or not
}

// studies of all the scenarios that were run, those of the standard plan first, in its order.
func studies(records []record) []*study {
	byName := map[string]*study{}
	var list []*study
	for _, r := range records {
		s := byName[r.Scenario]
		if s == nil {
			s = &study{scenario: r.Scenario, runs: map[string][]record{}}
			byName[r.Scenario] = s
			list = append(list, s)
		}
		if s.runs[r.Arm] == nil {
			s.arms = append(s.arms, r.Arm)
		}
		s.runs[r.Arm] = append(s.runs[r.Arm], r)
	}
	order := planned()
	slices.SortStableFunc(list, func(a, b *study) int {
		return place(order, a.scenario) - place(order, b.scenario)
	})
	order = armOrder()
	for _, s := range list {
		slices.SortStableFunc(s.arms, func(a, b string) int { return place(order, a) - place(order, b) })
		for _, runs := range s.runs {
			slices.SortFunc(runs, func(a, b record) int { return a.Repetition - b.Repetition })
		}
	}
	return list
}

// planned scenarios, the most important first.
func planned() []string {
	p, err := planNamed("standard")
	if err != nil {
		panic(err) // there is always a standard
	}
	return p.scenarios()
}

// armOrder is ours, its variants, the alternatives, and the oracle at last, which is none.
func armOrder() []string {
	var order []string
	for _, a := range arms {
		order = append(order, a.name)
	}
	slices.SortStableFunc(order, func(a, b string) int { return rank(a) - rank(b) })
	return order
}

func rank(arm string) int {
	switch {
	case arm == ours:
		return 0
	case isVariant(arm):
		return 1
	case arm == oracle:
		return 3
	}
	return 2
}

const (
	oracle     = "oracle"
	plainLeast = "LEAST_REQUEST"
	tilted     = "Capacity tilt 0.25"
)

func isVariant(arm string) bool { return strings.HasPrefix(arm, ours+" ") }

// place of a name in the order; what is not there comes last.
func place(order []string, name string) int {
	if i := slices.Index(order, name); i >= 0 {
		return i
	}
	return len(order)
}

// alternatives are what a user could have in place of ours.
func (s *study) alternatives() []string {
	return slices.DeleteFunc(slices.Clone(s.arms), func(a string) bool { return rank(a) != 2 })
}

// counted runs of an arm.
func (s *study) counted(arm string) []record {
	return slices.DeleteFunc(slices.Clone(s.runs[arm]), func(r record) bool { return !r.Counted })
}

// median over the counted runs of an arm; NaN of none.
func (s *study) median(arm string, measure func(*record) float64) float64 {
	var values []float64
	for _, r := range s.counted(arm) {
		if v := measure(&r); !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	return demo.Median(values)
}

// pairs compares a measure of two arms in the repetitions that count of both.
func (s *study) pairs(mine, theirs string, measure func(*record) float64) comparison {
	var a, b []float64
	for _, r := range s.counted(mine) {
		for _, other := range s.counted(theirs) {
			if other.Repetition == r.Repetition {
				a, b = append(a, measure(&r)), append(b, measure(&other))
			}
		}
	}
	return compare(a, b)
}

// pooled counts over all counted runs of an arm.
type pooled struct {
	requests, good, errors, timedOut int
	latency                          histogram
}

func (s *study) pool(arm string) *pooled {
	p := &pooled{}
	for _, r := range s.counted(arm) {
		p.requests += r.Requests
		p.good += r.Good
		p.errors += r.Errors
		p.timedOut += r.TimedOut
		p.latency.merge(&r.Latency)
	}
	return p
}

// goodput is in percent; NaN of nothing.
func (p *pooled) goodput() float64 { return 100 * float64(p.good) / float64(p.requests) }

// errorShare is in percent; NaN of nothing.
func (p *pooled) errorShare() float64 { return 100 * float64(p.errors) / float64(p.requests) }

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }

func quantileOf(q float64) func(*record) float64 {
	return func(r *record) float64 { return milliseconds(r.Latency.quantile(q)) }
}

var (
	p50  = quantileOf(0.50)
	p99  = quantileOf(0.99)
	p999 = quantileOf(0.999)
)

func imbalance(r *record) float64   { return r.imbalance() }
func imbalance5s(r *record) float64 { return r.imbalance5s() }
func busy(r *record) float64        { return 100 * r.Busy }

// pushesPerMinute is NaN where nobody counted.
func pushesPerMinute(r *record) float64 {
	if r.Pushes == nil {
		return math.NaN()
	}
	return *r.Pushes / r.Window.Minutes()
}

func settling(r *record) float64 { return r.settled() }

// summary of a run in a line.
func (r *record) summary() string {
	text := fmt.Sprintf("%s: max/avg %.3f, p50 %.1f ms, p99 %.0f ms, goodput %.3f %%, machine %.0f %% busy",
		r.trial, r.imbalance(), p50(r), p99(r), 100*float64(r.Good)/float64(r.Requests), busy(r))
	if !r.Counted {
		text += ", does not count"
	}
	return text
}
