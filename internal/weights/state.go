package weights

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/health"
)

// MachineState is a Machine at rest. It serialises to JSON without loss: a Machine restored from it
// decides bit for bit as the one it was taken from would have.
type MachineState struct {
	Service   string          `json:"service"`
	Endpoints []EndpointState `json:"endpoints"`
	// Gone are endpoints that left within the hour, in the order of leaving.
	Gone []GoneState `json:"gone,omitempty"`
	// Synced: the endpoints of the Service are known; one that is not among them is new.
	Synced bool   `json:"synced,omitempty"`
	Frozen string `json:"frozen,omitempty"`
	// Prior is ln of the requests/s at full use that a base of 1 stands for, as of PriorAt.
	Prior   float64   `json:"prior,omitempty"`
	PriorAt time.Time `json:"priorAt,omitzero"`
	// Mode, Anchor, Metadata and Published are those of the last publication of all weights.
	Mode      Mode      `json:"mode,omitempty"`
	Anchor    float64   `json:"anchor,omitempty"`
	Metadata  bool      `json:"metadata,omitempty"`
	Published time.Time `json:"published,omitzero"`
	Snap      Snap      `json:"snap,omitzero"`
	Usual     Usual     `json:"usual,omitzero"`
	Shed      Shed      `json:"shed,omitzero"`
	Rejected  uint64    `json:"rejected,omitempty"`
}

// GoneState is an endpoint that left at At.
type GoneState struct {
	EndpointState
	At time.Time `json:"at"`
}

// State is the Machine's state now. It shares nothing with the Machine.
func (m *Machine) State() MachineState {
	s := MachineState{
		Service: m.service, Synced: m.synced, Frozen: m.frozen,
		Prior: m.prior, PriorAt: m.priorAt,
		Mode: m.mode, Anchor: m.anchor, Metadata: m.metadata, Published: m.published,
		Snap:      m.snap,
		Usual:     m.usual,
		Shed:      m.shed,
		Rejected:  m.rejected,
		Endpoints: make([]EndpointState, len(m.members)),
	}
	for i := range m.members {
		s.Endpoints[i] = m.members[i].EndpointState
	}
	for _, g := range m.gone {
		s.Gone = append(s.Gone, GoneState{g.EndpointState, g.at})
	}
	return s
}

// Restore makes the Machine go on from s. It refuses, unchanged, the state of another Service or one
// that holds a number no Machine would have written. Times after now (the clock was set back while the
// process was down) count as now.
func (m *Machine) Restore(s MachineState, now time.Time) error {
	if s.Service != m.service {
		return fmt.Errorf("service: state of %q, want %q", s.Service, m.service)
	}
	if !finite(s.Prior) || !(s.Anchor >= 0) || !finite(s.Anchor) {
		return fmt.Errorf("prior, anchor: %v, %v: want finite numbers, the anchor not negative", s.Prior, s.Anchor)
	}
	if err := s.Usual.check(); err != nil {
		return fmt.Errorf("usual: %w", err)
	}
	if err := s.Shed.check(); err != nil {
		return fmt.Errorf("shed: %w", err)
	}
	restored := Machine{
		service: m.service, synced: s.Synced, frozen: s.Frozen,
		prior: s.Prior, priorAt: s.PriorAt,
		mode: s.Mode, anchor: s.Anchor, metadata: s.Metadata, published: s.Published,
		snap:     s.Snap,
		usual:    s.Usual,
		shed:     s.Shed,
		rejected: s.Rejected,
		members:  make([]member, len(s.Endpoints)),
	}
	for i, e := range s.Endpoints {
		if err := e.check(); err != nil {
			return fmt.Errorf("endpoints[%d] %s: %w", i, e.Address, err)
		}
		restored.members[i].EndpointState = e
	}
	slices.SortFunc(restored.members, func(a, b member) int { return strings.Compare(a.Address, b.Address) })
	for i := 1; i < len(restored.members); i++ {
		if a := restored.members[i].Address; a == restored.members[i-1].Address {
			return fmt.Errorf("endpoints: %s is there twice", a)
		}
	}
	for i, g := range s.Gone[max(0, len(s.Gone)-maxGone):] {
		if err := g.check(); err != nil {
			return fmt.Errorf("gone[%d] %s: %w", i, g.Address, err)
		}
		restored.gone = append(restored.gone, gone{g.EndpointState, g.At})
	}
	restored.now = now
	restored.setBack(now)
	*m = restored
	return nil
}

// check finds what would make a weight that is no number.
func (e *EndpointState) check() error {
	switch {
	case !(e.Base > 0 && e.Multiplier > 0 && finite(e.Base) && finite(e.Multiplier)):
		return fmt.Errorf("base, multiplier: %v, %v: want more than 0", e.Base, e.Multiplier)
	case !(math.Abs(e.X) < 100) || !(e.P >= 0 && e.P <= 1e4):
		return fmt.Errorf("x, p: %v, %v: want |x| < 100 and p from 0 to 10000", e.X, e.P)
	case !(e.Damped > 0 && finite(e.Damped)) || e.Weight == 0 || !(e.SlowStart > 0 && e.SlowStart <= 1):
		return fmt.Errorf("damped, weight, slowStart: %v, %d, %v: want more than 0", e.Damped, e.Weight, e.SlowStart)
	case !(e.RequestsPerSecond >= 0 && e.RequestsPerSecond <= maxRate):
		return fmt.Errorf("requestsPerSecond: %v: want 0 to 1e12", e.RequestsPerSecond)
	case !(e.InFlight >= 0 && e.InFlight <= 2*maxRate):
		return fmt.Errorf("inFlight: %v: want 0 to 1e12", e.InFlight)
	case !(slices.Min(e.CPU[:]) >= 0 && slices.Max(e.CPU[:]) <= maxCPU):
		return fmt.Errorf("cpu: %v: want 0 to %v", e.CPU, maxCPU)
	case e.Trim != 0 && !(e.Trim >= health.TrimFloor && e.Trim <= 1):
		return fmt.Errorf("trim: %v: want 0 or %v to 1", e.Trim, health.TrimFloor)
	case e.Pressure.check() != nil:
		return e.Pressure.check()
	case e.Ceiling.check() != nil:
		return fmt.Errorf("ceiling: %w", e.Ceiling.check())
	case e.Failures.Check() != nil:
		return fmt.Errorf("failures: %v", e.Failures.Check())
	case cmp.Compare(e.HealthScore, 0) < 0 || e.HealthScore > 1 || cmp.Compare(e.QPSDecayFactor, 0) < 0 || e.QPSDecayFactor > 1:
		return fmt.Errorf("healthScore, qpsDecayFactor: %v, %v: want 0 to 1", e.HealthScore, e.QPSDecayFactor)
	}
	return nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
