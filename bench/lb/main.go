// Command lb measures how evenly and how fast real Envoys serve a load from servers of uneven speed, in
// quiet and in trouble, under several ways to balance it. It runs a plan and keeps what it measured, and
// writes a report of that; docs/benchmarks/lb.md is one.
//
//	make build
//	go run ./bench/lb run -plan standard -results /tmp/lb
//	go run ./bench/lb report -results /tmp/lb -out docs/benchmarks
//
// A run is a scenario (what happens) under an arm (a way to balance) in a repetition (a seed of arrivals and
// work). It starts from fresh servers, lets the system settle, and measures a window; an arm that learns
// starts from what it knew at the end of a warm-up. Several rigs run side by side, each in a lane of
// addresses and ports of its own, and all arms of a repetition at the same time where there are lanes
// enough. A run during which the machine was too busy to trust its latencies is kept and does not count.
//
//	what is compared    plan.go, schedule.go
//	what happens        topology.go, scenarios.go, arms.go and a file for each kind of arm
//	a run               execute.go, run.go, warm.go, state.go, record.go, histogram.go
//	what it means       study.go, statistics.go, bars.go, report.go, plot.go, chart
//
// What does not belong here: simulated time, which bench/sim has.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"evenkeel.io/controlplane/internal/demo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "lb:", err)
		stop()
		os.Exit(1)
	}
}

const usage = `lb measures ways to balance on real Envoys.

  lb run -plan NAME -results DIR       run a plan; what DIR has already is not run again
  lb report -results DIR -out DIR      write the report of what was run

Examples:

  go run ./bench/lb run -plan smoke -results /tmp/lb-smoke
  go run ./bench/lb run -plan standard -results /tmp/lb -dry-run
  go run ./bench/lb run -plan standard -results /tmp/lb -only hidden,sinkhole -repetitions 2
  go run ./bench/lb report -results /tmp/lb -out docs/benchmarks

"lb run -help" and "lb report -help" list the flags.
`

func command(ctx context.Context, args []string) error {
	name := "help"
	if len(args) > 0 {
		name = args[0]
	}
	switch name {
	case "run":
		return runCommand(ctx, args)
	case "report":
		return reportCommand(args)
	case "help", "-h", "-help", "--help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("%q: want run or report; lb -help shows examples", name)
}

const maxLanes = 16

func runCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lb run", flag.ContinueOnError)
	known := make([]string, len(plans))
	for i, p := range plans {
		known[i] = p.name + " (" + p.about + ")"
	}
	name := flags.String("plan", "standard", "what to run: "+strings.Join(known, ", "))
	results := flags.String("results", "", "folder for what is measured and learnt; what it has already is not run again")
	only := flags.String("only", "", "scenarios of the plan, comma-separated; empty: all of them")
	repetitions := flags.Int("repetitions", 0, "repetitions of every arm; 0: as planned")
	lanes := flags.Int("lanes", 3, fmt.Sprintf("rigs side by side, 1 to %d", maxLanes))
	dense := flags.Bool("dense", false, "leave no lane free: faster, but some arms of a repetition run one after the other")
	window := flags.Duration("window", 0, "time that is measured; 0: as planned")
	settle := flags.Duration("settle", -1, "time before the window; negative: as planned")
	warmup := flags.Duration("warmup", 0, "time that an arm may learn before its runs; 0: as planned")
	busyLimit := flags.Float64("busy-limit", 0.8, "share of the machine above which a run does not count")
	again := flags.Bool("again", false, "run again what did not count, because the machine was too busy")
	dryRun := flags.Bool("dry-run", false, "print what would be run, and how long it would take")
	flags.BoolVar(dryRun, "n", false, "the same as -dry-run")
	binary := flags.String("binary", "bin/controlplane", "the control plane's program (make build)")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("argument %q: want flags only", flags.Arg(0))
	}
	p, err := planNamed(*name)
	if err != nil {
		return err
	}
	var names []string
	if *only != "" {
		names = strings.Split(*only, ",")
	}
	if *repetitions < 0 || *repetitions > 1000 || *lanes < 1 || *lanes > maxLanes {
		return fmt.Errorf("-repetitions %d, -lanes %d: want at most 1000 repetitions and 1 to %d lanes", *repetitions, *lanes, maxLanes)
	}
	if p, err = p.restrict(names, *repetitions); err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return err
	}
	if *window > 0 {
		p.settings.Window = *window
	}
	if *settle >= 0 {
		p.settings.Settle = *settle
	}
	if *warmup > 0 {
		p.settings.Warmup = *warmup
	}
	if err := p.settings.validate(); err != nil {
		return err
	}
	if *results == "" {
		return errors.New("-results: want a folder")
	}
	r := runner{settings: p.settings, results: *results, busyLimit: *busyLimit}
	if r.envoy, err = demo.FindEnvoy(); err != nil {
		return err
	}
	if r.binary, err = filepath.Abs(*binary); err != nil {
		return err
	}
	if r.made, err = newMaking(ctx, strings.Join(append([]string{"go run ./bench/lb"}, args...), " "), r.binary, r.envoy); err != nil {
		return err
	}
	return r.execute(ctx, schedule(p, *lanes, *dense), *lanes, *again, *dryRun)
}

func reportCommand(args []string) error {
	flags := flag.NewFlagSet("lb report", flag.ContinueOnError)
	results := flags.String("results", "", "folder that lb run has filled")
	out := flags.String("out", "docs/benchmarks", "folder for lb.md and its plots")
	remarks := flags.String("remarks", "bench/lb/remarks.md", "paragraphs written by hand that follow what is lost; they may be missing")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 || *results == "" {
		return errors.New("want -results and flags only")
	}
	records, _, err := readRecords(filepath.Join(*results, journalName))
	if err != nil {
		return err
	}
	return writeReport(*out, *remarks, latest(records))
}
