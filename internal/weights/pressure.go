package weights

import (
	"fmt"
	"math"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// needsPressure are the terms of cpu * P50.
const needsPressure = needsCapacity | signals.TermLatency

const (
	// mild and strong are the ratios r at which pressure begins to count, and counts as all there is.
	mild, strong = 1.25, 2
	// plain is the ratio that needs no confirmation by a second window.
	plain = 4
	// pressed is the sigma above which an endpoint has more to do than its CPU shows.
	pressed = 0.5
	// alike is the difference in CPU up to which response times tell of the endpoint and not of its load.
	alike = 0.05
)

// lnStrong is ln of how much stronger strong is than mild.
var lnStrong = math.Log(strong / mild)

// Pressure is what response times say of one endpoint beside its CPU.
type Pressure struct {
	// Busy is the CPU of the last reading, 0 if that said nothing.
	Busy float64 `json:"busy,omitempty"`
	// Ratio is r of the last reading that was informative, and Sigma what follows from it, 0 to 1.
	Ratio float64 `json:"ratio,omitempty"`
	Sigma float64 `json:"sigma,omitempty"`
	// Seen are the unconfirmed ratios of the last readings, the latest first, and SeenTo the ends of
	// their windows, in ms since 1970.
	Seen   [4]float32 `json:"seen,omitzero"`
	SeenTo [4]int64   `json:"seenTo,omitzero"`
	Speed  Speed      `json:"speed,omitzero"`
}

// middle is what the members that have something to say have in common.
type middle struct {
	cpu     float64
	lnP50   float64 // P50 in seconds
	lnSpeed float64 // ln P50 - b, of those whose b is known; lnP50 if it is nobody's
	lnWork  float64 // ln kappa
}

// measurePressure finds endpoints that have more to do than their CPU shows: it waits for a lock, a
// disk or a neighbour's share of the core, and requests in the server pile up.
//
//	kappa = cpu * P50 * e^-b        r = kappa / median kappa / max(1, L(cpu)/L(u)), confirmed
//	sigma = clamp(ln(r/1.25) / ln(2/1.25), 0, 1)
//
// By Little's law cpu * P50, up to a constant, is how many requests are in service: of two servers that
// serve the same work with the same CPU one holds more of them only if it is hindered. b is what the
// endpoint is known to be slower by when nothing hinders it (Speed). A slow endpoint that is idle has
// little CPU, and with it a small kappa: response times alone accuse nobody. What CPU above u, the
// median, explains by itself is taken off: L(u) = u/(1-u) is how many requests a server of utilisation
// u holds (M/M/1, or M/G/1 with processor sharing). A burst that CPU shows is the capacity's to judge.
//
// A ratio below 4 must be confirmed: r = min(r, sqrt(r * r of the last window that does not overlap)).
// All of it is relative to the median endpoint: what slows down all is no pressure on one.
//
// An endpoint without CPU has r = P50 e^-b / median of that. One without response times has no pressure.
func measurePressure(t *tick) {
	for i := range t.m.members {
		if e := &t.m.members[i]; e.reading != nil {
			if e.Busy = 0; e.reading.Terms.Has(needsCapacity) {
				_, e.Busy, _ = informative(e.reading)
			}
		}
	}
	mid, ok := t.middle()
	for i := range t.m.members {
		e := &t.m.members[i]
		if e.reading == nil {
			continue
		}
		e.Sigma = 0
		if ok && e.comparable() {
			e.press(t.now, mid)
		}
	}
	t.mid = mid
}

// comparable reports whether the reading can be held against others.
func (e *member) comparable() bool {
	r := e.reading
	if !r.Terms.Has(signals.TermLatency|signals.TermRequests) || r.P50 <= 0 || r.Done < 1 || r.Done+r.Failed < minRequests {
		return false
	}
	return e.Busy > 0 || !r.Terms.Has(signals.TermCPU)
}

// middle is the median of the endpoints whose last reading is fresh and informative.
func (t *tick) middle() (middle, bool) {
	members := t.m.members
	telling, lnP50 := t.m.scratch.telling[:0], t.m.scratch.lnP50[:0]
	for i := range members {
		if e := &members[i]; e.Busy > 0 && e.P50 > 0 && e.Load.fresh(t.now) && e.Latency.To.Equal(e.Load.To) {
			telling, lnP50 = append(telling, i), append(lnP50, math.Log(e.P50.Seconds()))
		}
	}
	t.m.scratch.telling, t.m.scratch.lnP50 = telling, lnP50
	if len(telling) == 0 {
		return middle{}, false
	}
	values := t.m.scratch.sorted[:0]
	for _, i := range telling {
		values = append(values, members[i].Busy)
	}
	mid := middle{cpu: lowerMedian(values)}
	mid.lnP50 = lowerMedian(append(values[:0], lnP50...))
	values = values[:0]
	for at, i := range telling {
		if e := &members[i]; e.Speed.known() {
			values = append(values, lnP50[at]-e.Speed.at(e.X))
		}
	}
	mid.lnSpeed = mid.lnP50
	if len(values) > 0 {
		mid.lnSpeed = lowerMedian(values)
	}
	for i := range members {
		if e := &members[i]; e.reading != nil && !e.Speed.known() && e.comparable() {
			e.Speed.Value = clampSpeed(math.Log(e.P50.Seconds()) - mid.lnSpeed)
		}
	}
	values = values[:0]
	for at, i := range telling {
		e := &members[i]
		values = append(values, math.Log(e.Busy)+lnP50[at]-e.Speed.at(e.X))
	}
	mid.lnWork = lowerMedian(values)
	return mid, true
}

// press judges the reading, and learns from it.
func (e *member) press(now time.Time, mid middle) {
	r := e.reading
	lnP50 := math.Log(r.P50.Seconds())
	var raw float64
	if e.Busy > 0 {
		raw = math.Exp(math.Log(e.Busy)+lnP50-e.Speed.at(e.X)-mid.lnWork) / max(1, holds(e.Busy)/holds(mid.cpu))
	} else {
		raw = math.Exp(lnP50 - mid.lnSpeed - e.Speed.at(e.X))
	}
	e.Ratio = raw
	if raw < plain {
		before := min(raw, 1/raw)
		apart := func(to int64) bool { return to <= r.From.UnixMilli() }
		if at := slices.IndexFunc(e.SeenTo[:], apart); at >= 0 && e.SeenTo[at] != 0 {
			before = float64(e.Seen[at])
		}
		e.Ratio = min(raw, math.Sqrt(raw*before))
	}
	copy(e.Seen[1:], e.Seen[:])
	copy(e.SeenTo[1:], e.SeenTo[:])
	e.Seen[0], e.SeenTo[0] = float32(raw), r.To.UnixMilli()
	e.Sigma = 0
	if e.Ratio > mild {
		e.Sigma = min(1, math.Log(e.Ratio/mild)/lnStrong)
	}
	if !e.Speed.known() {
		e.Sigma = min(e.Sigma, pressed)
	}
	if !e.Ceiling.Held && e.Sigma <= pressed && math.Abs(e.Busy-mid.cpu) <= alike && r.Failed < (r.Done+r.Failed)/10 {
		usual := mid.lnP50
		if !e.Speed.known() {
			usual = mid.lnSpeed
		}
		e.Speed.learn(now, lnP50-usual, e.X)
	}
}

// holds is L: how many requests a server of this utilisation holds on average.
func holds(utilisation float64) float64 {
	u := min(fullCPU, utilisation)
	return u / (1 - u)
}

// applyPressure only tells: what follows from it is the ceiling's.
func applyPressure(t *tick) {
	for i := range t.m.members {
		if e := &t.m.members[i]; e.Sigma > 0 && t.base == "" {
			t.explain(i, Reason{Term: "pressure", Value: e.Ratio, Factor: 1, Text: "times the median's requests in service, for its kind"})
		}
	}
}

func (p *Pressure) check() error {
	if !(p.Busy >= 0 && p.Busy <= fullCPU && p.Ratio >= 0 && finite(p.Ratio) && p.Sigma >= 0 && p.Sigma <= 1) {
		return fmt.Errorf("busy, ratio, sigma: %v, %v, %v: want 0 to %v, no less than 0, 0 to 1", p.Busy, p.Ratio, p.Sigma, fullCPU)
	}
	for _, r := range p.Seen {
		if !(r >= 0 && r <= math.MaxFloat32) {
			return fmt.Errorf("seen: %v: want a finite number, not negative", r)
		}
	}
	if err := p.Speed.check(); err != nil {
		return fmt.Errorf("speed: %w", err)
	}
	return nil
}
