package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results are what the rounds measured.
type results struct {
	settings
	loadBefore string
	arms       []*arm
	direct     map[string]*directResult
	envoy      map[string]*envoyResult
}

// directResult is of a service that was asked directly.
type directResult struct {
	calls      int
	unanswered int
	took       time.Duration
	cpu        spent
	paced      quantiles
}

// envoyResult is of a way through Envoy.
type envoyResult struct {
	requests   int
	unanswered int
	envoy      time.Duration
	cpu        spent
	quantiles
}

// quantiles are the latencies of each round.
type quantiles struct{ p50, p99 []time.Duration }

func (q *quantiles) add(latencies []time.Duration) {
	slices.Sort(latencies)
	at := func(q float64) time.Duration { return latencies[int(q*float64(len(latencies)-1))] }
	q.p50, q.p99 = append(q.p50, at(0.5)), append(q.p99, at(0.99))
}

// over are the differences in each round: what machines do meanwhile is much the same in one round, and not in
// another.
func (q *quantiles) over(o quantiles) quantiles {
	var d quantiles
	for i := range q.p50 {
		d.p50, d.p99 = append(d.p50, q.p50[i]-o.p50[i]), append(d.p99, q.p99[i]-o.p99[i])
	}
	return d
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return (d[(len(d)-1)/2] + d[len(d)/2]) / 2
}

func newResults(s settings, arms []*arm) *results {
	load, _ := os.ReadFile("/proc/loadavg")
	before, _, _ := strings.Cut(string(load), " ")
	r := &results{settings: s, loadBefore: before, arms: arms, direct: map[string]*directResult{}, envoy: map[string]*envoyResult{noLimit: {}}}
	for _, a := range arms {
		r.direct[a.name], r.envoy[a.name] = &directResult{}, &envoyResult{}
	}
	return r
}

func (r *results) flatOut(ctx context.Context, a *arm) error {
	before, err := a.spent()
	if err != nil {
		return err
	}
	calls, unanswered, took, err := a.flatOut(ctx, r.settings)
	if err != nil {
		return err
	}
	after, err := a.spent()
	d := r.direct[a.name]
	d.calls, d.unanswered, d.took, d.cpu = d.calls+calls, d.unanswered+unanswered, d.took+took, d.cpu.plus(after.since(before))
	return err
}

func (r *results) paced(ctx context.Context, a *arm) error {
	d := r.direct[a.name]
	latencies, err := a.paced(ctx, r.settings, uint64(len(d.paced.p50)))
	if err == nil {
		d.paced.add(latencies)
	}
	return err
}

func (r *results) throughEnvoy(ctx context.Context, p *proxy, w *way, round int) error {
	var before, after spent
	var err error
	if w.arm != nil {
		if before, err = w.arm.spent(); err != nil {
			return err
		}
	}
	envoy, err := cpuOf(p.Process)
	if err != nil {
		return err
	}
	report, unanswered, err := p.throughEnvoy(ctx, r.settings, w, uint64(round))
	if err != nil {
		return err
	}
	used, err := cpuOf(p.Process)
	if err != nil {
		return err
	}
	if w.arm != nil {
		if after, err = w.arm.spent(); err != nil {
			return err
		}
	}
	e := r.envoy[w.name]
	e.unanswered += unanswered
	e.requests, e.envoy, e.cpu = e.requests+report.Requests, e.envoy+used-envoy, e.cpu.plus(after.since(before))
	latencies := make([]time.Duration, 0, len(report.Samples))
	for _, s := range report.Samples {
		latencies = append(latencies, s.Latency)
	}
	e.add(latencies)
	return nil
}

// of is a time for each of n, in microseconds.
func of(d time.Duration, n int) float64 { return float64(d.Microseconds()) / float64(max(1, n)) }

// share is in percent.
func share(n, of int) float64 { return 100 * float64(n) / float64(max(1, of)) }

// ms writes a latency.
func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }

var described = map[string]string{
	noLimit:   "no limit",
	memory:    "ours, counters in memory",
	withRedis: "ours, counters in Redis",
	reference: "reference service, Redis",
}

func (r *results) print(out io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Rate limit services")
	line("")
	line("Made by `%s` with %d rounds of %v each, %d tenants, %d connections; %d CPUs, %s/%s, %s.", strings.Join(append([]string{"go run ./bench/limits"}, os.Args[1:]...), " "), r.rounds, r.period, r.tenants, r.connections, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	line("Every call is of two limits, one for the tenant and one for all; both are counted, and none refuses. CPU time is")
	line("that of the processes, from /proc; latencies are medians over the rounds, in each of which everybody had a turn.")
	line("")
	line("Load average of the machine before the first round: %s. Above the number of CPUs less one the latencies are of the", r.loadBefore)
	line("others' work as much as of this, and only CPU times say something.")
	line("")
	ref := r.direct[reference]
	line("## Asked directly")
	line("")
	line("%d callers as fast as they are answered, then %.0f calls/s at random times.", r.callers, r.directRate)
	line("")
	line("| service | calls/s | CPU µs/call: service | Redis | calls/s per core | of the reference | p50 ms | p99 ms | not answered |")
	line("|---|---|---|---|---|---|---|---|---|")
	for _, a := range r.arms {
		d := r.direct[a.name]
		perCore := float64(d.calls) / d.cpu.sum().Seconds()
		line("| %s | %.0f | %.1f | %.1f | %.0f | %.2fx | %s | %s | %.2f %% |", described[a.name], float64(d.calls)/d.took.Seconds(),
			of(d.cpu.service, d.calls), of(d.cpu.redis, d.calls), perCore, perCore/(float64(ref.calls)/ref.cpu.sum().Seconds()),
			ms(median(d.paced.p50)), ms(median(d.paced.p99)), share(d.unanswered, d.calls+d.unanswered))
	}
	line("")
	line("Calls/s per core are those for a second of CPU time of the service and of its Redis. Not answered are calls that")
	line("a service gave up because its Redis was late: ours does so before the 20 ms are over that an Envoy waits.")
	line("")
	line("## Through a real Envoy")
	line("")
	line("%.0f requests/s at random times. Added is what is more than without a limit, in the same round.", r.envoyRate)
	line("")
	line("| limits by | p50 ms | p99 ms | added p50 | added p99 | of the reference's added p99 | CPU µs/request: Envoy | service | Redis | not answered |")
	line("|---|---|---|---|---|---|---|---|---|---|")
	none := r.envoy[noLimit]
	refAdded := median(r.envoy[reference].over(none.quantiles).p99)
	for _, name := range append([]string{noLimit}, r.names()...) {
		e := r.envoy[name]
		added := e.over(none.quantiles)
		line("| %s | %s | %s | %s | %s | %.2fx | %.0f | %.0f | %.0f | %.2f %% |", described[name], ms(median(e.p50)), ms(median(e.p99)),
			ms(median(added.p50)), ms(median(added.p99)), median(added.p99).Seconds()/refAdded.Seconds(),
			of(e.envoy, e.requests), of(e.cpu.service, e.requests), of(e.cpu.redis, e.requests), share(e.unanswered, e.requests))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r *results) names() []string {
	var names []string
	for _, a := range r.arms {
		names = append(names, a.name)
	}
	return names
}
