package weights

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/signals"
)

const shop = "shop/cart:8080"

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// plant is a Service that is simulated without noise (or with some): requests go out by the published
// weights and cost CPU, and the last windowTicks ticks are read as one reading.
type plant struct {
	t       rapid.TB
	m       *Machine
	now     time.Time
	svc     Service
	servers []*server // sorted by address, one per endpoint of svc
	load    float64   // requests/s of the Service
	last    Decisions
	pushes  []Decisions
	noise   *rand.Rand // nil: none
	longer  int        // times all response times, 0: 1
	reports string     // load reports, each of the last windowTicks ticks: "all", "some" (of half the requests), "" for none
	ticks   int

	stepped bool              // the last decisions are of a Step
	read    []signals.Reading // what that Step was given
}

const windowTicks = 3

type server struct {
	capacity   float64 // requests/s at CPU 1
	elasticity float64 // of CPU to the rate; 1: CPU = rate/capacity
	failing    float64 // part of the requests that fails at once, at no cost
	hidden     float64 // how many times slower it is than its CPU shows; 0: 1
	sheds      bool    // requests beyond its capacity fail; else they are not sent
	queues     bool    // or they wait, and it says how many requests it has
	stay       float64 // of these, connections that stay
	ejected    bool    // it is sent nothing
	metrics    string  // "on", "off", "no-cpu", "no-latency", "no-errors"
	instance   string
	claims     float64 // how many times as many requests as it completes it says that it did; 0: 1
	sources    signals.Sources
	// Per tick, the last windowTicks.
	done, failed, busy []float64
	// If it queues: how many wait, and for how long on average those of the last ticks did, in seconds.
	waiting float64
	waited  []float64
}

func (s *server) slowdown() float64 { return max(1, s.hidden) }

func newPlant(t rapid.TB, load float64) *plant {
	return &plant{
		t: t, m: NewMachine(shop), now: epoch, load: load,
		svc: Service{Name: shop, Config: DefaultConfig(), PickingWorkers: 1},
	}
}

func key(address string) signals.Key { return signals.Key{Service: shop, Address: address} }

// add lets an endpoint join, or changes it, without telling the Machine.
func (p *plant) add(address string, capacity float64) (*Endpoint, *server) {
	at, found := slices.BinarySearchFunc(p.svc.Endpoints, address, func(e Endpoint, a string) int {
		return strings.Compare(e.Key.Address, a)
	})
	if !found {
		p.svc.Endpoints = slices.Insert(p.svc.Endpoints, at, Endpoint{Key: key(address), Base: 1, Multiplier: 1})
		p.servers = slices.Insert(p.servers, at, &server{elasticity: 1, metrics: "on"})
	}
	p.servers[at].capacity = capacity
	return &p.svc.Endpoints[at], p.servers[at]
}

func (p *plant) remove(address string) {
	at := p.index(address)
	p.svc.Endpoints = slices.Delete(slices.Clone(p.svc.Endpoints), at, at+1)
	p.servers = slices.Delete(p.servers, at, at+1)
}

func (p *plant) index(address string) int {
	at := slices.IndexFunc(p.svc.Endpoints, func(e Endpoint) bool { return e.Key.Address == address })
	if at < 0 {
		p.t.Fatalf("no endpoint %s", address)
	}
	return at
}

func (p *plant) server(address string) *server { return p.servers[p.index(address)] }

func (p *plant) weight(address string) float64 {
	for _, d := range p.last.Endpoints {
		if d.Key.Address == address {
			return float64(d.Weight)
		}
	}
	p.t.Fatalf("no decision for %s", address)
	return 0
}

func (p *plant) members() Decisions {
	p.stepped = false
	p.take(p.m.Members(p.now, p.svc))
	return p.last
}

func (p *plant) take(d Decisions) {
	p.last = d
	if d.Publish {
		p.pushes = append(p.pushes, d)
	}
}

// tick serves for 2 s with the weights as published, and steps the Machine with what was read.
func (p *plant) tick() Decisions {
	p.serve()
	p.ticks++
	p.now = p.now.Add(Tick)
	p.stepped, p.read = true, p.readings()
	p.take(p.m.Step(p.now, p.svc, p.read))
	return p.last
}

func (p *plant) run(d time.Duration) {
	for range int(d / Tick) {
		p.tick()
	}
}

func (p *plant) serve() {
	sum := 0.0
	for _, d := range p.last.Endpoints {
		sum += float64(d.Weight)
	}
	for i, s := range p.servers {
		rate := p.load / float64(len(p.servers))
		if sum > 0 {
			rate = p.load * p.weight(p.svc.Endpoints[i].Key.Address) / sum
		}
		rate *= 1 - p.last.Shed
		if p.noise != nil {
			rate *= math.Exp(0.1 * p.noise.NormFloat64())
		}
		if s.ejected {
			rate = 0
		}
		failed := rate * s.failing
		rate -= failed
		most := s.capacity / s.slowdown()
		if s.queues {
			before := s.waiting
			s.waiting = max(0, before+(rate-most)*Tick.Seconds())
			rate += (before - s.waiting) / Tick.Seconds()
			s.waited = append(s.waited, (before+s.waiting)/2/most)
			s.waited = s.waited[max(0, len(s.waited)-windowTicks):]
		} else if rate > most {
			if s.sheds {
				failed += rate - most
			}
			rate = most
		}
		cpu := math.Pow(rate/s.capacity, s.elasticity)
		if p.noise != nil && cpu < 1 {
			cpu = math.Min(1, cpu*math.Exp(0.03*p.noise.NormFloat64()))
		}
		s.done = append(s.done, rate*Tick.Seconds())
		s.failed = append(s.failed, failed*Tick.Seconds())
		s.busy = append(s.busy, cpu)
		s.done = s.done[max(0, len(s.done)-windowTicks):]
		s.failed = s.failed[max(0, len(s.failed)-windowTicks):]
		s.busy = s.busy[max(0, len(s.busy)-windowTicks):]
	}
}

func (p *plant) readings() []signals.Reading {
	var out []signals.Reading
	for i, s := range p.servers {
		if p.reports != "" && p.ticks%windowTicks == 0 {
			s.sources.Add(p.reported(i))
		}
		if s.metrics == "off" {
			if r, ok := s.sources.Merged(p.now); ok && p.reports != "" {
				out = append(out, r)
			}
			continue
		}
		r := signals.Reading{
			Endpoint: p.svc.Endpoints[i].Key, To: p.now, From: p.now.Add(-time.Duration(len(s.done)) * Tick),
			SourceInterval: 2 * time.Second, Instance: s.instance,
			Terms: signals.TermRequests | signals.TermErrors | signals.TermCPU | signals.TermLatency,
		}
		for _, d := range s.done {
			r.Done += d
		}
		for _, f := range s.failed {
			r.Failed += f
		}
		for _, b := range s.busy {
			r.CPU += b / float64(len(s.busy))
		}
		serviceTime := s.slowdown() / s.capacity / (1.02 - min(1, r.CPU*s.slowdown()))
		if s.queues {
			r.Terms |= signals.TermInFlight
			r.InFlight = s.stay + s.waiting + s.done[len(s.done)-1]/Tick.Seconds()*serviceTime
			for _, w := range s.waited {
				serviceTime += w / float64(len(s.waited))
			}
		}
		r.P50 = time.Duration(serviceTime*float64(time.Second)) * time.Duration(max(1, p.longer))
		r.P90 = 3 * r.P50
		switch s.metrics {
		case "no-cpu":
			r.Terms &^= signals.TermCPU
			r.CPU = 0
		case "no-errors":
			r.Terms &^= signals.TermErrors
			r.Failed = 0
		case "no-latency":
			r.Terms &^= signals.TermLatency
			r.P50, r.P90 = 0, 0
		}
		if s.claims > 0 {
			r.Done *= s.claims
		}
		s.sources.Add(r)
		r, _ = s.sources.Merged(p.now)
		out = append(out, r)
	}
	return out
}

// reported is what Envoys saw of server i.
func (p *plant) reported(i int) signals.Reading {
	s := p.servers[i]
	n := signals.Reported{
		From: p.now.Add(-time.Duration(len(s.done)) * Tick), To: p.now, SourceInterval: windowTicks * Tick,
		All: p.reports == "all",
	}
	for k := range s.done {
		n.Done += s.done[k]
		n.Failed += s.failed[k]
	}
	if !n.All {
		n.Done, n.Failed = n.Done/2, n.Failed/2
	}
	return signals.Reading{Endpoint: p.svc.Endpoints[i].Key, From: n.From, To: n.To, SourceInterval: n.SourceInterval, Reported: n}
}
