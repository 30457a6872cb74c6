// Command sim compares ways to balance on simulated fleets, and prints a report in Markdown;
// docs/benchmarks/sim.md is one.
//
//	go run ./bench/sim > docs/benchmarks/sim.md
//
// A run is a scenario (what befalls the fleet) under a policy (how Envoys pick and who gives them
// weights) with a seed, and depends on nothing else: no clock, no network, no process. The weights of the
// product come from the real package internal/weights, fed with readings as a scrape would make them.
// Everything of Envoy that is modelled names the file of Envoy's source where it is found.
//
//	events     events.go                  the simulated clock
//	servers    server.go, histogram.go    queues, misfortunes, what they export
//	Envoys     proxy.go, picker.go, edf.go, outlier.go, orca.go
//	weights    control.go, scrape.go, policy.go
//	runs       world.go, scenario.go, measures.go, report.go
//
// What does not belong here: real sockets and real time, which bench/lb has.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

func main() {
	if err := simulate(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(2)
	}
}

func simulate(args []string) error {
	flags := flag.NewFlagSet("sim", flag.ExitOnError)
	scenarioList := flags.String("scenario", "", "scenarios, comma-separated; empty: all of "+nameList(scenarios, scenarioName))
	policyList := flags.String("policy", "", "policies, comma-separated; empty: all of "+nameList(policies, policyName))
	seeds := flags.Int("seeds", 3, "runs of each scenario under each policy, 1 to 1000")
	quick := flags.Bool("quick", false, "one seed, half the warm-up and half the window: a look, not a measurement")
	asJSON := flags.Bool("json", false, "print JSON in place of Markdown")
	_ = flags.Parse(args) // exits on an error

	chosen, err := choose("-scenario", *scenarioList, scenarios, scenarioName)
	if err != nil {
		return err
	}
	used, err := choose("-policy", *policyList, policies, policyName)
	if err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("argument %q: want flags only", flags.Arg(0))
	}
	scale := 1.0
	if *quick {
		*seeds, scale = 1, 0.5
	}
	if *seeds < 1 || *seeds > 1000 {
		return fmt.Errorf("-seeds %d: want 1 to 1000", *seeds)
	}
	results := runAll(chosen, used, *seeds, scale)
	if *asJSON {
		return printJSON(os.Stdout, results)
	}
	command := strings.Join(append([]string{"go run ./bench/sim"}, args...), " ")
	printReport(os.Stdout, command, *seeds, scale, chosen, used, results)
	return nil
}

// runAll runs everything on all processors and returns the results in the order of scenarios, then
// policies.
func runAll(chosen []scenario, used []policy, seeds int, scale float64) []result {
	results := make([]result, len(chosen)*len(used))
	progress := newProgress(len(results) * seeds)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(results)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(results) {
					return
				}
				sc, p := chosen[i/len(used)], used[i%len(used)]
				var runs []*measures
				for seed := range seeds {
					runs = append(runs, run(sc, p, uint64(seed+1), scale))
					progress.done(sc.name + ", " + p.name)
				}
				results[i] = summarise(sc.name, p.name, runs)
			}
		})
	}
	wg.Wait()
	progress.end()
	return results
}

// progress tells on stderr how far it is: one line that changes on a terminal, else a line per tenth.
type progress struct {
	mu       sync.Mutex // guards what follows
	runs     int
	of       int
	told     int
	terminal bool
}

func newProgress(of int) *progress {
	info, err := os.Stderr.Stat()
	return &progress{of: of, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (p *progress) done(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs++
	tenth := 10 * p.runs / p.of
	switch {
	case p.terminal:
		fmt.Fprintf(os.Stderr, "\r\033[K%d of %d runs: %s", p.runs, p.of, what)
	case tenth > p.told:
		p.told = tenth
		fmt.Fprintf(os.Stderr, "%d of %d runs\n", p.runs, p.of)
	}
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\033[K")
	}
}
