package weights

import (
	"math"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/health"
)

const (
	// remembered is how long the estimate of an endpoint that left, and the common prior of a Service
	// without endpoints, are kept.
	remembered = time.Hour
	// maxGone bounds the endpoints that are remembered; of more, those that left first are forgotten.
	maxGone = 1024
	// extreme bounds bases and multipliers to [1/extreme, extreme].
	extreme = 1e9
)

// EndpointState is what a Machine remembers of one endpoint, as it is saved.
type EndpointState struct {
	Address  string `json:"address"`
	Instance string `json:"instance,omitempty"`
	// Base, Multiplier and ReadySince are the user's words as of the last tick.
	Base       float64   `json:"base"`
	Multiplier float64   `json:"multiplier"`
	ReadySince time.Time `json:"readySince,omitzero"`
	// FirstSeen is when it joined; AtStart: it was there when the Service was first seen, so that it is
	// not new for being unknown. Restarted is when a reading told of a new process behind it.
	FirstSeen time.Time `json:"firstSeen"`
	AtStart   bool      `json:"atStart,omitempty"`
	Restarted time.Time `json:"restarted,omitzero"`

	// Read, Load and Latency date the last reading, the last one with requests and CPU, and the last
	// one with response times. Refused is the end of the last reading that was refused.
	Read    Stamp     `json:"read,omitzero"`
	Load    Stamp     `json:"load,omitzero"`
	Latency Stamp     `json:"latency,omitzero"`
	Refused time.Time `json:"refused,omitzero"`
	// ReadingInstance is the process as the source of the readings names it.
	ReadingInstance   string        `json:"readingInstance,omitempty"`
	RequestsPerSecond float64       `json:"requestsPerSecond,omitempty"`
	P50               time.Duration `json:"p50,omitempty"`
	P90               time.Duration `json:"p90,omitempty"`

	// X is the estimate of ln C, C in requests/s at full use, and P its variance. Measured: readings
	// are in it; else it is the prior.
	X        float64 `json:"x"`
	P        float64 `json:"p"`
	Measured bool    `json:"measured,omitempty"`
	// LastX is X after the last reading that was informative.
	LastX float64 `json:"lastX,omitempty"`
	// AsReported: the Failures below are those that Envoys saw.
	AsReported bool `json:"asReported,omitempty"`
	// Ejected: it failed, and has been sent nothing since though its weight asks for some.
	Ejected bool `json:"ejected,omitempty"`
	// Suspect is the sign of a deviation that looked like a step, SuspectTo the end of its window.
	Suspect int8 `json:"suspect,omitempty"`
	// InFlight is one more than the requests in it at the end of the last reading, 0 where that does not say.
	InFlight  float32   `json:"inFlight,omitempty"`
	SuspectTo time.Time `json:"suspectTo,omitzero"`
	// StepTo is the end of the window in which a step was last seen.
	StepTo time.Time `json:"stepTo,omitzero"`
	// CPU is that of the times between the last readings with it, the latest first, and
	// OverloadTo the end of the last window in which the endpoint had too much to do.
	CPU        [3]float32 `json:"cpu,omitzero"`
	OverloadTo time.Time  `json:"overloadTo,omitzero"`
	// Trim is the part of its weight that is left for its Failures, 0 before any, and TrimTo the end of
	// the window in which it last moved.
	Failures health.Failures `json:"failures,omitzero"`
	Trim     float64         `json:"trim,omitempty"`
	TrimTo   time.Time       `json:"trimTo,omitzero"`
	Pressure
	Ceiling Ceiling `json:"ceiling,omitzero"`
	// Reference is the capacity that the endpoint has shown.
	Reference health.Reference `json:"reference"`

	// Damped is the weight after slew, in the unit of MachineState.Anchor, and SlowStart the factor of
	// slow start that is in it. Damped is 0 before the first.
	Damped    float64 `json:"damped"`
	SlowStart float64 `json:"slowStart"`
	// Weight, HealthScore and QPSDecayFactor are what was last published; Warming: in slow start.
	Weight         uint32  `json:"weight"`
	HealthScore    float64 `json:"healthScore,omitempty"`
	QPSDecayFactor float64 `json:"qpsDecayFactor,omitempty"`
	Warming        bool    `json:"warming,omitempty"`
}

// gone is an endpoint that left, kept in case it comes back.
type gone struct {
	EndpointState
	at time.Time
}

// join makes m.members the endpoints given, and notes in t who left, joined or was changed.
func (m *Machine) join(t *tick, endpoints []Endpoint) {
	sorted := m.scratch.byAddress(endpoints)

	if !m.sameMembers(sorted) {
		m.exchange(t, sorted)
	}
	for i := range m.members {
		e := &m.members[i]
		e.reading, e.refused, e.joined, e.declared, e.informed, e.counted = nil, "", e.Damped == 0, false, false, false
		base, multiplier := positive(sorted[i].Base), positive(sorted[i].Multiplier)
		if !e.joined && (base != e.Base || multiplier != e.Multiplier) {
			e.declared = true
			t.declared = append(t.declared, e.Address)
		}
		e.Base, e.Multiplier, e.ReadySince = base, multiplier, sorted[i].ReadySince
		if _, replaced := slices.BinarySearch(t.replaced, e.Address); e.joined && !replaced {
			t.joined = append(t.joined, e.Address)
		}
		if !e.Measured {
			e.X = math.Log(base) + m.priorOffset(t.now)
		}
	}
}

func (m *Machine) sameMembers(sorted []Endpoint) bool {
	if len(m.members) != len(sorted) {
		return false
	}
	for i := range sorted {
		if m.members[i].Address != sorted[i].Key.Address || m.members[i].Instance != sorted[i].Instance {
			return false
		}
	}
	return true
}

// exchange merges two sorted lists: the members that were and the endpoints that are.
func (m *Machine) exchange(t *tick, sorted []Endpoint) {
	m.gone = slices.DeleteFunc(m.gone, func(g gone) bool { return t.now.Sub(g.at) > remembered })
	back := make(map[string]int, len(m.gone)) // looked up, never ranged over
	for i, g := range m.gone {
		back[g.Address] = i
	}
	known := len(m.gone)

	members := make([]member, 0, len(sorted))
	old := m.members
	for _, s := range sorted {
		for len(old) > 0 && old[0].Address < s.Key.Address {
			t.left = append(t.left, old[0].Address)
			m.keep(t, old[0])
			old = old[1:]
		}
		if len(old) > 0 && old[0].Address == s.Key.Address {
			was := old[0]
			old = old[1:]
			if was.Instance == s.Instance {
				members = append(members, was)
				continue
			}
			m.keep(t, was)
			t.replaced = append(t.replaced, was.Address)
		}
		e := m.newcomer(t.now, s)
		if i, ok := back[s.Key.Address]; ok && m.gone[i].Instance == s.Instance {
			e.remember(m.gone[i], t.now)
			m.gone[i].Address = "" // taken
		}
		members = append(members, e)
	}
	for _, was := range old {
		t.left = append(t.left, was.Address)
		m.keep(t, was)
	}
	m.members = members
	taken := slices.DeleteFunc(m.gone[:known:known], func(g gone) bool { return g.Address == "" })
	m.gone = append(taken, m.gone[known:]...)
	if extra := len(m.gone) - maxGone; extra > 0 {
		m.gone = slices.Delete(m.gone, 0, extra)
	}
}

// keep remembers an endpoint that left.
func (m *Machine) keep(t *tick, e member) {
	if e.Measured {
		m.gone = append(m.gone, gone{e.EndpointState, t.now})
	}
}

func (m *Machine) newcomer(now time.Time, s Endpoint) member {
	return member{EndpointState: EndpointState{
		Address: s.Key.Address, Instance: s.Instance,
		FirstSeen: now, AtStart: !m.synced,
		P: priorVariance,
	}}
}

// remember takes up the estimate of the same instance from before it left. Its caches may have cooled
// meanwhile, so its slow start is that of a newcomer.
func (e *member) remember(was gone, now time.Time) {
	e.X, e.LastX, e.Measured = was.X, was.LastX, was.Measured
	e.P = min(maxVariance, was.P+drift*max(0, now.Sub(was.at).Seconds()))
	e.Read, e.Load, e.Latency = was.Read, was.Load, was.Latency
	e.Failures, e.AsReported, e.Ejected, e.Trim, e.TrimTo = was.Failures, was.AsReported, was.Ejected, was.Trim, was.TrimTo
	e.CPU, e.OverloadTo = was.CPU, was.OverloadTo
	e.Pressure, e.Ceiling = was.Pressure, was.Ceiling
	e.ReadingInstance, e.Reference = was.ReadingInstance, was.Reference
	e.P50, e.P90 = was.P50, was.P90
}

// restart forgets what was measured of the process before.
func (e *member) restart(now time.Time) {
	e.Restarted = now
	e.Load, e.Latency = Stamp{}, Stamp{}
	e.P, e.Measured = priorVariance, false
	e.Suspect, e.SuspectTo, e.StepTo = 0, time.Time{}, time.Time{}
	e.Failures, e.AsReported, e.Ejected, e.Trim, e.TrimTo = health.Failures{}, false, false, 0, time.Time{}
	e.CPU, e.OverloadTo = [3]float32{}, time.Time{}
	e.Pressure, e.Ceiling = Pressure{}, Ceiling{}
	e.Reference = health.Reference{}
}

// byAddress is the endpoints in the order of their addresses, each address once.
func (s *scratch) byAddress(endpoints []Endpoint) []Endpoint {
	s.addresses = sortAgain(s.addresses, len(endpoints), func(a, b int) int { return compareEndpoints(&endpoints[a], &endpoints[b]) })
	s.endpoints = s.endpoints[:0]
	for _, i := range s.addresses {
		if n := len(s.endpoints); n == 0 || s.endpoints[n-1].Key.Address != endpoints[i].Key.Address {
			s.endpoints = append(s.endpoints, endpoints[i])
		}
	}
	return s.endpoints
}

// sortAgain is the numbers below n in the order of compare. What it was the last time is tried first:
// it mostly still is.
func sortAgain(order []int, n int, compare func(a, b int) int) []int {
	if len(order) != n {
		order = order[:0]
		for i := range n {
			order = append(order, i)
		}
	}
	if !slices.IsSortedFunc(order, compare) {
		slices.SortFunc(order, compare)
	}
	return order
}

func compareEndpoints(a, b *Endpoint) int {
	if c := strings.Compare(a.Key.Address, b.Key.Address); c != 0 {
		return c
	}
	// An address given twice: which of them counts must not depend on their order.
	return strings.Compare(a.Instance, b.Instance)
}

// positive is v made usable as a factor: 1 for what is none.
func positive(v float64) float64 {
	if !(v > 0) {
		return 1
	}
	return min(extreme, max(1/extreme, v))
}
