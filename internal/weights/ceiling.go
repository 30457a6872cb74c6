package weights

import (
	"fmt"
	"math"

	"evenkeel.io/controlplane/internal/signals"
)

const (
	// descent is the part of the way that a ceiling goes in one reading.
	descent = 0.7
	// relief is ln of how much longer than usual responses may be once the cause is gone, and patience the
	// part of a reading in the average that is held against it: 20 s of readings every 2 s. The median
	// of a hundred response times says little of one window.
	relief, patience = 0.25, 0.1
	// lift, probe and slowProbe are how fast a ceiling rises, in ln per second: when the cause is gone,
	// when it may be, and at least.
	lift, probe, slowProbe = 0.08, 0.006, 0.002
	// maxBackoff is how often the pace of probing is halved, at most, and quietTicks without pressure
	// double it again.
	maxBackoff, quietTicks = 2, 24
	// overEstimate is how far above the estimate a ceiling is forgotten.
	overEstimate = 0.1
	// mostByPressure bounds what pressure takes of an estimate, and mostByLatency what response times take that
	// come without CPU.
	mostByPressure, mostByLatency = 25, 4
)

// Ceiling is the capacity that CPU promises and response times deny: a limit that was found by running
// into it, and is remembered, so that it is not run into again every minute.
type Ceiling struct {
	// Ln is ln of the requests/s, if Held.
	Ln   float64 `json:"ln,omitempty"`
	Held bool    `json:"held,omitempty"`
	// Probing: it has been rising since pressure was last seen. Backoff is how often the pace is halved,
	// Quiet the ticks since it last changed.
	Probing bool  `json:"probing,omitempty"`
	Backoff uint8 `json:"backoff,omitempty"`
	Quiet   uint8 `json:"quiet,omitempty"`
	// Excess is ln of how much longer than usual responses are, on average since it is Held.
	Excess float64 `json:"excess,omitempty"`
}

// holdCeiling keeps the ceiling of every endpoint:
//
//	y = r L(u)   rho = y/(1+y)   U = cpu^(1-sigma) max(cpu, rho)^sigma     u = median cpu
//	sigma > 0.5:    ceil += 0.7 (ln(done/s / U) - ceil), the first at once
//	excess < 0.25:  ceil += 0.08 T, the cause is gone
//	else:           ceil += max(0.006 T 2^-backoff, 0.002 T), probing
//	excess += 0.1 (ln(P50 e^-b / median of that) - excess)
//
// A server of utilisation u holds L(u) = u/(1-u) requests, one that holds r times as many is used to rho. backoff grows when pressure returns
// while probing, falls when the cause is gone or nothing was felt for 24 ticks. A ceiling that is above
// the estimate by 0.1 is forgotten.
//
// Pressure takes at most 24 parts of 25: how slow an endpoint is does not drive it to the floor, where
// nothing is learned of it. An endpoint without CPU has no done/U that a smaller share would not lower
// further; its ceiling is its prior divided by r, and by no more than 4. What is stale has its estimate
// brought down to the ceiling, to fade from there.
func holdCeiling(t *tick) {
	for i := range t.m.members {
		e := &t.m.members[i]
		c := &e.Ceiling
		t.watch(e)
		switch {
		case e.reading != nil && e.Sigma > pressed && t.mid.cpu > 0:
			c.lower(t.limit(e))
		case !c.Held:
			continue
		case t.frozen == "" && e.Measured && t.fading(e):
			e.X = min(e.X, c.Ln)
			*c = Ceiling{}
			continue
		case !e.Read.fresh(t.now):
			continue
		default:
			c.raise(e.Latency.fresh(t.now) && c.Excess < relief)
		}
		if c.Ln > e.X+overEstimate {
			*c = Ceiling{}
		}
	}
}

// watch takes the response times of a new reading into the excess; what is said before there is a
// ceiling is forgotten with the first that counts.
func (t *tick) watch(e *member) {
	c := &e.Ceiling
	if e.reading == nil || !e.reading.Terms.Has(signals.TermLatency) || e.P50 <= 0 || t.mid.cpu == 0 {
		return
	}
	excess := math.Log(e.P50.Seconds()) - t.mid.lnSpeed - e.Speed.at(e.X)
	if !c.Held {
		c.Excess = excess
		return
	}
	c.Excess += patience * (excess - c.Excess)
}

// limit is ln of what the endpoint's pressure says that it can do.
func (t *tick) limit(e *member) float64 {
	if e.Busy == 0 {
		return e.X - math.Log(min(e.Ratio, mostByLatency))
	}
	y := e.Ratio * holds(t.mid.cpu)
	rho := min(fullCPU, y/(1+y))
	r := e.reading
	found := math.Log(r.Done/r.To.Sub(r.From).Seconds()) -
		(1-e.Sigma)*math.Log(e.Busy) - e.Sigma*math.Log(max(e.Busy, rho))
	return max(found, e.X-math.Log(mostByPressure))
}

func (c *Ceiling) lower(to float64) {
	if !c.Held {
		*c = Ceiling{Ln: to, Held: true, Excess: c.Excess}
		return
	}
	if c.Probing {
		c.Backoff = min(maxBackoff, c.Backoff+1)
	}
	c.Ln += descent * (to - c.Ln)
	c.Probing, c.Quiet = false, 0
}

func (c *Ceiling) raise(gone bool) {
	c.Probing = true
	seconds := Tick.Seconds()
	c.Quiet++
	if c.Backoff > 0 && (gone || c.Quiet >= quietTicks) {
		c.Backoff--
		c.Quiet = 0
	}
	c.Quiet = min(quietTicks, c.Quiet)
	if gone {
		c.Ln += lift * seconds
	} else {
		c.Ln += max(probe*math.Exp2(-float64(c.Backoff)), slowProbe) * seconds
	}
}

// applyCeiling is the factor min(1, ceiling/C).
func applyCeiling(t *tick) {
	if t.base != "" {
		return
	}
	for i := range t.m.members {
		e := &t.m.members[i]
		if e.Ceiling.Held && e.Ceiling.Ln < e.X {
			t.scale(i, Reason{Term: "ceiling", Value: math.Exp(e.Ceiling.Ln), Unit: "req/s", Factor: math.Exp(e.Ceiling.Ln - e.X), Text: e.Ceiling.text()})
		}
	}
}

func (c Ceiling) text() string {
	if c.Probing {
		return "where requests piled up; rising again"
	}
	return "requests pile up beyond it though CPU is left"
}

func (c Ceiling) check() error {
	if !(math.Abs(c.Ln) < 100) || !(math.Abs(c.Excess) < 100) || c.Backoff > maxBackoff || c.Quiet > quietTicks {
		return fmt.Errorf("want |ln|, |excess| < 100, backoff <= %d, quiet <= %d", maxBackoff, quietTicks)
	}
	return nil
}
