// Package kube is the source that follows the objects of a Kubernetes cluster.
//
// It promises that a cluster that cannot be seen changes nothing. Before every kind was listed it
// delivers nothing. An API server that does not answer, a kind that is not installed or not permitted
// leave what was seen last in force, are said in the Problems, and are tried again every few seconds. What
// a list leaves out without an event of its removal is held as package guard says, until a consistent list
// confirms or refutes it.
//
// It keeps the fields that package catalog reads, once: what a Store holds is all there is in memory.
// Pods are watched while a policy needs them.
//
//	API server --list, watch--> reading --event--> objects --Update--> pipeline
//	             client.go      reading.go         table.go, guard
//	                            trim.go, admit     problems.go
package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"evenkeel.io/controlplane/internal/source"
)

const (
	// verifyEvery is the time between two consistent lists of a kind of which something is held, or whose
	// watch was out of order.
	verifyEvery = 5 * time.Second
	// silence is how long a watch says nothing before it is taken to hang. An API server sends a bookmark
	// every minute.
	silence = 3 * time.Minute
	// apart is the least time between two Updates: a Store costs a copy of the maps that changed.
	apart = 10 * time.Millisecond
)

// Options of a Source.
type Options struct {
	// Logger gets what is no Problem yet, for nothing was delivered; slog.Default if nil.
	Logger *slog.Logger
}

// Source follows a cluster. It implements source.Source.
type Source struct {
	client  *client
	log     *slog.Logger
	accepts chan acceptance
}

type acceptance struct {
	service types.NamespacedName // zero: everything
	reply   chan int             // how many objects were released
}

// New is a Source of the cluster that config leads to. Nothing is asked of it before Run.
func New(config *rest.Config, options Options) (*Source, error) {
	c, err := newClient(config)
	if err != nil {
		return nil, fmt.Errorf("the API server %s: %w", hostOf(config), err)
	}
	return &Source{client: c, log: cmp.Or(options.Logger, slog.Default()).With("apiserver", c.host), accepts: make(chan acceptance)}, nil
}

// Accept takes what is held of a Service, "<namespace>/<name>" with or without ":<port>", or everything
// that is held if service is "". by is who says so, for the log. It gives an error if nothing is held, or
// if ctx ends first.
func (s *Source) Accept(ctx context.Context, by, service string) error {
	a := acceptance{reply: make(chan int, 1)}
	if service != "" {
		object, _, _ := strings.Cut(service, ":")
		a.service.Namespace, a.service.Name, _ = strings.Cut(object, "/")
	}
	select {
	case s.accepts <- a:
	case <-ctx.Done():
		return fmt.Errorf("the source is busy or stopping: %w", ctx.Err())
	}
	released := <-a.reply
	if released == 0 {
		return fmt.Errorf("nothing is held of %s", cmp.Or(service, "any service"))
	}
	s.log.Info("an operator accepted what was held", "by", by, "service", cmp.Or(service, "all"), "objects", released)
	return nil
}

// Run follows the cluster until ctx is done. It gives no error: what goes wrong may come right.
func (s *Source) Run(ctx context.Context, up chan<- source.Update) error {
	ctx, cancel := context.WithCancel(ctx)
	f := &follower{
		source: s, ctx: ctx, events: make(chan event), objects: newObjects(s.client.host),
		said: map[source.Problem]bool{},
	}
	defer s.client.close()
	defer f.readings.Wait()
	defer cancel()
	for _, k := range kinds {
		f.watch(k)
	}
	f.run(up)
	return nil
}

// follower is one Run. One goroutine owns it; readings are others, and only send events.
type follower struct {
	*objects
	source   *Source
	ctx      context.Context
	events   chan event
	readings sync.WaitGroup
	said     map[source.Problem]bool // before anything was delivered
}

func (f *follower) run(up chan<- source.Update) {
	var (
		sent []source.Problem // with the last Update
		next source.Update
		out  chan<- source.Update // up while there is something to send
		gate = newAlarm()         // keeps Updates apart
		due  = newAlarm()         // something has to be verified
		tick = time.NewTicker(15 * time.Second)
	)
	defer gate.stop()
	defer due.stop()
	defer tick.Stop()
	stale := true // next and due do not say how things are
	for {
		if stale {
			stale = false
			due.set(f.verify(time.Now()))
			problems := f.problems()
			out = nil
			switch {
			case !f.settled() && f.first:
				f.say(problems)
			case gate.pending:
			case f.first || len(f.changes) > 0 || !slices.Equal(problems, sent):
				next, out = f.deliver(problems), up
			}
		}
		select {
		case <-f.ctx.Done():
			return
		case e := <-f.events:
			stale = f.take(e, time.Now())
		case out <- next:
			sent, out = next.Store.Problems, nil
			f.delivered()
			gate.set(time.Now().Add(apart))
		case <-gate.timer.C:
			gate.pending, stale = false, true
		case <-due.timer.C:
			due.pending, stale = false, true
		case a := <-f.source.accepts:
			a.reply <- f.release(a.service, source.EvidenceOperator)
			stale = true
		case now := <-tick.C:
			f.listen(now)
			stale = true
		}
	}
}

// take lets an event act, and tells whether anything may be different now.
func (f *follower) take(e event, now time.Time) bool {
	t := e.from.table
	if e.from != t.current && e.from != t.next {
		return false // another has taken its place
	}
	t.heard = now
	switch {
	case e.list != nil:
		if e.from == t.next {
			t.current.cancel()
			t.current, t.next = t.next, nil
		} else {
			clear(t.told) // it is the same reading that told it, before
		}
		f.replace(t, e.list, now)
	case e.put != nil:
		if t.tells(nameOf(source.RefOf(e.put.object)), e) {
			f.put(t, *e.put, source.EvidenceWatch)
		}
	case e.removed != nil:
		if t.tells(nameOf(*e.removed), e) {
			f.remove(t, *e.removed, source.EvidenceWatch)
		}
	case e.watching:
		f.recover(t)
	case e.disorder:
		f.source.log.Warn("a watch tells of changes out of their order; the kind is listed anew", "kind", t.kind.name)
		t.verify = now
		if again := t.verified.Add(verifyEvery); again.After(now) {
			t.verify = again
		}
	case e.err != nil:
		f.source.log.Debug("reading", "kind", t.kind.name, "error", e.err)
		f.fail(t, e.err)
	default:
		return false
	}
	if t.kind.name == source.KindBalancePolicy {
		f.followPods()
	}
	return true
}

// watch begins to follow a kind.
func (f *follower) watch(k *kind) {
	t := newTable(k, time.Now())
	f.tables[k.name] = t
	t.current = f.read(t, false)
}

func (f *follower) read(t *table, consistent bool) *reading {
	r := newReading(f.ctx, t, f.source.client, f.events, consistent)
	f.readings.Go(r.run)
	return r
}

// followPods begins or ends watching Pods, as the policies need it.
func (f *follower) followPods() {
	t, need := f.tables[source.KindPod], needPods(f.editor.Peek())
	switch {
	case need && t == nil:
		f.watch(pods)
	case !need && t != nil:
		f.end(t)
		f.drop(t)
		f.recover(t)
	}
}

func (f *follower) end(t *table) {
	t.current.cancel()
	if t.next != nil {
		t.next.cancel()
	}
	t.current, t.next = nil, nil
}

// verify begins the consistent readings that are due, and returns when the next is; zero for never.
func (f *follower) verify(now time.Time) (next time.Time) {
	for _, t := range f.tables {
		if t.verify.IsZero() {
			continue
		}
		if !t.verify.After(now) && t.next == nil {
			t.verify, t.verified, t.nextSince = time.Time{}, now, now
			t.next = f.read(t, true)
			continue
		}
		if t.next == nil && (next.IsZero() || t.verify.Before(next)) {
			next = t.verify
		}
	}
	return next
}

// listen finds the watches that hang, and begins others in their place.
func (f *follower) listen(now time.Time) {
	for _, t := range f.tables {
		if t.next != nil && now.Sub(t.nextSince) > silence {
			t.next.cancel()
			t.next, t.verify = nil, now
		}
		if t.next == nil && now.Sub(t.heard) > silence {
			f.source.log.Warn("a watch has been silent for long; another is begun", "kind", t.kind.name)
			t.heard, t.verify = now, now
		}
	}
}

// say logs what is wrong while there is no Update to say it with, each once.
func (f *follower) say(problems []source.Problem) {
	for _, p := range problems {
		if !f.said[p] {
			f.said[p] = true
			f.source.log.Warn("waiting for a complete set of objects: "+p.String(), "kept", p.Kept)
		}
	}
}

// alarm is a timer that tells whether it is set.
type alarm struct {
	timer   *time.Timer
	pending bool
}

func newAlarm() *alarm {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &alarm{timer: t}
}

// set makes it ring at that time, or not at all if at is zero.
func (a *alarm) set(at time.Time) {
	if a.pending = !at.IsZero(); !a.pending {
		a.timer.Stop()
		return
	}
	a.timer.Reset(time.Until(at))
}

func (a *alarm) stop() { a.timer.Stop() }

var _ source.Source = (*Source)(nil)
