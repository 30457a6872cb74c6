package weights

import (
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/health"
	"evenkeel.io/controlplane/internal/signals"
)

// strategy is a law of weights.
type strategy interface {
	// needs are the terms without which an endpoint's readings say nothing to this law.
	needs() signals.Terms
	// absent says, as a reason, that too many endpoints do not carry them.
	absent() string
	// stages make the weight of every endpoint from its base, in order, each with its Reason.
	stages() []stage
}

// Names of the strategies.
const (
	Capacity = "Capacity"
	RTT      = "RTT"
	Static   = "Static"
)

var strategies = map[string]strategy{
	Capacity: capacityLaw{},
	RTT:      rttLaw{},
	Static:   staticLaw{},
}

// stage is one idea: it reads the members' estimates and changes them or t.w.
type stage func(t *tick)

// learning runs in every Step, whatever the strategy: health_score and qps_decay_factor need the
// capacity under all of them.
var learning = []stage{estimateCapacity, measurePressure, holdCeiling, trimErrors, strain, forgetStale, renewPrior, sampleReference}

// damping follows every strategy.
var damping = []stage{relative, clamp, blend, slew, snap, shed}

// tick is one Step or Members call under way.
type tick struct {
	m       *Machine
	now     time.Time
	cfg     Config
	workers int
	law     strategy
	hold    bool // Members: those that have a weight keep it

	// left, joined, replaced and declared are the addresses that changed since the last call, sorted.
	left, joined, replaced, declared []string

	// overload is who would have more to do than is good, "" for nobody.
	overload string

	// frozen is why the weights are held, base why nothing but the base is used; "" if not so.
	frozen, base string

	// mid is the median of those that were read, once pressure is measured.
	mid middle

	w     []float64 // weight by member, in the unit of the stage; relative to the mean after `relative`
	c     []float64 // requests/s at full use by member, once bounded
	ss    []float64 // slow start factor by member
	young []bool    // by member: it is in slow start, even if that is given up
	held  []bool    // by member: it keeps its published integer
	sent  []bool    // by member: its weight and metadata are published in this tick
	// total is the sum of the published integers.
	total float64

	log     []note // of all members, in the order of the stages
	reasons []int  // how many of them are each member's

	push  bool
	cause string
	// shedMoved: another part of the requests is to be shed.
	shedMoved bool
}

func (t *tick) run(stages []stage) {
	for _, apply := range stages {
		apply(t)
	}
}

// note is a Reason of the Decision on a member.
type note struct {
	member int
	Reason
}

// explain appends a Reason to member i's.
func (t *tick) explain(i int, r Reason) {
	t.log = append(t.log, note{i, r})
	t.reasons[i]++
}

// scale multiplies member i's weight by the Reason's factor and appends the Reason.
func (t *tick) scale(i int, r Reason) {
	t.w[i] *= r.Factor
	t.explain(i, r)
}

// fresh reports whether member e has up to date what it ever had of the law's needs.
func (t *tick) fresh(e *member) bool {
	switch last := e.lastOf(t.law.needs()); {
	case last.To.IsZero():
		return e.Read.fresh(t.now)
	default:
		return last.fresh(t.now)
	}
}

// lacking reports whether e has been watched for long enough to say that it does not carry what the
// law needs.
func (t *tick) lacking(e *member) bool {
	return t.law.needs() != 0 && e.lastOf(t.law.needs()).To.IsZero() &&
		(!e.Read.To.IsZero() || t.now.Sub(e.FirstSeen) > staleHold)
}

func (t *tick) state(i int) State {
	e := &t.m.members[i]
	last := e.lastOf(t.law.needs())
	switch {
	case t.young[i]:
		return Warming
	case t.frozen != "":
		return Frozen
	case t.lacking(e):
		return NoSignal
	case last.To.IsZero() || t.law.needs().Has(needsCapacity) && !e.Measured:
		return Prior
	case !last.fresh(t.now):
		return Stale
	}
	return Serving
}

// decisions are what the tick came to.
func (t *tick) decisions() Decisions {
	m := t.m
	out := Decisions{
		Service: m.service, At: t.now,
		Endpoints: make([]Decision, len(m.members)),
		Publish:   t.push, Cause: t.cause,
		Frozen: t.frozen, Overload: t.overload, Strain: m.usual.text(), Backlog: t.backlog(), Shed: m.shed.Part, Shedding: m.shed.text(), Rejected: m.rejected,
	}
	mean := m.meanDamped()
	reasons := t.reasonsByMember()
	for i := range m.members {
		e := &m.members[i]
		out.Endpoints[i] = Decision{
			Key:      signals.Key{Service: m.service, Address: e.Address},
			State:    t.state(i),
			Weight:   e.Weight,
			Computed: e.Damped / mean,

			HealthScore:             e.score(),
			QPSDecayFactor:          t.decay(e),
			PublishedHealthScore:    e.HealthScore,
			PublishedQPSDecayFactor: e.QPSDecayFactor,

			Reasons: slices.Clip(reasons[:t.reasons[i]]),
		}
		reasons = reasons[t.reasons[i]:]
	}
	return out
}

// reasonsByMember is the log sorted by member, in memory that the Decisions keep.
func (t *tick) reasonsByMember() []Reason {
	t.m.scratch.log = t.log
	next := t.m.scratch.index[:0] // by member: where its next Reason goes
	first := 0
	for _, n := range t.reasons {
		next = append(next, first)
		first += n
	}
	sorted := make([]Reason, len(t.log))
	for i := range t.log {
		n := &t.log[i]
		sorted[next[n.member]] = n.Reason
		next[n.member]++
	}
	return sorted
}

// score is e's health_score.
func (e *member) score() float64 {
	return health.Score(e.trim(), e.shown(), e.Reference.P95())
}

// decay is e's qps_decay_factor at its published share of the traffic. The ceiling is not in it: what hinders
// one endpoint moves its share, to others that are not hindered.
func (t *tick) decay(e *member) float64 {
	share := 0.0
	if t.total > 0 {
		share = float64(e.Weight) / t.total
	}
	return health.Decay(e.trim(), e.shown()*t.m.usual.able(), e.Reference.P95(), t.cfg.ConfiguredRequestsPerSecond, share)
}
