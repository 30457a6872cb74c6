package main

import (
	"fmt"
	"math"
	"time"

	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/weights"
)

// controlPlane decides the weights of the fleet.
type controlPlane interface {
	// period is the time between two ticks.
	period() time.Duration
	// tick is given the latest reading of each member that has one, and returns the weights by member,
	// and whether they are to be sent.
	tick(now time.Duration, members []*server, readings []signals.Reading) ([]uint32, bool)
	// joined returns the weights when members came or went. They are sent in any case.
	joined(now time.Duration, members []*server) []uint32
}

// none leaves all weights equal.
type none struct{}

func (none) period() time.Duration { return time.Minute }

func (none) tick(_ time.Duration, members []*server, _ []signals.Reading) ([]uint32, bool) {
	return equal(len(members)), false
}

func (none) joined(_ time.Duration, members []*server) []uint32 { return equal(len(members)) }

func equal(n int) []uint32 {
	w := make([]uint32, n)
	for i := range w {
		w[i] = 1
	}
	return w
}

// engine is the product's package weights, with the configuration of a BalancePolicy that names a
// strategy and nothing else.
type engine struct {
	machine *weights.Machine
	service weights.Service
	terms   map[string]bool // of the Reasons that were given
}

func newEngine(strategy string, pickingWorkers int) *engine {
	config := weights.DefaultConfig()
	config.Strategy = strategy
	return &engine{
		machine: weights.NewMachine(service),
		service: weights.Service{Name: service, Config: config, PickingWorkers: pickingWorkers},
		terms:   map[string]bool{},
	}
}

func (e *engine) period() time.Duration { return weights.Tick }

func (e *engine) tick(now time.Duration, members []*server, readings []signals.Reading) ([]uint32, bool) {
	e.service.Endpoints = endpointsOf(members)
	d := e.machine.Step(epoch.Add(now), e.service, readings)
	for _, endpoint := range d.Endpoints {
		for _, r := range endpoint.Reasons {
			e.terms[r.Term] = true
		}
	}
	return published(d, members), d.Publish
}

func (e *engine) joined(now time.Duration, members []*server) []uint32 {
	e.service.Endpoints = endpointsOf(members)
	return published(e.machine.Members(epoch.Add(now), e.service), members)
}

func endpointsOf(members []*server) []weights.Endpoint {
	endpoints := make([]weights.Endpoint, len(members))
	for i, s := range members {
		endpoints[i] = weights.Endpoint{Key: key(s.index), Instance: fmt.Sprint(s.instance), Base: 1, Multiplier: 1}
		if s.instance > 0 {
			endpoints[i].ReadySince = epoch.Add(s.startedAt)
		}
	}
	return endpoints
}

func published(d weights.Decisions, members []*server) []uint32 {
	byAddress := make(map[string]uint32, len(d.Endpoints))
	for _, e := range d.Endpoints {
		byAddress[e.Key.Address] = e.Weight
	}
	w := make([]uint32, len(members))
	for i, s := range members {
		w[i] = byAddress[key(s.index).Address]
	}
	return w
}

// oracle knows the true capacities at once, which no control plane can. An endpoint that can do
// nothing, or fails everything, has the least weight there is.
type oracle struct {
	mean float64 // seconds of work of a request
	last []uint32
}

func (*oracle) period() time.Duration { return 200 * time.Millisecond }

func (o *oracle) tick(now time.Duration, members []*server, _ []signals.Reading) ([]uint32, bool) {
	was := o.last
	w := o.joined(now, members)
	for i := range w {
		if i >= len(was) || math.Abs(math.Log(float64(w[i])/float64(was[i]))) > 0.04 {
			return w, true
		}
	}
	o.last = was
	return was, false
}

func (o *oracle) joined(_ time.Duration, members []*server) []uint32 {
	w := make([]uint32, len(members))
	for i, s := range members {
		w[i] = uint32(max(1, math.Round(100*s.capacity(o.mean))))
	}
	o.last = w
	return w
}

// pid raises the weight of servers that are less used than the average and lowers that of those that
// are more, as Robinhood does (Dropbox, "Robinhood: in-house load balancing service", 2024):
//
//	u = max(CPU, in-flight / (4 * workers))
//	e = (mean u - u) / mean u
//	ln w += kp (e - e before) + ki e + kd (e - 2 e before + e before that)
//
// The gains are the best of a coarse search on the scenarios even, uneven and visible-step; the in-flight
// requests are smoothed over about five ticks, or their noise would be what is balanced.
type pid struct {
	state map[int]*pidState
}

type pidState struct {
	instance         int
	log              float64
	inFlight         float64
	last, beforeLast float64
	readings         int
	lastReading      time.Time
	utilisation      float64
}

const (
	pidKp, pidKi, pidKd = 0.5, 0.1, 0.1
	pidSmoothing        = 0.2
	// pidBound keeps weights within a factor of each other.
	pidBound = 2.5
)

func newPID() *pid { return &pid{state: map[int]*pidState{}} }

func (*pid) period() time.Duration { return 4 * time.Second }

func (p *pid) tick(_ time.Duration, members []*server, readings []signals.Reading) ([]uint32, bool) {
	latest := map[signals.Key]signals.Reading{}
	for _, r := range readings {
		latest[r.Endpoint] = r
	}
	sum, n := 0.0, 0
	var moved []*pidState
	for _, s := range members {
		st := p.of(s)
		r, ok := latest[key(s.index)]
		if !ok || r.Instance != fmt.Sprint(s.instance) || !r.To.After(st.lastReading) {
			continue
		}
		st.lastReading = r.To
		use := r.InFlight / float64(4*s.workers)
		if st.readings == 0 {
			st.inFlight = use
		}
		st.inFlight += pidSmoothing * (use - st.inFlight)
		st.readings++
		st.utilisation = max(r.CPU, st.inFlight)
		sum += st.utilisation
		n++
		moved = append(moved, st)
	}
	if n == 0 || sum == 0 {
		return p.integers(members), false
	}
	average := sum / float64(n)
	for _, st := range moved {
		e := (average - st.utilisation) / average
		if st.readings == 1 {
			st.last, st.beforeLast = e, e
		}
		st.log += pidKp*(e-st.last) + pidKi*e + pidKd*(e-2*st.last+st.beforeLast)
		st.last, st.beforeLast = e, st.last
		st.log = min(pidBound, max(-pidBound, st.log))
	}
	return p.integers(members), true
}

func (p *pid) joined(_ time.Duration, members []*server) []uint32 { return p.integers(members) }

// of is the server's state; a new process begins with the weight of the one before.
func (p *pid) of(s *server) *pidState {
	st := p.state[s.index]
	if st == nil || st.instance != s.instance {
		next := &pidState{instance: s.instance}
		if st != nil {
			next.log = st.log
		}
		st = next
		p.state[s.index] = st
	}
	return st
}

func (p *pid) integers(members []*server) []uint32 {
	w := make([]uint32, len(members))
	for i, s := range members {
		w[i] = uint32(max(1, math.Round(1000*math.Exp(p.of(s).log))))
	}
	return w
}
