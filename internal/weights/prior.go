package weights

import (
	"math"
	"slices"
	"time"
)

// priorOffset is median(x - ln base) over the measured endpoints: what a base is worth in ln
// requests/s. It is remembered for an hour after the last measured endpoint left, so that a Service
// scaled to zero and back does not begin anew; before anything was measured it is 0.
func (m *Machine) priorOffset(now time.Time) float64 {
	if m.knowsPrior(now) {
		return m.prior
	}
	return 0
}

func (m *Machine) knowsPrior(now time.Time) bool {
	return !m.priorAt.IsZero() && now.Sub(m.priorAt) <= remembered
}

// renewPrior gives every endpoint that was never measured x0 = ln base + median(x - ln base).
func renewPrior(t *tick) {
	m := t.m
	offsets := m.scratch.sorted[:0]
	for i := range m.members {
		if e := &m.members[i]; e.Measured {
			offsets = append(offsets, e.X-math.Log(e.Base))
		}
	}
	if len(offsets) > 0 {
		m.prior, m.priorAt = lowerMedian(offsets), t.now
	}
	offset := m.priorOffset(t.now)
	for i := range m.members {
		if e := &m.members[i]; !e.Measured {
			e.X = math.Log(e.Base) + offset
		}
	}
}

// lowerMedian sorts values and returns the middle one, the lower of two. At least one is needed.
func lowerMedian(values []float64) float64 {
	slices.Sort(values)
	return values[(len(values)-1)/2]
}

// median sorts values and returns the middle one, or the mean of the middle two.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
