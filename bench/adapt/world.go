package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/rls/gcra"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/weights"
)

// epoch is the simulation's time 0 as the control plane's clock shows it.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const service = "sim/api:80"

func key(index int) signals.Key {
	return signals.Key{Service: service, Address: fmt.Sprintf("10.0.0.%d:80", index+1)}
}

// What the backends can do together at their full speed, and what the limit is, in requests/s.
const (
	servers    = 2
	all        = 300
	configured = 280
	permitted  = 240
)

// world is a service behind a limit that follows it, asked by a Poisson process that waits for no answer.
type world struct {
	now     time.Duration
	random  *rand.Rand
	work    time.Duration // mean, at speed 1
	servers []*server
	load    float64 // requests/s that come
	arrival time.Duration

	requests int64 // of the limit
	adapts   *v1alpha1.Adapt
	bucket   gcra.State
	factor   adapt.Factor
	machine  *weights.Machine
	service  weights.Service
	share    []float64 // of the published weights
	last     adapt.Decision

	told     func()     // after each tick, if not nil
	admitted []*request // since it was last emptied
}

// request is one that the limit let in.
type request struct {
	at, took time.Duration // took is 0 while it is under way, or if it failed
}

func newWorld(k kind, limit int64, hold time.Duration, seed uint64) *world {
	w := &world{
		random:   rand.New(rand.NewPCG(seed, 0x6164617074)),
		work:     time.Duration(float64(servers*k.workers) / all * float64(time.Second)),
		requests: limit,
		adapts:   &v1alpha1.Adapt{By: v1alpha1.AdaptByHealth, Floor: new(0.2), Ceil: new(1.0), Step: new(0.05), Hold: &metav1.Duration{Duration: hold}},
		machine:  weights.NewMachine(service),
		service:  weights.Service{Name: service, Config: weights.DefaultConfig(), PickingWorkers: 1},
	}
	w.service.Config.ConfiguredRequestsPerSecond = configured
	for i := range servers {
		w.servers = append(w.servers, &server{kind: k, index: i, speed: 1, hidden: 1})
		w.service.Endpoints = append(w.service.Endpoints, weights.Endpoint{Key: key(i), Base: 1, Multiplier: 1})
		w.share = append(w.share, 1)
	}
	w.last.Value = 1
	return w
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	for end := w.now + d; w.now < end; {
		// What comes next: a tick or scrape (on a grid of 250 ms), an arrival, or the end.
		grid := w.now/gridStep*gridStep + gridStep
		next := min(end, grid)
		if w.load > 0 && w.arrival < next {
			next = max(w.now, w.arrival)
		}
		w.now = next
		for _, s := range w.servers {
			s.advance(next)
		}
		if w.load > 0 && w.arrival <= next {
			w.arrive()
			w.arrival = w.now + time.Duration(w.random.ExpFloat64()/w.load*float64(time.Second))
			continue
		}
		if next == grid {
			for i, s := range w.servers {
				if (next+time.Duration(i+1)*3*gridStep)%scrapeEvery == 0 {
					s.scrape()
				}
			}
			if next%weights.Tick == 0 {
				w.tick()
			}
		}
	}
}

const gridStep = 250 * time.Millisecond

// offer changes what comes from now on.
func (w *world) offer(load float64) {
	w.load, w.arrival = load, w.now
}

func (w *world) arrive() {
	at := w.now
	work := time.Duration(w.random.ExpFloat64() * float64(w.work))
	bound := gcra.NewBound(w.requests, time.Second, w.requests/4, w.last.Value)
	state, answer := bound.Take(w.bucket, epoch.Add(at).UnixNano(), 1)
	if w.bucket = state; !answer.Admitted {
		return
	}
	r := &request{at: at}
	w.admitted = append(w.admitted, r)
	w.pick().arrive(work, func(took time.Duration) { r.took = took })
}

// p99 is that of the requests that came in a time, in seconds, and how many there were per second.
func p99(requests []*request, from, to time.Duration) (seconds, perSecond float64) {
	var took []time.Duration
	for _, r := range requests {
		if r.at >= from && r.at < to {
			took = append(took, r.took)
		}
	}
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return took[len(took)*99/100].Seconds(), float64(len(took)) / (to - from).Seconds()
}

// pick is LEAST_REQUEST: of two that are drawn the one with less to do; with unequal weights by weight and
// what there is to do.
func (w *world) pick() *server {
	a, b := w.random.IntN(servers), w.random.IntN(servers)
	if w.share[0] == w.share[1] {
		if w.servers[b].inFlight() < w.servers[a].inFlight() {
			a = b
		}
		return w.servers[a]
	}
	var sum float64
	part := make([]float64, servers)
	for i, s := range w.servers {
		part[i] = w.share[i] / math.Pow(float64(s.inFlight()+1), 1.5)
		sum += part[i]
	}
	at := w.random.Float64() * sum
	for i := range part {
		if at -= part[i]; at <= 0 {
			return w.servers[i]
		}
	}
	return w.servers[0]
}

// tick is one of the control plane.
func (w *world) tick() {
	var readings []signals.Reading
	traffic := 0.0
	for _, s := range w.servers {
		if r := s.reading; !r.To.IsZero() {
			readings = append(readings, r)
			traffic += (r.Done + r.Failed) / r.To.Sub(r.From).Seconds()
		}
	}
	d := w.machine.Step(epoch.Add(w.now), w.service, readings)
	backend := adapt.Service{Name: service, Ready: servers, Traffic: traffic, Why: d.Strain, Backlog: d.Backlog}
	weight := 0.0
	for i, e := range d.Endpoints {
		w.share[i] = float64(e.Weight)
		backend.Ability += float64(e.Weight) * e.QPSDecayFactor
		weight += float64(e.Weight)
	}
	backend.Ability /= weight
	w.last = w.factor.Step(epoch.Add(w.now), w.adapts, adapt.Evidence{Services: []adapt.Service{backend}})
	if w.told != nil {
		w.told()
	}
}

func (w *world) lose(hidden bool, part float64) {
	for _, s := range w.servers {
		if hidden {
			s.hidden = 1 / part
		} else {
			s.speed = part
		}
	}
}
