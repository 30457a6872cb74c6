package weights

import (
	"math"
	"time"
)

const (
	// Weights within even of their mean (|ln w - mean ln w|) for evenFor are published as equal; one
	// that is further than uneven in two windows that do not overlap, or than lopsided in one, ends it.
	even, uneven, lopsided = 0.15, 0.30, 0.45
	evenFor                = 10 * time.Second
)

// snap publishes weights that hardly differ as equal ones, 1000 each:
//
//	begins when all |ln w - mean ln w| < 0.15 for 10 s
//	ends when one is > 0.30 twice, or > 0.45
//
// Envoy's LEAST_REQUEST compares the requests in flight of two random endpoints while all weights are
// equal, and picks from a schedule by weight otherwise (envoy/source/extensions/load_balancing_policies/
// least_request). The former evens out queues better than weights that say next to nothing.
//
// Weights that the user sets apart, by annotation or in place of measurements, are never evened out,
// and nobody in slow start is made to leap to the whole.
func snap(t *tick) {
	m := t.m
	if t.hold || t.frozen != "" {
		return
	}
	worst, at := t.spread()
	switch {
	case !t.maySnap():
		m.snap = Snap{}
	case !m.snap.On && worst >= even:
		m.snap = Snap{}
	case !m.snap.On && m.snap.EvenSince.IsZero():
		m.snap.EvenSince = t.now
	case !m.snap.On:
		m.snap.On = t.now.Sub(m.snap.EvenSince) >= evenFor
	case worst <= uneven:
		m.snap.Uneven = time.Time{}
	case worst > lopsided:
		m.snap = Snap{}
	case m.snap.Uneven.IsZero():
		m.snap.Uneven = t.now
	case m.members[at].reading != nil && !m.members[at].reading.From.Before(m.snap.Uneven):
		m.snap = Snap{}
	}
	if m.snap.On {
		for i := range m.members {
			t.explain(i, Reason{Term: "snap", Value: worst, Factor: 1, Text: "published as equal; this is the most that ln of one differs from the mean"})
		}
	}
}

// Snap is how even the weights of a Service were lately.
type Snap struct {
	// On: they are published as equal.
	On bool `json:"on,omitempty"`
	// EvenSince is since when they have been even, Uneven when they first ceased to be after that.
	EvenSince time.Time `json:"evenSince,omitzero"`
	Uneven    time.Time `json:"uneven,omitzero"`
}

// maySnap reports whether the weights are measured ones that nothing sets apart on purpose.
func (t *tick) maySnap() bool {
	if t.law != strategies[Capacity] || t.base != "" || t.cfg.Mode != Enforce || len(t.m.members) < 2 {
		return false
	}
	for i := range t.m.members {
		if t.young[i] || t.m.members[i].Multiplier != t.m.members[0].Multiplier {
			return false
		}
	}
	return true
}

// spread is the largest |ln w - mean ln w|, and whose it is.
func (t *tick) spread() (worst float64, at int) {
	logs, sum := t.m.scratch.sorted[:0], 0.0
	for i := range t.m.members {
		ln := math.Log(t.m.members[i].Damped)
		logs, sum = append(logs, ln), sum+ln
	}
	for i, ln := range logs {
		if d := math.Abs(ln - sum/float64(len(logs))); d > worst {
			worst, at = d, i
		}
	}
	return worst, at
}
