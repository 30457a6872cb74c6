package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// act is something that happens on a stage; it is over when it returns, which it does when its context ends.
type act = func(context.Context, stage)

func after(wait time.Duration, then act) act {
	return func(ctx context.Context, on stage) {
		if pause(ctx, wait) == nil {
			then(ctx, on)
		}
	}
}

func together(acts ...act) act {
	return func(ctx context.Context, on stage) {
		var running sync.WaitGroup
		for _, a := range acts {
			running.Go(func() { a(ctx, on) })
		}
		running.Wait()
	}
}

// some chooses servers out of n by their place; speeds rise with it.
type some func(i, n int) bool

func all(_, _ int) bool       { return true }
func quarter(i, _ int) bool   { return i%4 == 1 }
func one(i, n int) bool       { return i == n/2 }
func slow(i, _ int) bool      { return i == 1 }
func third(i, _ int) bool     { return i%3 == 0 }
func twoThirds(i, _ int) bool { return i%3 != 0 }

// change is something that is done to a server.
type change func(*demo.Backend) error

// apply does it to some of the servers, for good.
func apply(which some, do change) act {
	return func(_ context.Context, on stage) {
		for i, b := range on.servers {
			if which(i, len(on.servers)) {
				must(do(b))
			}
		}
	}
}

// must not fail: the values are constants of the scenarios.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func slowDown(factor float64, hidden bool) change {
	return func(b *demo.Backend) error {
		if hidden {
			return b.SetHiddenSlowdown(factor)
		}
		return b.SetSpeed(b.Config().Speed / factor)
	}
}

func fail(rate float64) change {
	return func(b *demo.Backend) error { return b.SetErrorRate(rate) }
}

func hang(b *demo.Backend) error {
	b.SetMetricsFault(demo.MetricsHang)
	return nil
}

func claim(share float64) change {
	return func(b *demo.Backend) error { return b.SetReportedCPU(share) }
}

func sinkhole(lasts time.Duration) act {
	return func(ctx context.Context, on stage) {
		apply(one, fail(1))(ctx, on)
		_ = pause(ctx, lasts)
		apply(one, fail(0))(ctx, on)
	}
}

func blackHole(lasts time.Duration) act {
	set := func(swallow bool) act {
		return apply(one, func(b *demo.Backend) error { b.SetBlackHole(swallow); return nil })
	}
	return func(ctx context.Context, on stage) {
		set(true)(ctx, on)
		_ = pause(ctx, lasts)
		set(false)(ctx, on)
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

// neighbours takes a random part of the speed of random servers for a random time. All arms of one
// repetition have the same neighbours.
func neighbours(ctx context.Context, on stage) {
	random := rand.New(rand.NewPCG(on.servers[0].Config().Seed, 0x6e65696768))
	var moved sync.WaitGroup
	defer moved.Wait()
	next := random.Perm(len(on.servers))
	for turn := 0; pause(ctx, 3*time.Second) == nil; turn++ {
		// By turns, and no turn comes again within the longest stay.
		b := on.servers[next[turn%len(next)]]
		factor := 1.25 + 1.75*random.Float64()
		stay := 5*time.Second + time.Duration(random.Int64N(int64(10*time.Second)))
		hidden := random.IntN(2) == 0
		must(slowDown(factor, hidden)(b))
		moved.Go(func() {
			_ = pause(ctx, stay)
			must(slowDown(1, hidden)(b))
		})
	}
}

// rolling restarts a server every 4.5 s; twelve have gone by in less than a minute.
func rolling(ctx context.Context, on stage) {
	var cold sync.WaitGroup
	defer cold.Wait()
	for _, b := range on.servers {
		began := time.Now()
		complain("crash", b.Crash())
		must(slowDown(2, false)(b))
		ended := pause(ctx, 2*time.Second) != nil
		complain("restart", b.Restart())
		cold.Go(func() {
			_ = pause(ctx, 8*time.Second)
			must(slowDown(1, false)(b))
		})
		if ended || pause(ctx, 4500*time.Millisecond-time.Since(began)) != nil {
			return
		}
	}
}

// killControlPlane keeps it dead until the end of the window.
func killControlPlane(ctx context.Context, on stage) {
	if on.arm.kill == nil {
		return
	}
	complain("kill", on.arm.kill())
	<-ctx.Done()
	complain("revive", on.arm.revive(context.WithoutCancel(ctx)))
}

// complain tells of what went wrong on the stage; the run shows what came of it.
func complain(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "lb: %s: %v\n", what, err)
	}
}
