package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// faultAfter is how far into the window a fault begins.
const faultAfter = 5 * time.Second

var scenarios = []scenario{
	{name: "uneven", about: "nothing happens"},
	{name: "even", about: "all servers have speed 1, nothing happens", alter: func(t *topology) { t.fastest = 1 }},
	{name: "visible", about: "after 5 s a quarter of the servers has half its speed, and its CPU shows it",
		during: once(quarter, func(b *demo.Backend, config demo.BackendConfig) error { return b.SetSpeed(config.Speed / 2) })},
	{name: "hidden", about: "after 5 s a quarter of the servers takes twice as long, and its CPU does not show it",
		during: once(quarter, func(b *demo.Backend, _ demo.BackendConfig) error { return b.SetHiddenSlowdown(2) })},
	{name: "sinkhole", about: "after 5 s one server fails every request at once",
		during: once(one, func(b *demo.Backend, _ demo.BackendConfig) error { return b.SetErrorRate(1) })},
	{name: "dark", about: "after 5 s the metrics of two thirds of the servers hang",
		during: once(twoThirds, func(b *demo.Backend, _ demo.BackendConfig) error {
			b.SetMetricsFault(demo.MetricsHang)
			return nil
		})},
	{name: "pauses", about: "every two seconds another server does nothing for 0.4 s", during: pauses},
}

func quarter(i, _ int) bool   { return i%4 == 1 }
func one(i, n int) bool       { return i == n/2 }
func twoThirds(i, _ int) bool { return i%3 != 0 }

// once applies a fault to some of the servers, for the rest of the run.
func once(which func(i, n int) bool, apply func(*demo.Backend, demo.BackendConfig) error) func(context.Context, stage) {
	return func(ctx context.Context, on stage) {
		if pause(ctx, faultAfter) != nil {
			return
		}
		for i, b := range on.servers {
			if which(i, len(on.servers)) {
				if err := apply(b, b.Config()); err != nil {
					panic(err) // the scenario names an impossible value
				}
			}
		}
	}
}

func pauses(ctx context.Context, on stage) {
	for turn := 0; ; turn++ {
		if pause(ctx, 1600*time.Millisecond) != nil {
			return
		}
		b := on.servers[(turn*5)%len(on.servers)]
		b.SetPaused(true)
		ended := pause(ctx, 400*time.Millisecond) != nil
		b.SetPaused(false)
		if ended {
			return
		}
	}
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

func scenariosOf(list string) ([]scenario, error) {
	var chosen []scenario
next:
	for name := range strings.SplitSeq(list, ",") {
		for _, s := range scenarios {
			if s.name == name {
				chosen = append(chosen, s)
				continue next
			}
		}
		return nil, fmt.Errorf("scenario %q: want one of %s", name, strings.Join(scenarioNames(), ", "))
	}
	return chosen, nil
}
