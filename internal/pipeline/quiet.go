package pipeline

import (
	"maps"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

const (
	quietBefore = time.Second            // a change after so long a silence is built at once
	quietAfter  = 50 * time.Millisecond  // in a burst: so long after the last change
	burstAtMost = 500 * time.Millisecond // ... but at most so long after the first
)

// quiet says when changes are built: a single change at once, a burst when it pauses. Pure.
type quiet struct {
	first, last time.Time // of the pending changes; first is zero if none are
	at          time.Time
}

// changed notes a change at now and returns when the pending changes are due.
func (q *quiet) changed(now time.Time) time.Time {
	switch {
	case q.first.IsZero() && now.Sub(q.last) >= quietBefore:
		q.first, q.at = now, now
	case q.first.IsZero():
		q.first, q.at = now, now.Add(quietAfter)
	case q.at.After(q.first): // a burst is pending: wait for its end, within bounds
		q.at = now.Add(quietAfter)
		if end := q.first.Add(burstAtMost); q.at.After(end) {
			q.at = end
		}
	}
	q.last = now
	return q.at
}

// due is when the pending changes are built.
func (q *quiet) due() time.Time { return q.at }

// built notes that nothing is pending any more.
func (q *quiet) built() { q.first = time.Time{} }

// dueTimer is a timer that is not running at first.
type dueTimer struct{ t *time.Timer }

func newDueTimer() dueTimer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return dueTimer{t}
}

func (d dueTimer) reset(at time.Time)      { d.t.Reset(time.Until(at)) }
func (d dueTimer) fired() <-chan time.Time { return d.t.C }
func (d dueTimer) stop()                   { d.t.Stop() }

// batch gathers the readings between two steps, the newest per endpoint and source.
type batch struct {
	newest map[batchKey]signals.Reading
}

type batchKey struct {
	endpoint signals.Key
	reported bool // by Envoys, and nothing else
}

func newBatch() *batch { return &batch{map[batchKey]signals.Reading{}} }

func (b *batch) add(readings []signals.Reading) {
	for _, r := range readings {
		if key := (batchKey{r.Endpoint, r.Terms == 0}); r.To.After(b.newest[key].To) {
			b.newest[key] = r
		}
	}
}

func (b *batch) take() []signals.Reading {
	taken := slices.AppendSeq(make([]signals.Reading, 0, len(b.newest)), maps.Values(b.newest))
	clear(b.newest)
	return taken
}
