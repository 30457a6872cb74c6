package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// result is a scenario under a policy, over all seeds.
type result struct {
	Scenario string `json:"scenario"`
	Policy   string `json:"policy"`
	Seeds    int    `json:"seeds"`
	Requests uint64 `json:"requests"`
	// Imbalance60s and Imbalance5s are max/avg utilisation: mean over the minutes, median over the slices
	// of five seconds.
	Imbalance60s float64 `json:"imbalance60s"`
	Imbalance5s  float64 `json:"imbalance5s"`
	// P50, P99 and P999 are in milliseconds; P99Low and P99High are the lowest and highest of a seed.
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	P999    float64 `json:"p999"`
	P99Low  float64 `json:"p99Low"`
	P99High float64 `json:"p99High"`
	// Goodput and Errors are percentages of the requests: 2xx within a second, 5xx.
	Goodput         float64  `json:"goodput"`
	Errors          float64  `json:"errors"`
	PushesPerMinute float64  `json:"pushesPerMinute"`
	Convergence     *float64 `json:"convergenceSeconds"` // null: it has nothing to converge to, or does not
	Oscillation     float64  `json:"oscillation"`        // percent
	// Terms are the stages that had a say in the engine's weights, by name.
	Terms []string `json:"terms,omitempty"`
}

// summarise joins the runs of one scenario under one policy.
func summarise(scenario, policy string, runs []*measures) result {
	r := result{Scenario: scenario, Policy: policy, Seeds: len(runs), P99Low: math.Inf(1)}
	latency := newLatencies()
	var minutes, short, settled []float64
	var outcomes [outcomes]uint64
	pushes, window := 0, time.Duration(0)
	for _, m := range runs {
		latency.merge(m.latency)
		minutes = append(minutes, m.imbalance(longView)...)
		short = append(short, m.imbalance(slice)...)
		r.Requests += m.arrivals
		for i, n := range m.outcomes {
			outcomes[i] += n
		}
		pushes, window = pushes+m.pushes, window+m.world.window
		p99 := milliseconds(m.latency.quantile(0.99, nil))
		r.P99Low, r.P99High = min(r.P99Low, p99), max(r.P99High, p99)
		settled = append(settled, m.convergence())
		r.Oscillation += 100 * m.oscillation() / float64(len(runs))
	}
	terms := map[string]bool{}
	for _, m := range runs {
		if e, ok := m.world.control.(*engine); ok {
			maps.Copy(terms, e.terms)
		}
	}
	r.Terms = slices.Sorted(maps.Keys(terms))
	for _, v := range minutes {
		r.Imbalance60s += v / float64(len(minutes))
	}
	r.Imbalance5s = demo.Median(short)
	r.P50 = milliseconds(latency.quantile(0.5, nil))
	r.P99 = milliseconds(latency.quantile(0.99, nil))
	r.P999 = milliseconds(latency.quantile(0.999, nil))
	r.Goodput = 100 * float64(outcomes[succeeded]) / float64(r.Requests)
	r.Errors = 100 * float64(outcomes[failed]) / float64(r.Requests)
	r.PushesPerMinute = float64(pushes) / window.Minutes()
	if median := demo.Median(settled); !math.IsNaN(median) && !math.IsInf(median, 1) {
		r.Convergence = &median
	}
	return r
}

func milliseconds(d time.Duration) float64 { return min(float64(d), float64(deadline)) / 1e6 }

func printJSON(out io.Writer, results []result) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(results)
}

const preamble = `# Simulated fleets

    %s

A discrete-event simulation. Equal flags give an equal report, bit for bit. %d servers of %d workers each, unless a
scenario says otherwise of speeds from %gx to %gx, behind %d Envoys of %d worker thread(s). A request takes %s on average
at speed 1, hyper-exponentially distributed (squared coefficient of variation %g), and is queued first come, first
served; %d may wait, more get 503. Arrivals are a Poisson process at %.0f %% of the servers' capacity, less where faults
take capacity away. Clients give up after %s, and a server goes on with what nobody waits for. There are no retries.
Each of %d seed(s) warms up for %s and is measured for %s; a seed gives every policy the same arrivals, the same work and the
same misfortunes. All policies have outlier detection (5 consecutive 5xx, 30 s, at most 20 %%, always one).

`

const columns = `- max/avg: utilisation of the busiest server over the mean, in views of 60 s (mean) and 5 s (median). Servers that came
  or went within a view are left out of it.
- p50, p99, p99.9: of answers with 2xx and of clients that gave up, which count a second. In brackets the lowest and
  the highest p99 of a seed.
- goodput: 2xx within a second; errors: 5xx. What is missing gave up.
- pushes: weights sent per minute, changes of members not counted.
- settled: from the last lasting change until the share of the traffic that weights give to those it befell stays within
  15 % of its final value, the median of the seeds; "no": not 20 s before the end. 0 is also what weights have that never
  move, because the policy does not see the change.
- wobble: standard deviation of ln weight over the second half of the window, mean over the servers.

`

func printReport(out io.Writer, command string, seeds int, scale float64, chosen []scenario, used []policy, results []result) {
	s := defaults()
	s.scale(scale)
	fmt.Fprintf(out, preamble, command, s.servers, s.workers, s.slowest, s.fastest, s.proxies, s.pickers, s.work,
		s.variation, s.queue, 100*s.load, deadline, seeds, s.warmup, s.window)
	for _, p := range used {
		fmt.Fprintf(out, "- **%s**: %s\n", p.name, p.what)
	}
	if stages := stagesOf(results); len(stages) > 0 {
		fmt.Fprintf(out, "\nThe stages that had a say in the weights of evenkeel: %s.\n", strings.Join(stages, ", "))
	}
	fmt.Fprintf(out, "\n%s", columns)
	printOverview(out, chosen, used, results)
	printLosses(out, chosen, results)
	for _, sc := range chosen {
		fmt.Fprintf(out, "\n## %s\n\n%s.\n\n", sc.name, sc.what)
		fmt.Fprintln(out, "| policy | max/avg 60 s | 5 s | p50 ms | p99 ms | p99.9 ms | goodput % | errors % | pushes/min | settled s | wobble % |")
		fmt.Fprintln(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
		for i, r := range results {
			if r.Scenario == sc.name {
				r.print(out, used[i%len(used)], sc)
			}
		}
	}
}

func (r result) print(out io.Writer, p policy, sc scenario) {
	settled := "-"
	switch {
	case sc.settles == 0 || !p.hasWeights():
	case r.Convergence == nil:
		settled = "no"
	default:
		settled = fmt.Sprintf("%.0f", *r.Convergence)
	}
	fmt.Fprintf(out, "| %s | %.3f | %.3f | %.1f | %.0f (%.0f-%.0f) | %.0f | %.3f | %.3f | %.1f | %s | %.1f |\n",
		r.Policy, r.Imbalance60s, r.Imbalance5s, r.P50, r.P99, r.P99Low, r.P99High, r.P999, r.Goodput, r.Errors,
		r.PushesPerMinute, settled, r.Oscillation)
}

// printOverview is one table of goodput and p99 for all.
func printOverview(out io.Writer, chosen []scenario, used []policy, results []result) {
	fmt.Fprint(out, "## Overview\n\nGoodput % · p99 ms.\n\n| scenario |")
	for _, p := range used {
		fmt.Fprintf(out, " %s |", p.name)
	}
	fmt.Fprint(out, "\n|---|")
	for range used {
		fmt.Fprint(out, "---:|")
	}
	fmt.Fprintln(out)
	for i, sc := range chosen {
		fmt.Fprintf(out, "| %s |", sc.name)
		for j := range used {
			r := results[i*len(used)+j]
			fmt.Fprintf(out, " %.3f · %.0f |", r.Goodput, r.P99)
		}
		fmt.Fprintln(out)
	}
}

func stagesOf(results []result) []string {
	stages := map[string]bool{}
	for _, r := range results {
		if r.Policy == evenkeel {
			for _, t := range r.Terms {
				stages[t] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(stages))
}

// What counts as better than evenkeel: more goodput, by points, or a lower p99, as a ratio. Less is
// what seeds differ by.
const (
	betterGoodput = 0.01
	betterP99     = 0.95
)

// printLosses says where evenkeel is beaten by what anybody can have, that is by all but the oracle.
func printLosses(out io.Writer, chosen []scenario, results []result) {
	fmt.Fprintf(out, "\n## Where evenkeel loses\n\nAll policies but the oracle that have a goodput higher by more than %g points, or a p99 lower by more than %.0f %%.\n\n",
		betterGoodput, 100*(1-betterP99))
	lost := false
	for _, sc := range chosen {
		var ours result
		for _, r := range results {
			if r.Scenario == sc.name && r.Policy == evenkeel {
				ours = r
			}
		}
		for _, r := range results {
			if r.Scenario != sc.name || r.Policy == evenkeel || r.Policy == "oracle" || ours.Policy == "" {
				continue
			}
			if r.Goodput > ours.Goodput+betterGoodput || r.P99 < betterP99*ours.P99 {
				lost = true
				fmt.Fprintf(out, "- %s: %s has %.3f %% goodput and a p99 of %.0f ms, evenkeel %.3f %% and %.0f ms.\n",
					sc.name, r.Policy, r.Goodput, r.P99, ours.Goodput, ours.P99)
			}
		}
	}
	if !lost {
		fmt.Fprintln(out, "Nowhere.")
	}
}
