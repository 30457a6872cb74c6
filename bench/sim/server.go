package main

import (
	"math"
	"time"
)

// server serves requests first come, first served, by a fixed number of workers.
//
// What befalls it acts on the requests whose service begins afterwards, except for pauses and restarts.
// A request is worked on to its end though its client may be gone: a server rarely learns that in time.
type server struct {
	clock *clock
	index int

	workers int
	limit   int     // how many may wait; the next one gets 503
	speed   float64 // work (seconds) per second of a worker

	visible   float64 // part of the speed that is stolen and shows as CPU used
	hidden    float64 // part that is stolen while CPU does not show it
	errorRate float64 // part of the requests that fail at once
	blackHole bool    // new requests are swallowed
	down      bool
	pausedTo  time.Duration
	mute      bool    // scrapes fail
	saidCPU   float64 // CPU that it claims, 0: the truth

	instance  int // rises with each restart
	startedAt time.Duration
	warm      bool // its caches were warm from the start
	served    int  // since the restart

	queue   []*job
	running []*job

	accounted time.Duration
	busy      time.Duration // worker time in use since the simulation began
	said      counters
	orca      orcaReport
}

// counters are what a server exports. They begin at 0 with the process.
type counters struct {
	done, failed float64
	cpu          int64 // nanoseconds * cpuUnit
	inFlight     int
	latency      histogram
}

// job is a request within a server.
type job struct {
	request *request
	arrived time.Duration
	work    float64
	end     time.Duration
	cpu     int64 // CPU that is accounted while it is served, in parts of cpuUnit
}

// cpuUnit makes CPU time a whole number, so that it does not depend on how often it is looked at.
const cpuUnit = 1 << 10

func (c *counters) cpuSeconds() float64 { return float64(c.cpu) / cpuUnit / 1e9 }

// A restarted process works up to coldSlowdown times as long on a request, until its caches have
// filled: the excess falls by a factor of e with each coldRequests it has served.
const (
	coldSlowdown = 3
	coldRequests = 150
	// failsIn is how long a request takes that fails fast.
	failsIn = time.Millisecond
)

func newServer(c *clock, index, workers, limit int, speed float64) *server {
	s := &server{clock: c, index: index, workers: workers, limit: limit, speed: speed, warm: true}
	s.said.latency = newHistogram(serverGrowth, 100*time.Second)
	return s
}

// serverGrowth is that of Prometheus' native histograms of schema 3.
const serverGrowth = 1.0905

// capacity is what it can truly serve now, in requests/s that take mean seconds at speed 1.
func (s *server) capacity(mean float64) float64 {
	if s.down || s.blackHole {
		return 0
	}
	return float64(s.workers) * s.rate() / mean * (1 - s.errorRate)
}

// rate is the true speed of a worker now.
func (s *server) rate() float64 {
	return s.speed * (1 - s.visible) * (1 - s.hidden) / s.cold()
}

func (s *server) cold() float64 {
	if s.warm {
		return 1
	}
	return 1 + (coldSlowdown-1)*math.Exp(-float64(s.served)/coldRequests)
}

// accept takes a request from a proxy. It answers it exactly once, or never if it is a black hole.
func (s *server) accept(r *request) {
	if s.down {
		r.answer(false)
		return
	}
	s.account()
	s.said.inFlight++
	switch {
	case s.blackHole:
		r.abandoned = func() { s.said.inFlight-- }
	case r.luck < s.errorRate:
		s.clock.after(failsIn, func() { s.finish(r, false, s.instance) })
	case len(s.running) == s.workers && len(s.queue) >= s.limit:
		s.finish(r, false, s.instance)
	default:
		s.queue = append(s.queue, &job{request: r, arrived: s.clock.now, work: r.work})
		s.dispatch()
	}
}

func (s *server) finish(r *request, ok bool, instance int) {
	if instance == s.instance && !s.down {
		s.said.inFlight--
		if ok {
			s.said.done++
			s.served++
		} else {
			s.said.failed++
		}
	}
	r.answer(ok)
}

func (s *server) dispatch() {
	for len(s.running) < s.workers && len(s.queue) > 0 && s.clock.now >= s.pausedTo {
		s.account()
		j := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		j.cpu = int64(math.Round(cpuUnit * (1 - s.hidden)))
		j.end = s.clock.now + seconds(j.work/s.rate())
		s.running = append(s.running, j)
		s.clock.at(j.end, func() { s.end(j) })
	}
}

func (s *server) end(j *job) {
	at := -1
	for i, running := range s.running {
		if running == j {
			at = i
		}
	}
	if at < 0 {
		return // the process was killed
	}
	if s.clock.now < j.end { // it was paused meanwhile
		s.clock.at(j.end, func() { s.end(j) })
		return
	}
	s.account()
	s.running = append(s.running[:at], s.running[at+1:]...)
	s.said.latency.add(s.clock.now - j.arrived)
	s.finish(j.request, true, s.instance)
	s.dispatch()
}

// account brings busy and CPU up to now. It is called before anything changes that they depend on.
func (s *server) account() {
	dt := s.clock.now - s.accounted
	s.busy += time.Duration(len(s.running)) * dt
	dt -= max(0, min(s.clock.now, s.pausedTo)-s.accounted)
	for _, j := range s.running {
		s.said.cpu += j.cpu * int64(dt)
	}
	s.accounted = s.clock.now
}

// pause stops all work for d; nothing of it shows in CPU.
func (s *server) pause(d time.Duration) {
	if s.down || s.clock.now < s.pausedTo {
		return
	}
	s.account()
	s.pausedTo = s.clock.now + d
	for _, j := range s.running {
		j.end += d
	}
	s.clock.at(s.pausedTo, s.dispatch)
}

// stop ends the process; what it was working on fails.
func (s *server) stop() {
	s.account()
	s.down = true
	lost := append(s.running, s.queue...)
	s.running, s.queue = nil, nil
	for _, j := range lost {
		j.request.answer(false)
	}
}

// start begins a new process with cold caches.
func (s *server) start() {
	s.account()
	s.down, s.warm, s.served = false, false, 0
	s.instance++
	s.startedAt = s.clock.now
	s.said = counters{latency: newHistogram(serverGrowth, 100*time.Second)}
	s.orca = orcaReport{}
}
