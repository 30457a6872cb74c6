package main

import (
	"math"
	"time"
)

// histogram counts durations in buckets that grow by a constant factor, from 0.1 ms on.
type histogram struct {
	logGrowth float64
	counts    []uint64
}

const shortest = 100 * time.Microsecond

// newHistogram has buckets up to longest, each wider than the one before by growth.
func newHistogram(growth float64, longest time.Duration) histogram {
	h := histogram{logGrowth: math.Log(growth)}
	h.counts = make([]uint64, h.bucket(longest)+1)
	return h
}

func (h *histogram) bucket(d time.Duration) int {
	if d <= shortest {
		return 0
	}
	return 1 + int(math.Log(float64(d)/float64(shortest))/h.logGrowth)
}

func (h *histogram) add(d time.Duration) { h.counts[min(h.bucket(d), len(h.counts)-1)]++ }

func (h *histogram) merge(other histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
}

// quantile is the q-th quantile of what was added since an earlier state of the same histogram (nil:
// of everything), interpolated within its bucket; 0 of nothing.
func (h *histogram) quantile(q float64, since []uint64) time.Duration {
	count := func(i int) float64 {
		if since == nil {
			return float64(h.counts[i])
		}
		return float64(h.counts[i] - since[i])
	}
	total := 0.0
	for i := range h.counts {
		total += count(i)
	}
	rank := q * total
	for i := range h.counts {
		n := count(i)
		if n > 0 && rank <= n {
			return time.Duration(float64(shortest) * math.Exp((float64(i-1)+rank/n)*h.logGrowth))
		}
		rank -= n
	}
	return 0
}
