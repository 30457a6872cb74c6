package main

import (
	"fmt"
	"io"
	"math"
	"runtime"

	"evenkeel.io/controlplane/internal/demo"
)

// measure is a column of the report.
type measure struct {
	name   string
	format string
	value  func(run) float64
}

var measures = []measure{
	{"max/avg utilisation, window", "%.3f", func(r run) float64 { return r.imbalance }},
	{"max/avg, 5 s", "%.3f", func(r run) float64 { return r.imbalance5s }},
	{"p50 ms", "%.1f", func(r run) float64 { return milliseconds(r.p50) }},
	{"p99 ms", "%.0f", func(r run) float64 { return milliseconds(r.p99) }},
	{"goodput %", "%.3f", func(r run) float64 { return r.goodput * 100 }},
	{"machine busy %", "%.0f", func(r run) float64 { return r.busy * 100 }},
}

// print writes the whole report in Markdown: how it was made, medians of the runs that count, all runs.
func (x experiment) print(out io.Writer, command string, runs []run) {
	fmt.Fprintf(out, `# One real Envoy before uneven servers

    %s

%d simulated servers of %d workers each, of speeds from 1x to %gx, behind one Envoy on a machine of %d CPUs. A
request takes %s on average at speed 1, hyper-exponentially distributed (squared coefficient of variation 4),
and is queued first come, first served. Arrivals are a Poisson process at %.0f %% of the servers' capacity that does
not wait for answers; latency counts from the moment a request should have been sent. Each of %d runs per arm
starts from nothing, settles for %s and is measured for %s. The arms take turns, and in each turn all see the
same arrival times. What happens in the window is said of each scenario.

- LEAST_REQUEST: a BalancePolicy of mode Equal, which is Envoy's choice of the less busy of two servers, with
  the outlier detection that every cluster of ours has.
- Capacity: the same policy with mode Enforce, everything else at its default.
- ROUND_ROBIN: Envoy alone. oracle: Envoy alone, with the servers' true speeds as weights.

Utilisation is the share of its workers' time that a server was busy, known exactly to the simulation; max/avg is
the busiest server over the mean, of the whole window and as the median over its slices of five seconds. Goodput is
the share of requests answered with 2xx within a second. A run during which more than %.0f %% of the machine was in
use does not count: its latencies are those of the machine.

`, command, x.servers, x.workers, x.fastest, runtime.NumCPU(), x.work, x.load*100, x.repetitions, x.warmup, x.window, x.busyLimit*100)

	for _, s := range x.scenarios {
		var of []run
		for _, r := range runs {
			if r.scenario == s.name {
				of = append(of, r)
			}
		}
		fmt.Fprintf(out, "## %s\n\nIn the window: %s.\n\n", s.name, s.about)
		x.printMedians(out, of)
		fmt.Fprintln(out, "\nEvery run:")
		fmt.Fprintln(out)
		printRuns(out, of)
		fmt.Fprintln(out)
	}
}

func printRuns(out io.Writer, runs []run) {
	printHeading(out, "run", "counts")
	for _, r := range runs {
		counts := "yes"
		if !r.counted {
			counts = "no: machine too busy"
		}
		fmt.Fprintf(out, "| %s %d | %s |", r.arm, r.repetition+1, counts)
		for _, m := range measures {
			fmt.Fprintf(out, " "+m.format+" |", m.value(r))
		}
		fmt.Fprintln(out)
	}
}

// printMedians prints a line per arm, and for each arm but the first the ratio to the first.
func (x experiment) printMedians(out io.Writer, runs []run) {
	printHeading(out, "median of", "runs")
	var baseline []float64
	for i, a := range x.arms {
		counted := 0
		medians := make([]float64, len(measures))
		for j, m := range measures {
			var values []float64
			for _, r := range runs {
				if r.arm == a.name && r.counted {
					values = append(values, m.value(r))
				}
			}
			counted, medians[j] = len(values), demo.Median(values)
		}
		printLine(out, a.name, counted, medians)
		if i == 0 {
			baseline = medians
			continue
		}
		fmt.Fprintf(out, "| %s / %s | |", a.name, x.arms[0].name)
		for j := range measures {
			fmt.Fprintf(out, " %s |", number("%.2f", medians[j]/baseline[j]))
		}
		fmt.Fprintln(out)
	}
}

func printHeading(out io.Writer, first, second string) {
	fmt.Fprintf(out, "| %s | %s |", first, second)
	for _, m := range measures {
		fmt.Fprintf(out, " %s |", m.name)
	}
	fmt.Fprint(out, "\n|---|---|")
	for range measures {
		fmt.Fprint(out, "---:|")
	}
	fmt.Fprintln(out)
}

func printLine(out io.Writer, name string, counted int, values []float64) {
	fmt.Fprintf(out, "| %s | %d |", name, counted)
	for j, m := range measures {
		fmt.Fprintf(out, " %s |", number(m.format, values[j]))
	}
	fmt.Fprintln(out)
}

// number leaves a dash where no run counted.
func number(format string, v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf(format, v)
}
