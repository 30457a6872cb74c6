package weights

import (
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// Tick is how often a Machine is to be stepped. Noise, slew and decay are per tick: a Machine that is
// stepped less often moves less.
const Tick = 2 * time.Second

// Machine is the estimate of one Service. NewMachine makes one.
type Machine struct {
	service string
	members []member // sorted by address, addresses unique
	gone    []gone   // endpoints that left within the hour, the longest gone first

	// now is that of the last call.
	now time.Time
	// synced: the endpoints of the first Step or Members are known. Those that come later are new.
	synced bool
	// frozen is why someone froze the weights, "" if nobody did.
	frozen string
	// prior is what the measured endpoints have in common: the median of x - ln base, and when it was
	// last known.
	prior   float64
	priorAt time.Time

	// What was last published: under which mode, at which scale (a weight of anchor is 1000), with
	// metadata or without, and when.
	mode      Mode
	anchor    float64
	metadata  bool
	published time.Time

	// snap is whether weights that hardly differ are published as equal.
	snap Snap

	// usual is the pace of answers that all endpoints share.
	usual Usual

	// shed is what is refused because it is too much for all endpoints together.
	shed Shed

	rejected uint64

	// scratch is reused by every tick; no outcome depends on what is in it.
	scratch scratch
}

// member is an endpoint of the Service now.
type member struct {
	EndpointState
	// The rest is of this tick only.
	reading  *signals.Reading // accepted and new in this tick, or nil
	since    time.Duration    // from the end of the reading before it to its end, 0 for the first
	informed bool             // the reading tells of its capacity
	counted  bool             // its requests are in Failures
	bounded  bool             // load reports bound what it says that it completed
	refused  string           // why the newest reading was refused
	joined   bool             // has no weight yet
	declared bool             // its base or multiplier was changed by the user
}

// NewMachine is a Machine that knows nothing of the Service yet.
func NewMachine(service string) *Machine { return &Machine{service: service} }

// Step is the tick: it takes in the readings (the latest of each endpoint; those seen before are
// known by their To), moves the estimates on, and decides. Members need not be called first.
func (m *Machine) Step(now time.Time, svc Service, readings []signals.Reading) Decisions {
	t := m.begin(now, svc)
	m.accept(now, readings)
	t.judge()
	t.run(learning)
	return m.decide(t)
}

// Members takes in that the endpoints or the configuration changed, between ticks: those that left
// are gone, a joining endpoint gets its prior (in slow start) at once, and so does the new weight of
// an endpoint whose base or multiplier was edited. All others keep their last published integers; the
// next Step recomputes. A change of mode is obeyed at once, for all.
func (m *Machine) Members(now time.Time, svc Service) Decisions {
	t := m.begin(now, svc)
	t.hold = true
	t.judge()
	return m.decide(t)
}

// Rest gives the working space of ticks back, a kilobyte per endpoint, until the next call of Step or
// Members. It changes nothing else.
func (m *Machine) Rest() { m.scratch = scratch{} }

// Freeze holds the weights, for the reason given, until Unfreeze. Estimates go on; endpoints join and
// leave; a change of mode is obeyed.
func (m *Machine) Freeze(reason string) {
	if reason == "" {
		reason = "frozen"
	}
	m.frozen = reason
}

// Unfreeze ends a Freeze. The weights move on from where they were held.
func (m *Machine) Unfreeze() { m.frozen = "" }

// Frozen is the reason that Freeze was given, "" if the Machine is not frozen by anyone.
func (m *Machine) Frozen() string { return m.frozen }

func (m *Machine) begin(now time.Time, svc Service) *tick {
	t := &tick{m: m, now: now, cfg: svc.Config.usable(), workers: svc.PickingWorkers}
	t.law = strategies[t.cfg.Strategy]
	if now.Before(m.now) {
		m.setBack(now)
	}
	m.now = now
	m.join(t, svc.Endpoints)
	m.scratch.size(len(m.members))
	t.w, t.c, t.ss, t.held, t.sent = m.scratch.w, m.scratch.c, m.scratch.ss, m.scratch.held, m.scratch.sent
	t.young, t.log, t.reasons = m.scratch.young, m.scratch.log[:0], m.scratch.reasons
	clear(t.young)
	clear(t.reasons)
	for i := range t.ss {
		t.ss[i] = 1
	}
	return t
}

// setBack lets times after now, which there are when the clock was set back, count as now: else an
// endpoint would be in slow start, a silent one fresh, or a push put off, for as long as the clock was
// set back by.
func (m *Machine) setBack(now time.Time) {
	m.priorAt, m.published = earlier(m.priorAt, now), earlier(m.published, now)
	m.usual.To, m.usual.Since = earlier(m.usual.To, now), earlier(m.usual.Since, now)
	m.shed.Over, m.shed.Moved = earlier(m.shed.Over, now), earlier(m.shed.Moved, now)
	m.snap.EvenSince, m.snap.Uneven = earlier(m.snap.EvenSince, now), earlier(m.snap.Uneven, now)
	for i := range m.members {
		e := &m.members[i]
		e.FirstSeen, e.Restarted = earlier(e.FirstSeen, now), earlier(e.Restarted, now)
		e.Read, e.Load, e.Latency = e.Read.setBack(now), e.Load.setBack(now), e.Latency.setBack(now)
		e.SuspectTo, e.StepTo = earlier(e.SuspectTo, e.Read.To), earlier(e.StepTo, e.Read.To)
		e.Failures.To, e.TrimTo = earlier(e.Failures.To, e.Read.To), earlier(e.TrimTo, e.Read.To)
		e.OverloadTo = earlier(e.OverloadTo, e.Read.To)
	}
	for i := range m.gone {
		m.gone[i].at = earlier(m.gone[i].at, now)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.After(b) {
		return b
	}
	return a
}

func (m *Machine) decide(t *tick) Decisions {
	m.synced = true
	t.run(t.law.stages())
	t.run(damping)
	t.publish()
	return t.decisions()
}

// scratch is the working space of a tick. What is left in it by the tick before saves work and decides nothing.
type scratch struct {
	w, c, ss, sorted  []float64
	young, held, sent []bool
	index, reasons    []int
	log               []note
	endpoints         []Endpoint // by address
	addresses, bases  []int      // the orders of endpoints and of members by these
	whose             []int      // by number of a reading: the member that it was of
	planned, spared   []float64
	telling           []int     // the members of whose last readings the middle is made
	lnP50             []float64 // of these, in seconds
}

func (s *scratch) size(n int) {
	s.w = slices.Grow(s.w[:0], n)[:n]
	s.c = slices.Grow(s.c[:0], n)[:n]
	s.ss = slices.Grow(s.ss[:0], n)[:n]
	s.young = slices.Grow(s.young[:0], n)[:n]
	s.held = slices.Grow(s.held[:0], n)[:n]
	s.sent = slices.Grow(s.sent[:0], n)[:n]
	s.sorted = slices.Grow(s.sorted[:0], n)[:0]
	s.index = slices.Grow(s.index[:0], n)[:0]
	s.reasons = slices.Grow(s.reasons[:0], n)[:n]
}
