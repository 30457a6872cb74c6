package main

import (
	"math"
	"time"
)

const (
	slice    = 5 * time.Second
	longView = 60 * time.Second
	// Weights have converged when the part of the traffic that they send to the servers which the change
	// befell stays within converged of what it is at the end, which is the mean of the last finalView.
	converged = 0.15
	finalView = 20 * time.Second
)

// measures are what one run is judged by. Requests count if they arrived within the window.
type measures struct {
	world     *world
	changedAt time.Duration // when the scenario's last lasting change happens
	changed   []*server     // and whom it befalls

	arrivals uint64
	outcomes [outcomes]uint64
	latency  histogram // answers with 2xx, and clients that gave up, at the deadline
	pushes   int

	use     [][]usage   // by slice boundary, by server
	weights [][]float64 // by second of the window, by server
}

// usage is a server at one moment.
type usage struct {
	busy     time.Duration
	instance int
	serving  bool
}

func newMeasures(w *world) *measures {
	return &measures{world: w, latency: newLatencies()}
}

func newLatencies() histogram { return newHistogram(1.01, deadline) }

// schedule has to be called before the run.
func (m *measures) schedule() {
	w := m.world
	for at := w.warmup; at <= w.warmup+w.window; at += slice {
		w.at(at, m.look)
	}
	for at := w.warmup; at < w.warmup+w.window; at += time.Second {
		w.at(at, func() { m.weights = append(m.weights, w.relativeWeights()) })
	}
}

func (m *measures) look() {
	var now []usage
	for i, s := range m.world.servers {
		s.account()
		now = append(now, usage{s.busy, s.instance, m.world.member[i] && !s.down})
	}
	m.use = append(m.use, now)
}

func (m *measures) inWindow(at time.Duration) bool {
	return at >= m.world.warmup && at < m.world.warmup+m.world.window
}

func (m *measures) push() {
	if m.inWindow(m.world.now) {
		m.pushes++
	}
}

// arrived counts the request and lets its end be counted.
func (m *measures) arrived(r *request) {
	r.over = func(*request, outcome) {}
	if !m.inWindow(r.arrived) {
		return
	}
	m.arrivals++
	r.over = m.over
}

func (m *measures) over(r *request, how outcome) {
	m.outcomes[how]++
	switch how {
	case succeeded:
		m.latency.add(m.world.now - r.arrived)
	case timedOut:
		m.latency.add(deadline)
	}
}

// imbalance is the highest over the mean utilisation of the servers that served all the time, in
// each view of the given length.
func (m *measures) imbalance(view time.Duration) []float64 {
	step := int(view / slice)
	var out []float64
	for from := 0; from+step < len(m.use); from += step {
		var highest, sum time.Duration
		n := 0
		for i, before := range m.use[from] {
			after := m.use[from+step][i]
			if !before.serving || !after.serving || before.instance != after.instance {
				continue
			}
			used := after.busy - before.busy
			highest, sum, n = max(highest, used), sum+used, n+1
		}
		if sum > 0 {
			out = append(out, float64(highest)*float64(n)/float64(sum))
		}
	}
	return out
}

// convergence is the time from the last lasting change until the share of those it befell stays within
// 15 % of its final value, in seconds; NaN where nothing changes, +Inf where that is not so by the time
// that is taken for final.
func (m *measures) convergence() float64 {
	from := int((m.changedAt - m.world.warmup).Seconds())
	if from <= 0 || len(m.changed) == 0 || !m.world.policy.hasWeights() {
		return math.NaN()
	}
	share := make([]float64, len(m.weights))
	for at, weights := range m.weights {
		sum, changed := 0.0, 0.0
		for _, w := range weights {
			sum += w
		}
		for _, s := range m.changed {
			changed += weights[s.index]
		}
		share[at] = changed / sum
	}
	finalFrom := len(share) - int(finalView.Seconds())
	final := 0.0
	for _, s := range share[finalFrom:] {
		final += s / finalView.Seconds()
	}
	last := from
	for at := from; at < len(share); at++ {
		if math.Abs(share[at]/final-1) > converged {
			last = at + 1
		}
	}
	if last > finalFrom {
		return math.Inf(1)
	}
	return float64(last - from)
}

// oscillation is the standard deviation of ln weight over the second half of the window, as the mean
// over the servers that were members all the time.
func (m *measures) oscillation() float64 {
	half := m.weights[len(m.weights)/2:]
	sum, n := 0.0, 0
next:
	for i := range m.world.servers {
		mean, square := 0.0, 0.0
		for _, w := range half {
			if w[i] <= 0 {
				continue next
			}
			x := math.Log(w[i])
			mean += x / float64(len(half))
			square += x * x / float64(len(half))
		}
		sum += math.Sqrt(max(0, square-mean*mean))
		n++
	}
	return sum / float64(max(1, n))
}
