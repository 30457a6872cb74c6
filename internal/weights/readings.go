package weights

import (
	"cmp"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

const (
	// freshFor is how many intervals of its source a reading stays fresh: one may be lost.
	freshFor = 2.5
	// maxRate is the highest rate that is taken for one, in requests/s.
	maxRate = 1e12
	// maxCPU is how far above its limit an endpoint's CPU may be in a window; the kernel's accounting
	// of a burst gives a little more than 1.
	maxCPU = 1.5
)

// needsCapacity are the terms of done/cpu.
const needsCapacity = signals.TermRequests | signals.TermCPU

// Stamp is the age of something that readings carry. The zero Stamp: never seen.
type Stamp struct {
	// To is the end of the latest reading that carried it.
	To time.Time `json:"to,omitzero"`
	// Interval is that reading's SourceInterval.
	Interval time.Duration `json:"interval,omitzero"`
}

func (s Stamp) fresh(now time.Time) bool {
	return !s.To.IsZero() && !now.After(s.To.Add(s.freshness()))
}

// setBack is s, not later than a reading can be that is not refused.
func (s Stamp) setBack(now time.Time) Stamp {
	if s.To.After(now.Add(s.Interval)) {
		s.To = now
	}
	return s
}

func (s Stamp) freshness() time.Duration { return time.Duration(freshFor * float64(s.Interval)) }

// lastOf is the latest reading that carried all the terms.
func (e *EndpointState) lastOf(terms signals.Terms) Stamp {
	switch terms {
	case needsCapacity:
		return e.Load
	case signals.TermLatency:
		return e.Latency
	}
	return e.Read
}

// accept gives every member the latest reading of it, if that is new and believable. Readings of an
// endpoint that is not a member are none of ours.
func (m *Machine) accept(now time.Time, readings []signals.Reading) {
	for i := range readings {
		r := &readings[i]
		if r.Endpoint.Service != m.service {
			continue
		}
		e := m.member(r.Endpoint.Address, i)
		if e != nil && (e.reading == nil || compareReadings(r, e.reading) > 0) {
			e.reading = r
		}
	}
	for i := range m.members {
		e := &m.members[i]
		if e.reading == nil {
			continue
		}
		e.refused = refuse(now, e.reading)
		if e.refused == "" && e.reading.To.After(e.Read.To) {
			e.take(now, e.reading)
			continue
		}
		if e.refused != "" && !e.reading.To.Equal(e.Refused) {
			m.rejected++
			e.Refused = e.reading.To
		}
		e.reading = nil
	}
}

// member is the one of the address, nil if there is none. The number-th reading is mostly of the same
// member in every tick, so that one is tried first.
func (m *Machine) member(address string, number int) *member {
	if whose := m.scratch.whose; number < len(whose) && whose[number] < len(m.members) {
		if e := &m.members[whose[number]]; e.Address == address {
			return e
		}
	}
	at, found := sort.Find(len(m.members), func(i int) int { return strings.Compare(address, m.members[i].Address) })
	if !found {
		return nil
	}
	if number == len(m.scratch.whose) {
		m.scratch.whose = append(m.scratch.whose, at)
	} else if number < len(m.scratch.whose) {
		m.scratch.whose[number] = at
	}
	return &m.members[at]
}

// take notes what the reading says of itself; its measures are left to the stages.
func (e *member) take(now time.Time, r *signals.Reading) {
	if r.Instance != "" {
		if e.ReadingInstance != "" && e.ReadingInstance != r.Instance {
			e.restart(now)
		}
		e.ReadingInstance = r.Instance
	}
	e.since = 0
	if !e.Read.To.IsZero() {
		e.since = r.To.Sub(e.Read.To)
	}
	stamp := Stamp{r.To, r.SourceInterval}
	e.Read = stamp
	if r.Terms.Has(needsCapacity) {
		e.Load = stamp
	}
	if r.Terms.Has(signals.TermRequests) {
		e.RequestsPerSecond = (r.Done + r.Failed) / r.To.Sub(r.From).Seconds()
	}
	e.InFlight = 0
	if n, ok := reportedIn(r); r.Terms.Has(signals.TermInFlight) {
		e.InFlight = float32(1 + min(maxRate, r.InFlight))
	} else if ok && n.All && n.InFlight >= 0 {
		e.InFlight = float32(1 + min(maxRate, n.InFlight))
	}
	if r.Terms.Has(signals.TermLatency) {
		e.Latency = stamp
		e.P50, e.P90 = r.P50, r.P90
	}
}

// refuse is what makes a reading unbelievable, "" for nothing.
func refuse(now time.Time, r *signals.Reading) string {
	window := r.To.Sub(r.From).Seconds()
	switch {
	case r.SourceInterval <= 0:
		return "no source interval"
	case window <= 0:
		return "an empty window"
	case r.To.Sub(now) > r.SourceInterval:
		return "it comes from the future"
	case r.Terms.Has(signals.TermRequests) &&
		!(r.Done >= 0 && r.Failed >= 0 && (r.Done+r.Failed)/window <= maxRate):
		return "requests are negative or not a number"
	case r.Terms.Has(signals.TermCPU) && !(r.CPU >= 0 && r.CPU <= maxCPU):
		return "CPU is negative, not a number, or above 1.5"
	case r.Terms.Has(signals.TermInFlight) && !(r.InFlight >= 0 && r.InFlight <= math.MaxFloat64):
		return "in-flight requests are negative or not a number"
	case r.Terms.Has(signals.TermLatency) && !(r.P50 >= 0 && r.P90 >= 0):
		return "a response time is negative"
	}
	return ""
}

// reportedIn is what Envoys say in a reading, if it is believable.
func reportedIn(r *signals.Reading) (signals.Reported, bool) {
	n := r.Reported
	window := n.To.Sub(n.From).Seconds()
	ok := window > 0 && n.Done >= 0 && n.Failed >= 0 && (n.Done+n.Failed)/window <= maxRate &&
		n.Claim >= 0 && n.Claim <= math.MaxFloat64 && n.To.Sub(r.To) <= n.SourceInterval
	return n, ok
}

// compareReadings orders by time, and readings of the same time by what they say, so that the order
// in which they came does not matter.
func compareReadings(a, b *signals.Reading) int {
	return cmp.Or(
		a.To.Compare(b.To), b.From.Compare(a.From), cmp.Compare(a.Terms, b.Terms),
		cmp.Compare(a.Done, b.Done), cmp.Compare(a.Failed, b.Failed), cmp.Compare(a.CPU, b.CPU),
		cmp.Compare(a.InFlight, b.InFlight), cmp.Compare(a.P50, b.P50), cmp.Compare(a.P90, b.P90),
		cmp.Compare(a.SourceInterval, b.SourceInterval), strings.Compare(a.Instance, b.Instance),
		compareReported(a.Reported, b.Reported))
}

func compareReported(a, b signals.Reported) int {
	return cmp.Or(
		a.To.Compare(b.To), b.From.Compare(a.From), cmp.Compare(a.SourceInterval, b.SourceInterval),
		cmp.Compare(a.Done, b.Done), cmp.Compare(a.Failed, b.Failed), cmp.Compare(a.Claim, b.Claim),
		strings.Compare(strconv.FormatBool(a.All), strconv.FormatBool(b.All)))
}
