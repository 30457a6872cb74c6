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

// lowerMedian reorders values and returns the middle one, the lower of two. At least one is needed.
func lowerMedian(values []float64) float64 {
	middle := (len(values) - 1) / 2
	partition(values, middle)
	return values[middle]
}

// median reorders values and returns the middle one, or the mean of the middle two.
func median(values []float64) float64 {
	lower := lowerMedian(values)
	if len(values)%2 == 1 {
		return lower
	}
	return (lower + slices.Min(values[len(values)/2:])) / 2
}

// partition reorders values so that values[k] is what it would be if they were sorted, none before it is
// greater and none after it less (Hoare's FIND, with the median of three as the pivot). A weight is
// wanted in microseconds, and sorting for each median was a quarter of that.
func partition(values []float64, k int) {
	for low, high := 0, len(values)-1; low < high; {
		a, b, c := values[low], values[(low+high)/2], values[high]
		pivot := max(min(a, b), min(max(a, b), c))
		i, j := low, high
		for i <= j {
			for values[i] < pivot {
				i++
			}
			for values[j] > pivot {
				j--
			}
			if i <= j {
				values[i], values[j] = values[j], values[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			high = j
		case k >= i:
			low = i
		default:
			return
		}
	}
}
