// Command limits measures what a rate limit service costs: ours in its own process, with its counters in
// memory and in Redis, and the reference service (github.com/envoyproxy/ratelimit) with Redis, configured by
// us over xDS. All count the same two limits for the same keys, asked by the same clients over as many
// connections, in rounds that take turns; Redis has a process of its own for each. It prints a report in
// Markdown.
//
//	go run ./bench/limits > docs/benchmarks/limits.md
//	go run ./bench/limits -rounds 1 -for 2s -arms memory,reference
//	go run ./bench/limits flood > docs/benchmarks/limits-flood.md
//
// The flood has an attacker come to our service with a million keys in a minute, and fails if that costs others a part
// of their limits, or the service more memory than it may have.
//
//	who is measured        arms.go, ours.go
//	asked directly         direct.go
//	through a real Envoy   envoy.go
//	what is printed        report.go
//	the flood              flood.go
//
// What does not belong here: whether the counts are right. Before anything is measured each service has to
// admit exactly what one limit allows, and no more; the rest are tests of package rls.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are what a run is made with.
type settings struct {
	rounds      int
	period      time.Duration
	tenants     int
	connections int
	callers     int
	directRate  float64
	envoyRate   float64
	arms        []string
	dir         string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	does, args := run, os.Args[1:]
	if len(args) > 0 {
		roles := map[string]func(context.Context, []string) error{oursRole: serveOurs, floodedRole: serveFlooded, floodRole: runFlood}
		if role := roles[args[0]]; role != nil {
			does, args = role, args[1:]
		}
	}
	if err := does(ctx, args); err != nil {
		fmt.Fprintln(os.Stderr, "limits:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var s settings
	flags := flag.NewFlagSet("limits", flag.ExitOnError)
	flags.IntVar(&s.rounds, "rounds", 10, "rounds in which everybody has a turn")
	flags.DurationVar(&s.period, "for", 5*time.Second, "how long a turn of each measurement lasts")
	flags.IntVar(&s.tenants, "tenants", 100, "values of the key")
	flags.IntVar(&s.connections, "connections", 2, "connections to a service that is asked directly; an Envoy has one for each worker, and two workers here")
	flags.IntVar(&s.callers, "callers", 32, "callers that ask directly, one call after the other each")
	flags.Float64Var(&s.directRate, "direct-rate", 1000, "calls/s, where they come at times of their own")
	flags.Float64Var(&s.envoyRate, "rate", 500, "requests/s through Envoy")
	arms := flags.String("arms", strings.Join(armNames, ","), "who is measured; the reference is always")
	_ = flags.Parse(args) // exits on an error
	s.arms = strings.Split(*arms, ",")
	for _, name := range s.arms {
		if !slices.Contains(armNames, name) {
			return fmt.Errorf("-arms %s: expected some of %s", name, strings.Join(armNames, ", "))
		}
	}
	if !slices.Contains(s.arms, reference) {
		s.arms = append(s.arms, reference)
	}
	if s.rounds < 1 || s.period < time.Second || s.tenants < 1 || s.connections < 1 || s.callers < s.connections || s.directRate <= 0 || s.envoyRate <= 0 {
		return errors.New("expected at least one round, a second, a tenant, a connection, as many callers, and rates of more than 0")
	}
	var err error
	if s.dir, err = os.MkdirTemp("", "limits-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	return measure(ctx, s)
}

// measure starts everybody, has them take turns, and prints what came of it.
func measure(ctx context.Context, s settings) error {
	arms, stop, err := startArms(ctx, s)
	defer stop()
	if err != nil {
		return err
	}
	for _, a := range arms {
		if err := a.counts(ctx); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	proxy, err := startProxy(ctx, s, arms)
	if err != nil {
		return err
	}
	defer proxy.stop()

	r := newResults(s, arms)
	for round := range s.rounds {
		// The order turns with the rounds, so that nobody is always the one after another.
		for i := range arms {
			a := arms[(i+round)%len(arms)]
			fmt.Fprintf(os.Stderr, "limits: round %d of %d, %s\n", round+1, s.rounds, a.name)
			if err := r.flatOut(ctx, a); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			if err := r.paced(ctx, a); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		ways := proxy.ways
		for i := range ways {
			w := ways[(i+round)%len(ways)]
			fmt.Fprintf(os.Stderr, "limits: round %d of %d, through Envoy, %s\n", round+1, s.rounds, w.name)
			if err := r.throughEnvoy(ctx, proxy, w, round); err != nil {
				return fmt.Errorf("through Envoy, %s: %w", w.name, err)
			}
		}
	}
	return r.print(os.Stdout)
}
