package demo

import (
	"math/rand/v2"
	"time"
)

// arrivals are the times of a Poisson process whose rate may vary. The gaps are drawn at a rate of 1 and
// stretched by the rate of the time they fall on (a process in operational time; D. R. Cox, V. Isham,
// Point Processes, 1980), so with equal seeds the n-th request is the same request under any shape.
type arrivals struct {
	rate   float64
	shape  func(time.Duration) float64 // nil: 1
	random *rand.Rand
	last   time.Duration
}

const (
	// shapeStep is how finely a shape is looked at.
	shapeStep = 10 * time.Millisecond
	// longestGap ends a load whose shape asks for nothing any more.
	longestGap = time.Hour
)

func newArrivals(rate float64, shape func(time.Duration) float64, seed uint64) *arrivals {
	return &arrivals{rate: rate, shape: shape, random: rand.New(rand.NewPCG(seed, 0x6c6f6164))}
}

// next returns the time of the next arrival, or false if there is none.
func (a *arrivals) next() (time.Duration, bool) {
	gap := a.random.ExpFloat64() / a.rate // seconds at a factor of 1
	if a.shape == nil {
		a.last += time.Duration(gap * float64(time.Second))
		return a.last, true
	}
	for at, end := a.last, a.last+longestGap; at < end; {
		step := shapeStep - at%shapeStep
		factor := max(0, a.shape(at))
		if within := factor * step.Seconds(); within < gap {
			gap -= within
			at += step
			continue
		}
		a.last = at + time.Duration(gap/factor*float64(time.Second))
		return a.last, true
	}
	return 0, false
}
