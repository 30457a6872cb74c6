package main

import (
	"math"
	"math/rand/v2"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// settings are the fleet and its load before anything happens to it.
type settings struct {
	servers          int
	workers          int           // of a server
	queue            int           // requests that may wait in a server
	slowest, fastest float64       // speeds go evenly from one to the other
	work             time.Duration // mean service time at speed 1
	variation        float64       // squared coefficient of variation of the work; 1 is exponential
	load             float64       // part of the capacity that is offered
	proxies          int
	pickers          int // worker threads of a proxy
	routeTimeout     bool
	warmup, window   time.Duration
}

// defaults are 24 servers that differ by up to four times, behind 16 proxies of one worker.
func defaults() settings {
	return settings{
		servers: 24, workers: 2, queue: 256, slowest: 1, fastest: 4,
		work: 60 * time.Millisecond, variation: 4, load: 0.7,
		proxies: 16, pickers: 1,
		warmup: time.Minute, window: 2 * time.Minute,
	}
}

func (s *settings) scale(by float64) {
	s.warmup = time.Duration(by * float64(s.warmup))
	s.window = time.Duration(by * float64(s.window))
}

// world is one run: a fleet under one policy.
type world struct {
	clock
	settings
	policy  policy
	servers []*server
	member  []bool // by server: it is an endpoint of the service
	proxies []*proxy
	control controlPlane
	// controlDown: nothing is scraped, decided or sent.
	controlDown bool
	scrapers    []*scraper
	rate        float64 // requests/s offered now
	weights     []float64
	measures    *measures

	chance *rand.Rand // of the scenario
	shape  *rand.Rand // of arrivals and work, the same under every policy
}

// Streams of random numbers that do not depend on each other: what arrives and what befalls servers is
// the same under every policy.
const (
	streamArrivals = iota
	streamScenario
	streamPickers
)

// run plays the scenario once, its warm-up and window scaled, and returns what was measured.
func run(sc scenario, p policy, seed uint64, scale float64) *measures {
	s := defaults()
	if sc.change != nil {
		sc.change(&s)
	}
	s.scale(scale)
	w := newWorld(s, p, seed)
	if w.measures.changedAt = w.share(sc.settles); sc.befalls != nil {
		w.measures.changed = sc.befalls(w)
	}
	if sc.happens != nil {
		sc.happens(w)
	}
	w.play()
	return w.measures
}

func newWorld(s settings, p policy, seed uint64) *world {
	w := &world{
		settings: s, policy: p,
		shape:  rand.New(rand.NewPCG(seed, streamArrivals)),
		chance: rand.New(rand.NewPCG(seed, streamScenario)),
	}
	for i := range s.servers {
		speed := s.slowest
		if s.servers > 1 {
			// Neighbours in the list differ, so that a quarter of it is as mixed as the whole.
			at := i * 7 % s.servers
			speed += (s.fastest - s.slowest) * float64(at) / float64(s.servers-1)
		}
		w.servers = append(w.servers, newServer(&w.clock, i, s.workers, s.queue, speed))
		w.scrapers = append(w.scrapers, &scraper{server: w.servers[i]})
		w.member = append(w.member, true)
	}
	w.rate = s.load * w.capacity()
	pickers := rand.New(rand.NewPCG(seed, streamPickers))
	for range s.proxies {
		px := &proxy{clock: &w.clock, orca: p.orca, routeTimeout: s.routeTimeout}
		for range s.pickers {
			px.workers = append(px.workers, p.picker(&w.clock, rand.New(rand.NewPCG(pickers.Uint64(), pickers.Uint64()))))
		}
		w.proxies = append(w.proxies, px)
	}
	w.control = p.control(s)
	w.measures = newMeasures(w)
	return w
}

func (w *world) capacity() float64 {
	sum := 0.0
	for _, s := range w.servers {
		sum += s.capacity(w.work.Seconds())
	}
	return sum
}

// share is the moment when this part of the measured window is over.
func (w *world) share(part float64) time.Duration {
	return w.warmup + time.Duration(part*float64(w.window))
}

func (w *world) play() {
	w.membersChanged()
	for i, s := range w.servers {
		w.every(phase(i), scrapeInterval, func() {
			if !w.controlDown {
				w.scrapers[i].scrape()
			}
		})
		w.every(phase(i)/2, orcaPeriod, s.reporter())
	}
	w.every(w.control.period(), w.control.period(), w.tick)
	for i, p := range w.proxies {
		w.every(phase(i)/2+detectorInterval, detectorInterval, p.review)
		if p.orca {
			w.every(phase(i)/2+orcaPeriod, orcaPeriod, p.reweigh)
		}
	}
	w.measures.schedule()
	w.after(0, w.arrive)
	w.run(w.warmup + w.window)
	w.rate = 0
	w.run(w.now + deadline)
}

// arrive sends a request and schedules the next: a Poisson process that waits for no answer.
func (w *world) arrive() {
	if w.rate == 0 {
		return
	}
	r := &request{arrived: w.now, work: w.draw(), luck: w.shape.Float64()}
	picker := w.shape.IntN(len(w.proxies) * w.pickers)
	w.measures.arrived(r)
	w.proxies[picker/w.pickers].send(r, picker%w.pickers)
	w.after(seconds(w.shape.ExpFloat64()/w.rate), w.arrive)
}

// draw is the work of a request: exponential, or a mix of two exponentials with balanced means
// (W. Whitt, Approximating a Point Process by a Renewal Process, 1982).
func (w *world) draw() float64 {
	mean, branch := w.work.Seconds(), w.shape.Float64()
	work := w.shape.ExpFloat64()
	if w.variation <= 1 {
		return mean * work
	}
	long := (1 - math.Sqrt((w.variation-1)/(w.variation+1))) / 2
	if branch < long {
		return mean / (2 * long) * work
	}
	return mean / (2 * (1 - long)) * work
}

func (w *world) members() []*server {
	var members []*server
	for i, s := range w.servers {
		if w.member[i] {
			members = append(members, s)
		}
	}
	return members
}

func (w *world) tick() {
	if w.controlDown {
		return
	}
	members := w.members()
	var readings []signals.Reading
	for _, s := range members {
		if r := w.scrapers[s.index].latest; !r.To.IsZero() {
			readings = append(readings, r)
		}
	}
	if weights, send := w.control.tick(w.now, members, readings); send {
		w.measures.push()
		w.send(members, weights)
	}
}

// membersChanged sends the members as they are now, which every policy does.
func (w *world) membersChanged() {
	members := w.members()
	w.send(members, w.control.joined(w.now, members))
}

// send brings weights to the proxies, to each after a delay of its own of up to 100 ms; the first time
// at once.
func (w *world) send(members []*server, weights []uint32) {
	endpoints := make([]endpoint, len(members))
	w.weights = make([]float64, len(w.servers))
	for i, s := range members {
		endpoints[i] = endpoint{s, s.instance, weights[i]}
		w.weights[s.index] = float64(weights[i])
	}
	for i, p := range w.proxies {
		if w.now == 0 {
			p.update(endpoints)
			continue
		}
		w.after(10*time.Millisecond+phase(i)/20, func() { p.update(endpoints) })
	}
}

// leave takes a server out of the service, join puts it back in.
func (w *world) leave(s *server) { w.member[s.index] = false; w.membersChanged() }
func (w *world) join(s *server)  { w.member[s.index] = true; w.membersChanged() }

// relativeWeights are the weights that proxies have, 1 being the mean; 0 for a server that is no
// member. Where every proxy has weights of its own it is their mean.
func (w *world) relativeWeights() []float64 {
	out := make([]float64, len(w.servers))
	if !w.policy.orca {
		copy(out, w.weights)
	} else {
		for _, p := range w.proxies {
			sum := 0.0
			for _, h := range p.hosts {
				sum += float64(h.weight)
			}
			for _, h := range p.hosts {
				out[h.server.index] += float64(h.weight) / sum
			}
		}
	}
	sum, n := 0.0, 0
	for _, v := range out {
		if v > 0 {
			sum += v
			n++
		}
	}
	for i := range out {
		out[i] *= float64(n) / sum
	}
	return out
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
