// Command adapt simulates a limit that follows its backends, and prints a report in Markdown;
// docs/benchmarks/limits-adaptive.md has one.
//
//	go run ./bench/adapt
//
// A run depends on its seed and on nothing else: no clock, no network, no process. The decisions come from
// the real packages weights, adapt and gcra, fed with readings as a scrape of the demo's backends would make
// them. What Envoy and the rate limit service take to act on a decision is not in it.
//
//	server.go  backends: workers with a queue, or shared; their metrics as a scrape reads them
//	world.go   Poisson arrivals, the limit, the choice of a backend, a tick of the control plane
//	story.go   what befalls them, and what came of it
//	main.go    the report
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

var kinds = []kind{
	{"1 worker", 1, false}, {"2 workers", 2, false}, {"8 workers", 8, false}, {"64 workers", 64, false}, {"shared", 2, true},
}

func main() {
	seeds := flag.Int("seeds", 9, "runs of each row, at least 1")
	hold := flag.Duration("hold", 10*time.Second, "how long the limit holds before it rises by a step")
	trace := flag.String("trace", "", "tell each tick of one run in place of the report: what happens (shown, hidden or busy) and the servers, as in 'hidden/2 workers'")
	flag.Parse()
	if *seeds < 1 {
		fmt.Fprintf(os.Stderr, "-seeds %d: want at least 1\n", *seeds)
		os.Exit(2)
	}
	if *trace != "" {
		if err := tell(*trace, *hold); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	reportLosses(*seeds, *hold)
	fmt.Println()
	reportBusy(*seeds, *hold)
}

func tell(what string, hold time.Duration) error {
	happens, name, _ := strings.Cut(what, "/")
	at := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if at < 0 {
		return fmt.Errorf("-trace %q: no servers of that name", what)
	}
	switch happens {
	case "shown", "hidden":
		lose(kinds[at], happens == "hidden", hold, 1, os.Stdout)
	case "busy":
		beBusy(kinds[at], 1, true, hold, 1, os.Stdout)
	default:
		return fmt.Errorf("-trace %q: want shown, hidden or busy before the servers", what)
	}
	return nil
}

func reportLosses(seeds int, hold time.Duration) {
	fmt.Println("| loss | servers | followed after | p99 unloaded | first 20 s | next 20 s | 5 min | admitted then | under 2 after | factor when idle | rush | back after |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, loss := range []string{"shown", "hidden"} {
		for _, k := range kinds {
			runs := each(seeds, func(seed uint64) lost { return lose(k, loss == "hidden", hold, seed, nil) })
			of := func(f func(lost) float64) float64 { return median(runs, f) }
			fmt.Printf("| %s | %s | %.1f s | %.0f ms | %.2f | %.2f | %.2f | %.0f/s | %.1f s | %.2f | %.2f | %.0f s |\n", loss, k.name,
				of(func(l lost) float64 { return l.followed }), of(func(l lost) float64 { return 1000 * l.unloaded }),
				of(func(l lost) float64 { return l.first }), of(func(l lost) float64 { return l.next }),
				of(func(l lost) float64 { return l.long }), of(func(l lost) float64 { return l.admitted }),
				of(func(l lost) float64 { return l.well }), of(func(l lost) float64 { return l.idle }),
				of(func(l lost) float64 { return l.rush }), of(func(l lost) float64 { return l.back }))
		}
	}
}

func reportBusy(seeds int, hold time.Duration) {
	loads := []float64{0.7, 0.8, 0.9, 0.95, 1, 1.1}
	fmt.Print("| servers |")
	for _, load := range loads {
		fmt.Printf(" %.0f %% |", 100*load)
	}
	fmt.Println("\n|---" + strings.Repeat("|---", len(loads)) + "|")
	for _, k := range kinds {
		fmt.Printf("| %s |", k.name)
		for _, load := range loads {
			type run struct{ part, lowest float64 }
			runs := each(seeds, func(seed uint64) run {
				follows, lowest := beBusy(k, load, true, hold, seed, nil)
				stands, _ := beBusy(k, load, false, hold, seed, nil)
				return run{follows / stands, lowest}
			})
			fmt.Printf(" %.1f %% (%.2f) |", 100*median(runs, func(r run) float64 { return r.part }), median(runs, func(r run) float64 { return r.lowest }))
		}
		fmt.Println()
	}
}

// each runs once per seed, on all processors.
func each[T any](seeds int, run func(seed uint64) T) []T {
	out := make([]T, seeds)
	var all sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range out {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			out[i] = run(uint64(i + 1))
		})
	}
	all.Wait()
	return out
}

func median[T any](runs []T, of func(T) float64) float64 {
	var values []float64
	for _, r := range runs {
		values = append(values, of(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
