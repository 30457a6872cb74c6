package main

import (
	"context"
	"net/netip"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// topology is the servers, the Envoys before them, and how much is asked of them.
type topology struct {
	servers, workers int     // servers, and workers of each
	slowest, fastest float64 // speeds go evenly from one to the other
	work             time.Duration
	load             float64 // of the servers' capacity
	envoys           int     // each gets an equal part of the requests
	concurrency      int     // worker threads of each Envoy
	withoutCPU       int     // so many servers, of middling speed, export no CPU metric
}

// standard is the topology of every scenario that does not say otherwise.
var standard = topology{
	servers: 12, workers: 2, slowest: 1, fastest: 4, work: 60 * time.Millisecond, load: 0.7, envoys: 1, concurrency: 2,
}

// serverPort is the port of all servers, each on an address of its own.
const serverPort = 18080

// firstLane is the third byte of the first lane's addresses, 127.0.<firstLane+lane>.x.
const firstLane = 16

// serversStarted is when the servers claim to have started. It is the same in every run, so that what was
// learnt in a run before is about the same processes as far as anyone can tell.
var serversStarted = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// serverConfigs are the same for all lanes in one repetition, but for the addresses.
func (t topology) serverConfigs(lane, repetition int) []demo.BackendConfig {
	configs := make([]demo.BackendConfig, t.servers)
	for i := range configs {
		address := netip.AddrFrom4([4]byte{127, 0, byte(firstLane + lane), byte(i + 1)})
		speed := t.slowest
		if t.servers > 1 {
			speed += (t.fastest - t.slowest) * float64(i) / float64(t.servers-1)
		}
		configs[i] = demo.BackendConfig{
			Address: netip.AddrPortFrom(address, serverPort), Workers: t.workers, Speed: speed,
			Work: demo.Distribution{Shape: demo.HyperExponential, Mean: t.work},
			Seed: uint64(repetition*t.servers + i), Started: serversStarted,
		}
		if i >= t.servers/2 && i < t.servers/2+t.withoutCPU {
			configs[i].Metrics = demo.MetricsNoCPU
		}
	}
	return configs
}

// rig is what an arm gets to work with.
type rig struct {
	topology
	binary, envoy string // paths of the programs
	dir           string // for everything it writes; gone after the run
	state         string // a folder to go on from and to leave its knowledge in (a copy, made for this run)
	lane          int    // several rigs run side by side, each on addresses 127.0.<16+lane>.x
	servers       demo.Fleet
	listeners     []uint16 // one per Envoy, on 127.0.0.1
}

// port is the lane's own i-th port for what is not a listener. It is below the range from which systems
// take the ports of outgoing connections, so that what dies and comes back finds it free.
func (r rig) port(i int) uint16 { return uint16(21000 + 100*r.lane + i) }

// arm is a way to balance.
type arm struct {
	name, about string
	// warms: it learns; a run of it starts from what it knew at the end of a warm-up.
	warms bool
	// start returns when requests to the rig's listeners are served.
	start func(context.Context, rig) (*running, error)
}

// running is an arm at work. What is about a control plane is nil where there is none of ours.
type running struct {
	stop    func()
	pushes  func(context.Context) (float64, error)     // weight updates sent since its start
	weights func(context.Context) ([]published, error) // those updates, the last 64, the newest first
	kill    func() error                               // SIGKILL to the control plane, by its pid
	revive  func(context.Context) error                // started again, on the same state
}

// published is what was sent in one weight update.
type published struct {
	At      time.Time         `json:"at"`
	Weights map[string]uint32 `json:"weights"` // by address
}

// scenario is what happens in the window. Everything before it is quiet.
type scenario struct {
	name, about string                        // about ends the sentence "In the window: ..."
	alter       func(*topology)               // nil: the standard topology
	during      func(context.Context, stage)  // runs beside the window and ends with it; nil: nothing happens
	load        func(t time.Duration) float64 // factor on the rate, t since the window's start, below 0 before it; nil: 1
	faultAt     time.Duration                 // 0: none; convergence is measured from here
}

// topology is the standard one as the scenario alters it.
func (s scenario) topology() topology {
	t := standard
	if s.alter != nil {
		s.alter(&t)
	}
	return t
}

// stage is what a scenario may touch.
type stage struct {
	servers demo.Fleet
	arm     *running
}
