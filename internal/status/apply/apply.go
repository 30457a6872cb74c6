// Package apply tells a cluster what became of its objects: it writes their status and makes Events.
//
// It promises that the status of an object is ours to the letter and nobody else's: what other controllers
// say there stays. An object is written at most once in 10 s, the first change after a quiet time at once;
// what the cluster has already is not written, so that a restart writes nothing. What cannot be written is
// tried again, ever more rarely, and holds up no other object.
//
//	Input ──every second──▶ status.Conditions ──▶ status.Stanzas ──▶ schedule ──▶ get, apply ──▶ API server
//	                                          └─▶ status.News ─────▶ events ──────────────────▶
//	                        list of each kind, at the start and every 10 minutes ──▶ schedule
//
// Of all replicas the leader writes. What the conditions are is package status's business.
package apply

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/status"
)

const (
	// lookEvery is how often the conditions are computed.
	lookEvery = time.Second
	// listEvery is how often it is read what the cluster has, which others may have written over.
	listEvery = 10 * time.Minute
	// concurrent is how many objects are written at a time.
	concurrent = 4
	// requestsPerSecond and burst bound what is asked of the API server, for all that this package does.
	requestsPerSecond, burst = 50, 100
)

// Options of a Writer. All but Leads must be set.
type Options struct {
	Config *rest.Config // of the API server
	// Input is what the conditions are computed from; false while nothing is known.
	Input func() (status.Input, bool)
	// Leads says whether this replica leads now; nil: it always does.
	Leads func() bool
	// Instance is the name of this process in Events.
	Instance string
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// Writer writes statuses and Events.
type Writer struct {
	options Options
	metrics *metrics
	server  *server
	pace    pace
	every   time.Duration // between two looks
}

// New makes a Writer. Nothing is asked of the API server before Run.
func New(o Options) (*Writer, error) {
	s, err := newServer(o.Config, o.Instance)
	if err != nil {
		return nil, err
	}
	return &Writer{options: o, metrics: newMetrics(o.Metrics), server: s, pace: usual, every: lookEvery}, nil
}

// Run writes until ctx is done, whenever this replica leads, and returns when nothing is being written any
// more.
func (w *Writer) Run(ctx context.Context) {
	defer w.server.close()
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		if _, known := w.options.Input(); known && w.leads() {
			w.runTerm(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *Writer) leads() bool { return w.options.Leads == nil || w.options.Leads() }

// runTerm writes until ctx is done, or another replica leads. It begins with nothing in its memory.
func (w *Writer) runTerm(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	t := &term{
		Writer: w, ctx: ctx, schedule: newSchedule(w.pace), news: status.NewNews(),
		lists: make(chan list), results: make(chan result), events: make(chan event, maxEvents),
		forbidden: map[string]bool{},
	}
	defer t.others.Wait()
	defer cancel()
	for kind := range resources {
		t.others.Go(func() { t.follow(kind) })
	}
	t.others.Go(t.tell)
	t.run()
}

// term is the time for which a replica leads. One goroutine owns it; others list, write, and make Events.
type term struct {
	*Writer
	ctx      context.Context
	others   sync.WaitGroup
	last     status.Input
	kinds    status.Kinds
	schedule *schedule
	news     *status.News
	writing  int

	lists   chan list
	results chan result
	events  chan event

	forbidden map[string]bool // kinds of which it was said
}

func (t *term) run() {
	look := time.NewTicker(t.every)
	defer look.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		due.Reset(t.begin(time.Now()))
		select {
		case <-t.ctx.Done():
			return
		case <-due.C:
		case <-look.C:
			if !t.leads() {
				return
			}
			t.look(time.Now())
		case l := <-t.lists:
			if !t.schedule.listed(l.kind) {
				for ref, s := range l.statuses {
					t.news.Known(ref, s)
				}
			}
			t.schedule.has(l.kind, l.at, l.statuses)
			t.last = status.Input{} // the next look is a whole one
		case r := <-t.results:
			t.writing--
			t.take(r)
		}
	}
}

// look computes the conditions anew.
func (t *term) look(now time.Time) {
	in, ok := t.options.Input()
	if !ok {
		return
	}
	if t.schedule.waiting == 0 && in.Same(t.last) {
		return
	}
	t.last = in
	objects := status.Conditions(in)
	t.schedule.wants(now, t.kinds.Stanzas(in, objects))
	if t.schedule.listedAll() { // else it is not known what was told before
		for _, e := range t.news.Of(objects) {
			t.announce(in.Store, e)
		}
	}
}

// begin begins to write what is due, and returns how long it is until something else is.
func (t *term) begin(now time.Time) time.Duration {
	for t.writing < concurrent {
		w, at, ok := t.schedule.next()
		switch {
		case !ok:
			return listEvery
		case at.After(now):
			return at.Sub(now)
		}
		t.schedule.begin(w)
		t.writing++
		t.others.Go(func() {
			outcome, err := t.server.write(t.ctx, w.object, w.judged, time.Now())
			select {
			case t.results <- result{w, outcome, err}:
			case <-t.ctx.Done():
			}
		})
	}
	return listEvery
}

// result is how the writing of a status went.
type result struct {
	write
	outcome outcome
	err     error
}

// take notes how it went.
func (t *term) take(r result) {
	t.metrics.writes.WithLabelValues(r.object.Kind, string(r.outcome)).Inc()
	t.schedule.done(time.Now(), r.write, r.outcome)
	switch {
	case r.outcome == forbidden && t.forbidden[r.object.Kind]:
	case r.outcome == forbidden:
		t.forbidden[r.object.Kind] = true
		t.options.Log.Error("statuses are not written: a permission is missing; see manifests/base/rbac.yaml", "kind", r.object.Kind, "error", r.err)
	case r.err != nil:
		t.options.Log.Warn("the status of an object was not written; it is tried again", "object", r.object.String(), "error", r.err)
	}
}

// list is what the cluster says of the objects of a kind, as of a time.
type list struct {
	kind     string
	at       time.Time
	statuses map[source.Ref]status.Stanza // without those that say nothing of ours
}

// follow lists a kind now and then.
func (t *term) follow(kind string) {
	failures := 0
	for {
		at, wait := time.Now(), listEvery
		statuses, err := t.server.list(t.ctx, kind)
		if err == nil {
			failures = 0
			select {
			case t.lists <- list{kind, at, statuses}:
			case <-t.ctx.Done():
			}
		} else {
			wait = min(time.Second<<failures, time.Minute)
			failures = min(failures+1, 6)
			t.options.Log.Warn("the statuses of a kind cannot be read; until they are, none is written", "kind", kind, "error", err)
		}
		select {
		case <-t.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
