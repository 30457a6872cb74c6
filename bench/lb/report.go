package main

import (
	"fmt"
	"io"
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
	{"goodput %", "%.2f", func(r run) float64 { return r.goodput * 100 }},
	{"machine busy %", "%.0f", func(r run) float64 { return r.busy * 100 }},
}

// print writes two Markdown tables: medians of the runs that count, and all runs.
func (x experiment) print(out io.Writer, runs []run) {
	fmt.Fprintf(out, "%d servers of %d workers, speeds 1x to %gx, mean service time %s at 1x (hyper-exponential), %.0f %% load, one Envoy; "+
		"%d runs of each, %s measured after %s; %d CPUs.\n\n",
		x.servers, x.workers, x.fastest, x.work, x.load*100, x.repetitions, x.window, x.warmup, runtime.NumCPU())

	x.printMedians(out, runs)
	fmt.Fprintln(out, "\nEvery run:")
	fmt.Fprintln(out)
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
			fmt.Fprintf(out, " %.2f |", medians[j]/baseline[j])
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
		fmt.Fprintf(out, " "+m.format+" |", values[j])
	}
	fmt.Fprintln(out)
}
