// Command lb measures how evenly and how fast one real Envoy serves a load from servers of uneven speed,
// under several ways to balance it. It prints a report in Markdown; docs/benchmarks/lb.md is one.
//
//	make build && go run ./bench/lb > docs/benchmarks/lb.md
//
// Every run starts from nothing (fresh servers, control plane and Envoy), lets the system settle, and
// measures a window. The ways to balance ("arms") take turns, repetition by repetition, so that whatever
// else the machine does falls on all of them alike; in one repetition all arms see the same arrival times
// and the same sequence of work on each server. A run during which the machine was too busy to trust its
// latencies is shown and left out of the medians.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := benchmark(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lb:", err)
		os.Exit(1)
	}
}

// experiment is what all runs have in common.
type experiment struct {
	topology
	binary, envoy string
	warmup        time.Duration
	window        time.Duration
	repetitions   int
	busyLimit     float64
	raw           string
	arms          []arm
	scenarios     []scenario
}

func benchmark(ctx context.Context, args []string) error {
	x := experiment{topology: standard}
	flags := flag.NewFlagSet("lb", flag.ExitOnError)
	flags.StringVar(&x.binary, "binary", "bin/controlplane", "the control plane's program (make build)")
	flags.IntVar(&x.servers, "servers", 12, "number of servers, 2 to 200")
	flags.IntVar(&x.workers, "workers", 2, "workers of each server")
	flags.Float64Var(&x.fastest, "fastest", 4, "speed of the fastest server; the slowest has 1")
	flags.DurationVar(&x.work, "work", 60*time.Millisecond, "mean service time at speed 1")
	flags.Float64Var(&x.load, "load", 0.7, "offered load, as a part of the capacity of all servers")
	flags.DurationVar(&x.warmup, "warmup", 30*time.Second, "time to settle before the window")
	flags.DurationVar(&x.window, "window", time.Minute, "time that is measured")
	flags.IntVar(&x.repetitions, "repetitions", 3, "runs of each arm")
	flags.Float64Var(&x.busyLimit, "busy-limit", 0.8, "share of the machine above which a run does not count")
	flags.StringVar(&x.raw, "raw", "", "folder for every request of every run, as CSV; empty: not kept")
	names := flags.String("arms", "LEAST_REQUEST,Capacity", "arms to compare, the first is the baseline: "+strings.Join(armNames(), ", "))
	stories := flags.String("scenarios", "uneven", "what happens to the servers: "+strings.Join(scenarioNames(), ", "))
	_ = flags.Parse(args) // exits on an error

	var err error
	if x.scenarios, err = scenariosOf(*stories); err != nil {
		return err
	}
	if x.arms, err = armsOf(*names); err != nil {
		return err
	}
	if x.servers < 2 || x.servers > 200 || x.workers < 1 || x.fastest < 1 || x.repetitions < 1 || x.window <= 0 {
		return errors.New("want 2 to 200 servers, at least 1 worker, a fastest speed of at least 1, at least 1 repetition, a window")
	}
	if x.envoy, err = demo.FindEnvoy(); err != nil {
		return err
	}
	if x.binary, err = filepath.Abs(x.binary); err != nil {
		return err
	}
	if x.raw != "" {
		if err := os.MkdirAll(x.raw, 0o755); err != nil {
			return err
		}
	}

	var runs []run
	for _, s := range x.scenarios {
		for repetition := range x.repetitions {
			for _, a := range x.arms {
				fmt.Fprintf(os.Stderr, "run %d of %d: %s, %s, repetition %d, %s\n",
					len(runs)+1, len(x.scenarios)*x.repetitions*len(x.arms), s.name, a.name, repetition+1, x.warmup+x.window)
				r, err := x.run(ctx, s, a, repetition)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, a.name, err)
				}
				fmt.Fprintf(os.Stderr, "  %s\n", r)
				runs = append(runs, r)
			}
		}
	}
	x.print(os.Stdout, strings.Join(append([]string{"go run ./bench/lb"}, args...), " "), runs)
	return nil
}

// run is what one arm did in one repetition of a scenario.
type run struct {
	scenario   string
	arm        string
	repetition int
	// Highest over mean utilisation of the servers: over the whole window, and the median over its slices
	// of five seconds.
	imbalance, imbalance5s float64
	p50, p99               time.Duration
	goodput                float64 // share of the requests answered with 2xx within a second
	busy                   float64 // share of the machine
	counted                bool    // the machine was not too busy
}

func (r run) String() string {
	flag := ""
	if !r.counted {
		flag = ", does not count"
	}
	return fmt.Sprintf("max/avg %.3f, over 5 s %.3f, p50 %.1f ms, p99 %.0f ms, goodput %.2f %%, machine %.0f %% busy%s",
		r.imbalance, r.imbalance5s, milliseconds(r.p50), milliseconds(r.p99), r.goodput*100, r.busy*100, flag)
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }

// run starts everything, measures, and takes it down again.
func (x experiment) run(ctx context.Context, s scenario, a arm, repetition int) (run, error) {
	if s.alter != nil {
		s.alter(&x.topology)
	}
	dir, err := os.MkdirTemp("", "evenkeel-lb-")
	if err != nil {
		return run{}, err
	}
	defer os.RemoveAll(dir)
	servers, err := demo.StartFleet(x.serverConfigs(0, repetition))
	if err != nil {
		return run{}, err
	}
	defer servers.Close()
	listener, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		return run{}, err
	}
	at, err := a.start(ctx, rig{
		topology: x.topology, binary: x.binary, envoy: x.envoy, dir: dir, state: filepath.Join(dir, "state"),
		servers: servers, listeners: []uint16{listener},
	})
	if err != nil {
		return run{}, err
	}
	defer at.stop()
	load, stopLoad, err := demo.StartLoad(ctx, demo.LoadOptions{
		URLs: []string{fmt.Sprintf("http://127.0.0.1:%d/", listener)}, Rate: x.load * servers.Capacity(), Seed: uint64(repetition + 1),
	})
	if err != nil {
		return run{}, err
	}
	defer stopLoad()

	if err := pause(ctx, x.warmup); err != nil {
		return run{}, err
	}
	machine, err := demo.ReadMachineTime()
	if err != nil {
		return run{}, fmt.Errorf("the share of the machine in use: %w", err)
	}
	during, endDuring := context.WithCancel(ctx)
	var events sync.WaitGroup
	defer func() { endDuring(); events.Wait() }()
	if s.during != nil {
		events.Go(func() { s.during(during, stage{servers: servers, arm: at}) })
	}
	from, usage := load.Elapsed(), servers.Usage()
	var short []float64
	for slice, end := usage, from+x.window; load.Elapsed() < end; {
		if err := pause(ctx, min(5*time.Second, end-load.Elapsed())); err != nil {
			return run{}, err
		}
		now := servers.Usage()
		short = append(short, demo.MaxOverMean(demo.Utilisations(slice, now)))
		slice = now
	}
	utilisations := demo.Utilisations(usage, servers.Usage())
	to := load.Elapsed()
	machineNow, err := demo.ReadMachineTime()
	if err != nil {
		return run{}, err
	}
	// Requests of the window that are still under way count too, slow ones above all.
	if err := pause(ctx, 2*time.Second); err != nil {
		return run{}, err
	}
	report := load.Report(from, to)
	r := run{
		scenario: s.name, arm: a.name, repetition: repetition,
		imbalance: demo.MaxOverMean(utilisations), imbalance5s: demo.Median(short),
		p50: report.P50, p99: report.P99, goodput: report.Goodput(), busy: machineNow.BusyShare(machine),
	}
	r.counted = r.busy <= x.busyLimit
	return r, x.keep(r, report)
}

// keep writes every request of a run to a file of its own, if that is wanted.
func (x experiment) keep(r run, report demo.Report) error {
	if x.raw == "" {
		return nil
	}
	var text strings.Builder
	text.WriteString("intended_us,latency_us,status\n")
	for _, s := range report.Samples {
		text.WriteString(strconv.FormatInt((s.Intended - report.From).Microseconds(), 10))
		text.WriteByte(',')
		text.WriteString(strconv.FormatInt(s.Latency.Microseconds(), 10))
		text.WriteByte(',')
		text.WriteString(strconv.Itoa(s.Status))
		text.WriteByte('\n')
	}
	name := fmt.Sprintf("%s-%s-%d.csv", r.scenario, r.arm, r.repetition+1)
	return os.WriteFile(filepath.Join(x.raw, name), []byte(text.String()), 0o644)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
