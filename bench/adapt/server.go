package main

import (
	"math"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// kind is how a server serves.
type kind struct {
	name string
	// workers serve one request each, first come, first served; or, if sharing, all requests that are there
	// share as many.
	workers int
	sharing bool
}

// queueLimit is how many requests may wait in a server; the next one fails at once.
const queueLimit = 256

// server is a simulated backend. It is as internal/demo has it, but in simulated time; one that shares its
// workers among all requests is not there.
type server struct {
	kind
	index  int
	speed  float64 // of a worker: CPU shows what is lost
	hidden float64 // times as long as CPU shows

	now     time.Duration
	waiting []*job
	running []*job

	// Since the start.
	done, failed float64
	cpu          time.Duration
	latencies    [buckets]float64

	seen    []counted
	reading signals.Reading
}

type job struct {
	arrived time.Duration
	left    time.Duration // of its work at speed 1
	hidden  float64       // and speed: as they were when its service began, unless workers are shared
	speed   float64
	over    func(took time.Duration)
}

// The buckets of the demo's backends: from 1 ms, each half as long again as the one before.
const buckets = 26

func bucketOf(d time.Duration) int {
	i := 0
	for i < buckets-1 && d > bucketEnd(i) {
		i++
	}
	return i
}

func bucketEnd(i int) time.Duration { return time.Duration(1e6 * math.Pow(1.5, float64(i))) }

// pace is how much of its work a running job gets done per time.
func (s *server) pace(j *job) float64 {
	if !s.sharing {
		return j.speed / j.hidden
	}
	return s.speed / s.hidden * min(1, float64(s.workers)/float64(len(s.running)))
}

// next is when the first running job ends, if nothing changes before.
func (s *server) next() (at time.Duration, first int) {
	at, first = math.MaxInt64, -1
	for i, j := range s.running {
		if end := s.now + time.Duration(math.Ceil(float64(j.left)/s.pace(j))); end < at {
			at, first = end, i
		}
	}
	return at, first
}

// advance ends what ends until then.
func (s *server) advance(to time.Duration) {
	for {
		at, i := s.next()
		if i < 0 || at > to {
			s.work(to)
			return
		}
		s.work(at)
		j := s.running[i]
		s.running = slices.Delete(s.running, i, i+1)
		s.done++
		s.latencies[bucketOf(at-j.arrived)]++
		j.over(at - j.arrived)
		if len(s.waiting) > 0 {
			first := s.waiting[0]
			s.waiting = s.waiting[1:]
			s.begin(first)
		}
	}
}

// work brings all that is running up to a moment at which nothing has ended before.
func (s *server) work(to time.Duration) {
	dt := to - s.now
	for _, j := range s.running {
		pace := s.pace(j)
		j.left = max(0, j.left-time.Duration(pace*float64(dt)))
		// CPU time is what a job of speed 1 would have got, without what is hidden.
		if s.sharing {
			s.cpu += time.Duration(pace / s.speed * float64(dt))
		} else {
			s.cpu += time.Duration(float64(dt) / j.hidden)
		}
	}
	s.now = to
}

// arrive takes a request at s.now, or fails it.
func (s *server) arrive(work time.Duration, over func(took time.Duration)) {
	j := &job{arrived: s.now, left: work, over: over}
	switch {
	case s.sharing && len(s.running) < queueLimit+s.workers, len(s.running) < s.workers:
		s.begin(j)
	case !s.sharing && len(s.waiting) < queueLimit:
		s.waiting = append(s.waiting, j)
	default:
		s.failed++
	}
}

func (s *server) begin(j *job) {
	j.speed, j.hidden = s.speed, s.hidden
	s.running = append(s.running, j)
}

func (s *server) inFlight() int { return len(s.running) + len(s.waiting) }

// What scrapes are: every 2 s, over the last 6.
const (
	scrapeEvery  = 2 * time.Second
	scrapeWindow = 6 * time.Second
)

type counted struct {
	at           time.Duration
	done, failed float64
	cpu          time.Duration
	latencies    [buckets]float64
}

// scrape is what the control plane's own scraper would make of the server's page.
func (s *server) scrape() {
	now := counted{s.now, s.done, s.failed, s.cpu, s.latencies}
	s.seen = slices.DeleteFunc(s.seen, func(c counted) bool { return s.now-c.at > scrapeWindow })
	if len(s.seen) > 0 {
		first := s.seen[0]
		window := now.at - first.at
		s.reading = signals.Reading{
			Endpoint: key(s.index), From: epoch.Add(first.at), To: epoch.Add(now.at), SourceInterval: scrapeEvery,
			Terms: signals.TermRequests | signals.TermErrors | signals.TermCPU | signals.TermInFlight,
			Done:  now.done - first.done, Failed: now.failed - first.failed,
			CPU:      (now.cpu - first.cpu).Seconds() / window.Seconds() / float64(s.workers),
			InFlight: float64(s.inFlight()),
		}
		if s.reading.Done > 0 {
			s.reading.Terms |= signals.TermLatency
			s.reading.P50 = quantile(0.5, &now.latencies, &first.latencies)
			s.reading.P90 = quantile(0.9, &now.latencies, &first.latencies)
		}
	}
	s.seen = append(s.seen, now)
}

// quantile is interpolated within its bucket, as Prometheus does it.
func quantile(q float64, now, before *[buckets]float64) time.Duration {
	total := 0.0
	for i := range now {
		total += now[i] - before[i]
	}
	rank := q * total
	for i := range now {
		n := now[i] - before[i]
		if n > 0 && rank <= n {
			from := time.Duration(0)
			if i > 0 {
				from = bucketEnd(i - 1)
			}
			return from + time.Duration(rank/n*float64(bucketEnd(i)-from))
		}
		rank -= n
	}
	return 0
}
