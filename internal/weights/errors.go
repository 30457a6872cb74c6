package weights

import (
	"math"
	"time"

	"evenkeel.io/controlplane/internal/health"
	"evenkeel.io/controlplane/internal/signals"
)

// needsErrors are the terms of failed/requests.
const needsErrors = signals.TermRequests | signals.TermErrors

const (
	// overloadedCPU is the CPU above which failures are taken to be for want of it.
	overloadedCPU = 0.93
	// trimDoubling is how fast a trim may rise.
	trimDoubling = 5 * time.Second
	// emergency is the trim below which a weight falls as far as it must at once.
	emergency = 0.7
	// An endpoint counts as ejected when it is sent nothing in a window in which its share would be
	// dueRequests, and at least ejectingFailures of its last requests failed, no longer ago than
	// ejectedSince before the window.
	dueRequests, ejectingFailures = 20, 3
	ejectedSince                  = time.Minute
)

// judged is the window by which an endpoint's failures are judged.
type judged struct {
	from, to     time.Time
	failed, done float64
	news         float64 // the part of it that was not there the last time
	reported     bool
}

// judges is the window of a reading that tells which requests failed: what Envoys report if all of them
// do, for an endpoint does not count the requests that it never got, and need not admit to those it
// failed; else its own; else what those Envoys saw that do report. Envoys know an address and no process:
// what they say of the one before is not this one's.
func (e *member) judges() (judged, bool) {
	r := e.reading
	if r == nil {
		return judged{}, false
	}
	own := r.Terms.Has(needsErrors)
	if n, ok := reportedIn(r); ok && (n.All || !own) && !n.From.Before(e.FirstSeen) && !n.From.Before(e.Restarted) {
		news := min(1, n.To.Sub(e.TrimTo).Seconds()/n.To.Sub(n.From).Seconds())
		return judged{n.From, n.To, n.Failed, n.Done, news, true}, true
	}
	return judged{r.From, r.To, r.Failed, r.Done, e.newPart(), false}, own
}

// trimErrors moves e, the part of its weight that an endpoint keeps for its failures (health.Failures),
// to where they say:
//
//	down at once, for failures that overload does not explain: windows with any of it do not count
//	up at most x2 in 5 s, and only when there are new successes
//	to the floor when it failed and is sent nothing any more: Envoys have ejected it
//
// An Envoy ejects after five failures in a row, which are next to nothing beside the successes before.
// When it takes the endpoint back after half a minute, idle as that is, it gives it more than its share
// (LEAST_REQUEST), and notices its failures again a hundred requests later (measured on 1.40). At the
// floor it is sent a few.
//
// An endpoint that fails fast looks idle, and would be sent ever more to fail. One that fails because
// it has too much to do needs less to do, which is what its capacity is for; trimmed too it would pass
// its overload on to the others.
func trimErrors(t *tick) {
	shares := t.m.scratch.sorted[:0]
	for i := range t.m.members {
		e := &t.m.members[i]
		if e.reading != nil {
			e.noteOverload()
		}
		if w, ok := e.judges(); ok {
			if e.counted = !w.from.Before(e.OverloadTo) && e.Failures.Observe(w.from, w.to, w.failed, w.done+w.failed); e.counted {
				e.AsReported = w.reported
			}
		}
		if e.Read.fresh(t.now) && e.Failures.Requests > 0 {
			shares = append(shares, e.Failures.Share())
		}
	}
	if len(shares) == 0 {
		return
	}
	common := lowerMedian(shares)
	perWeight := t.requestsPerWeight()
	for i := range t.m.members {
		e := &t.m.members[i]
		w, ok := e.judges()
		if ok && (e.counted || e.trim() < 1) {
			e.trimTo(e.Failures.Trim(common), w)
		}
		if e.reading != nil {
			if e.Ejected = ok && e.ejected(w, perWeight); e.Ejected {
				e.Trim, e.TrimTo = health.TrimFloor, w.to
			}
		}
	}
}

// requestsPerWeight is the requests/s that one unit of published weight gets.
func (t *tick) requestsPerWeight() float64 {
	rate := 0.0
	for i := range t.m.members {
		if e := &t.m.members[i]; e.Read.fresh(t.now) {
			rate += e.RequestsPerSecond
		}
	}
	return rate / max(1, t.m.total())
}

// ejected reports whether the endpoint is sent nothing though its weight asks for some, after failures.
func (e *member) ejected(w judged, perWeight float64) bool {
	due := perWeight * float64(e.Weight) * w.to.Sub(w.from).Seconds()
	since := w.from.Sub(e.Failures.To)
	return w.done+w.failed == 0 && e.RequestsPerSecond == 0 && due >= dueRequests &&
		e.Failures.Failed >= ejectingFailures && since <= ejectedSince || e.Ejected && w.done+w.failed == 0
}

// noteOverload notes windows in which the endpoint had too much to do, if only in their newest part.
// A window is longer than the time between two; what the parts before have used is taken from it:
//
//	newest = (cpu - sum of the parts before that are in the window) / newPart
//
// A twentieth of what this says beyond cpu is let go of each time, so that errors, which come back when
// their part leaves the window, die out.
func (e *member) noteOverload() {
	r := e.reading
	if e.Sigma > pressed {
		e.OverloadTo = r.To
	}
	if !r.Terms.Has(signals.TermCPU) {
		return
	}
	part := e.newPart()
	newest, before := r.CPU, math.Round(1/part)-1
	if e.since == 0 || before > float64(len(e.CPU)) {
		e.CPU = [...]float32{float32(r.CPU), float32(r.CPU), float32(r.CPU)}
	} else {
		for _, cpu := range e.CPU[:int(before)] {
			newest += 0.95 * (r.CPU - float64(cpu)) * (1 - part) / part / before
		}
	}
	if max(newest, r.CPU) > overloadedCPU {
		e.OverloadTo = r.To
	}
	e.CPU = [...]float32{float32(min(maxCPU, max(0, newest))), e.CPU[0], e.CPU[1]}
}

// newPart is the part of the reading's window that is after the reading before.
func (e *member) newPart() float64 {
	if e.since == 0 {
		return 1
	}
	return min(1, e.since.Seconds()/e.reading.To.Sub(e.reading.From).Seconds())
}

func (e *member) trimTo(target float64, w judged) {
	was := e.trim()
	switch {
	case target < was && e.counted:
		e.Trim, e.TrimTo = target, w.to
	// Of successes spread over the window at least one is after the reading before; or all of them are
	// after the window in which the trim last moved.
	case target > was && (w.done*w.news >= 1 || w.done > 0 && !w.from.Before(e.TrimTo)):
		since := min(w.to.Sub(e.TrimTo), w.to.Sub(w.from))
		e.Trim, e.TrimTo = min(target, was*math.Exp2(float64(since)/float64(trimDoubling))), w.to
	}
}

// trim is e, 1 before anything failed.
func (e *member) trim() float64 {
	if e.Trim == 0 {
		return 1
	}
	return e.Trim
}

// applyErrors is the factor e, within what the Service can bear (guardErrors). Of an endpoint whose
// readings stopped it fades as the capacity does.
func applyErrors(t *tick) {
	trims := t.m.scratch.sorted[:0]
	for i := range t.m.members {
		e := &t.m.members[i]
		trim := e.trim()
		silent := t.now.Sub(e.Failures.To) - e.Read.freshness() - staleHold
		if trim < 1 && silent > 0 && !e.Ejected && t.frozen == "" {
			trim = math.Pow(trim, math.Exp2(-float64(silent)/float64(staleHalfLife)))
		}
		trims = append(trims, trim)
	}
	guarded := t.guardErrors(trims)
	for i, trim := range trims {
		e := &t.m.members[i]
		switch {
		case e.Failures.To.IsZero() && !e.Read.To.IsZero():
			t.explain(i, Reason{Term: "errors", Factor: 1, Text: "no-errors: it does not report which requests failed"})
		case trim < 1:
			t.scale(i, Reason{Term: "errors", Value: 100 * e.Failures.Share(), Unit: "%", Factor: trim, Text: e.whatFailed(guarded)})
		}
	}
}

// whatFailed is a text for the share of the failures.
func (e *member) whatFailed(guarded bool) string {
	switch {
	case e.Ejected:
		return "of its last requests failed, and Envoys send it none any more"
	case e.AsReported && guarded:
		return "of its requests failed as Envoys saw it; too many endpoints fail to spare all of them"
	case e.AsReported:
		return "of its requests failed as Envoys saw it, more than others' do"
	case guarded:
		return "of its requests failed; too many endpoints fail to spare all of them"
	}
	return "of its requests failed, more than others' do"
}
