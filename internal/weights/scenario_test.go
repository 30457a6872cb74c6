package weights

import (
	"fmt"
	"math/rand/v2"
	"time"

	"pgregory.net/rapid"
)

// scenario is a drawn history of a Service: what happens to it, tick by tick. Played twice it is the
// same, which is what most invariants compare.
type scenario struct {
	config Config
	load   float64
	start  []float64 // capacities of the first endpoints
	events []event
	seed   uint64
}

// event happens before the tick of its number.
type event struct {
	tick  int
	what  string
	which int     // an endpoint, modulo how many there are
	value float64 // 0 to 1
}

var happenings = []string{
	"slower", "faster", "join", "leave", "replace", "silent", "heard", "no-cpu", "restart", "load",
	"failing", "hidden", "sheds", "queues", "multiplier", "base", "freeze", "unfreeze", "mode", "blend", "strategy", "clock",
	"reports", "claims",
}

// drawScenario draws a history of up to 40 ticks. Only the happenings given occur, all if none are.
func drawScenario(t *rapid.T, only ...string) scenario {
	if len(only) == 0 {
		only = happenings
	}
	c := DefaultConfig()
	c.Blend = rapid.SampledFrom([]float64{1, 1, 0.25}).Draw(t, "blend")
	c.Tilt = rapid.SampledFrom([]float64{0, 0, 0.25}).Draw(t, "tilt")
	c.SlowStart = rapid.SampledFrom([]time.Duration{0, 10 * time.Second, 30 * time.Second}).Draw(t, "slow start")
	c.ConfiguredRequestsPerSecond = rapid.SampledFrom([]float64{0, 100}).Draw(t, "configured")
	return scenario{
		config: c,
		load:   rapid.Float64Range(1, 1000).Draw(t, "load"),
		start:  rapid.SliceOfN(rapid.Float64Range(5, 500), 1, 8).Draw(t, "capacities"),
		events: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) event {
			return event{
				tick:  rapid.IntRange(0, 39).Draw(t, "tick"),
				what:  rapid.SampledFrom(only).Draw(t, "what"),
				which: rapid.IntRange(0, 9).Draw(t, "which"),
				value: rapid.Float64Range(0, 1).Draw(t, "value"),
			}
		}), 0, 12).Draw(t, "events"),
		seed: rapid.Uint64().Draw(t, "seed"),
	}
}

// play runs the scenario on a new plant and calls seen after every decision of the Machine.
func (s scenario) play(t *rapid.T, seen func(p *plant)) *plant {
	p := newPlant(t, s.load)
	p.noise = rand.New(rand.NewPCG(s.seed, 1))
	p.svc.Config = s.config
	for i, c := range s.start {
		p.add(fmt.Sprintf("10.0.0.%d:80", i), c)
	}
	p.members()
	seen(p)
	for tick := range 40 {
		told := false
		for i, e := range s.events {
			if e.tick == tick {
				told = e.apply(p, i) || told
			}
		}
		if told {
			p.members()
			seen(p)
		}
		p.tick()
		seen(p)
	}
	return p
}

// apply lets the event happen, and says whether the Machine has to be told of it.
func (e event) apply(p *plant, number int) bool {
	n := len(p.servers)
	if n == 0 && e.what != "join" {
		return false
	}
	at := e.which % max(1, n)
	fresh := fmt.Sprintf("10.0.%d.%d:80", e.which%3, number+10)
	switch e.what {
	case "slower":
		p.servers[at].capacity *= 0.2 + 0.6*e.value
	case "faster":
		p.servers[at].capacity *= 1 + 4*e.value
	case "join":
		p.add(fresh, 5+500*e.value)
		return true
	case "leave":
		p.remove(p.svc.Endpoints[at].Key.Address)
		return true
	case "replace":
		p.svc.Endpoints[at].Instance = fmt.Sprint("instance-", number)
		return true
	case "silent":
		p.servers[at].metrics = "off"
	case "heard":
		p.servers[at].metrics = "on"
	case "no-cpu":
		p.servers[at].metrics = "no-cpu"
	case "failing":
		p.servers[at].failing = max(0, 1.5*e.value-0.5)
	case "hidden":
		p.servers[at].hidden = 5 * e.value
	case "sheds":
		p.servers[at].sheds = true
	case "queues":
		p.servers[at].queues, p.servers[at].stay = true, 1000*max(0, e.value-0.5)
	case "restart":
		p.servers[at].instance = fmt.Sprint("process-", number)
	case "load":
		p.load = 1 + 1000*e.value
	case "multiplier":
		p.svc.Endpoints[at].Multiplier = 0.1 + 3*e.value
		return true
	case "base":
		p.svc.Endpoints[at].Base = 0.1 + 3*e.value
		return true
	case "freeze":
		p.m.Freeze("by hand")
	case "unfreeze":
		p.m.Unfreeze()
	case "mode":
		p.svc.Config.Mode = []Mode{Enforce, Shadow, Equal}[e.which%3]
		return true
	case "strategy":
		p.svc.Config.Strategy = []string{Capacity, RTT, Static}[e.which%3]
		return true
	case "blend":
		p.svc.Config.Blend = e.value
		return true
	case "reports":
		p.reports = []string{"all", "some", ""}[e.which%3]
	case "claims":
		p.servers[at].claims = 10 * e.value
	case "clock":
		p.now = p.now.Add(time.Duration((e.value - 0.5) * float64(time.Hour)))
	}
	return false
}
