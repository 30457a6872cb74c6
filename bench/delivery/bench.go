package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// bench is what all runs have in common.
type bench struct {
	pushes        int // measured, after one that is not
	perConnection int
	nodeBytes     int
	certificates  *Certificates // nil: plaintext
	idle          time.Duration
	limit         time.Duration // of every wait
}

// run is one server in a process of its own, and its clients in another.
type run struct {
	*bench
	scenario
	kind            string // of the server
	silent          bool   // the server never says anything
	server, clients *process
	address         string
	tick            int
}

// start starts a server with all resources, and a process for clients of which there are none yet.
func (b *bench) start(ctx context.Context, sc scenario, server string) (*run, error) {
	r := &run{bench: b, scenario: sc, kind: server, silent: server == "bare"}
	if err := r.startServer(ctx, server); err != nil {
		return nil, err
	}
	var err error
	if r.clients, err = startProcess(clientsRole); err != nil {
		r.server.stop()
		return nil, err
	}
	return r, nil
}

func (r *run) startServer(ctx context.Context, server string) error {
	p, err := startProcess(serverRole)
	if err != nil {
		return err
	}
	r.address, err = call[string](ctx, p, "Serving.Start", Start{Server: server, Shape: r.shape, Certificates: r.certificates})
	if err != nil {
		p.stop()
		return err
	}
	r.server = p
	return nil
}

func (r *run) stop() {
	r.clients.stop()
	r.server.stop()
}

// open connects clients and returns how long it took until they had everything.
func (r *run) open(ctx context.Context, p *process, streams int, behaviour Behaviour, resume bool) (time.Duration, error) {
	began := time.Now()
	_, err := call[struct{}](ctx, p, "Swarming.Open", Open{
		Address: r.address, Certificates: r.certificates, Streams: streams, PerConnection: r.perConnection,
		Shape: r.shape, NodeBytes: r.nodeBytes, Behaviour: behaviour, Resume: resume, Limit: r.limit,
	})
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	_, err = r.rest(ctx)
	return took, err
}

// rest waits until the server does nothing any more, and returns the CPU time it used since it started.
func (r *run) rest(ctx context.Context) (time.Duration, error) {
	u, err := call[Usage](ctx, r.server, "Serving.Rest", r.limit)
	if err == nil && u.StillBusy {
		err = fmt.Errorf("the server was not at rest within %s", r.limit)
	}
	return u.CPU, err
}

func (r *run) memory(ctx context.Context) (Usage, error) {
	return call[Usage](ctx, r.server, "Serving.Memory", struct{}{})
}

func (r *run) count(ctx context.Context) (Counts, error) {
	return call[Counts](ctx, r.clients, "Swarming.Count", struct{}{})
}

// pushed is what one push took.
type pushed struct {
	cpu         time.Duration // of the server, from the load assignments made ready until it was at rest
	preparation time.Duration // CPU time to make them ready
	latencies   []time.Duration
	acked       time.Duration // until the last stream had sent its acknowledgement
	counts      Counts
}

func (p pushed) last() time.Duration { return slices.Max(p.latencies) }

// push changes so many clusters, and waits until all clients have them and the server is at rest.
func (r *run) push(ctx context.Context, changed int) (pushed, error) {
	r.tick++
	before, err := r.count(ctx)
	if err != nil {
		return pushed{}, err
	}
	if _, err := call[struct{}](ctx, r.clients, "Swarming.Expect", Goal{Tick: r.tick, Names: changed}); err != nil {
		return pushed{}, err
	}
	did, err := call[Patched](ctx, r.server, "Serving.Patch", Patch{Changed: changed, Tick: r.tick})
	if err != nil {
		return pushed{}, err
	}
	reached, err := call[Reached](ctx, r.clients, "Swarming.Await", r.limit)
	if err != nil {
		return pushed{}, err
	}
	cpu, err := r.rest(ctx)
	if err != nil {
		return pushed{}, err
	}
	after, err := r.count(ctx)
	if err != nil {
		return pushed{}, err
	}
	p := pushed{
		cpu: cpu - did.CPU, preparation: did.PreparationCPU, acked: reached.LastAcked.Sub(did.Began),
		counts: Counts{Responses: after.Responses - before.Responses, Bodies: after.Bodies - before.Bodies, Ended: after.Ended - before.Ended},
	}
	for _, at := range reached.Received {
		p.latencies = append(p.latencies, at.Sub(did.Began))
	}
	return p, nil
}

// pushAll pushes once to warm up, then as often as is measured.
func (r *run) pushAll(ctx context.Context, changed int) ([]pushed, error) {
	var all []pushed
	for range r.pushes + 1 {
		p, err := r.push(ctx, changed)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all[1:], nil
}

// medianOf is the median of one figure over all pushes.
func medianOf(pushes []pushed, figure func(pushed) float64) float64 {
	var out []float64
	for _, p := range pushes {
		out = append(out, figure(p))
	}
	return demo.Median(out)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile is the value at the nearest rank, 0 < q <= 1.
func quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// allowDescriptors makes sure that a process can have a connection per stream. The Go runtime has raised the
// soft limit to the hard one already.
func allowDescriptors(streams, perConnection int) error {
	const others = 100
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	need := uint64(streams/perConnection + others)
	if limit.Cur >= need {
		return nil
	}
	limit.Cur = need
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("%d streams, %d per connection, need %d file descriptors, and this process may have %d: raise the hard limit (ulimit -Hn), or set -streams or -streams-per-connection",
			streams, perConnection, need, limit.Max)
	}
	return nil
}

func progress(format string, arguments ...any) { fmt.Fprintf(os.Stderr, format+"\n", arguments...) }
