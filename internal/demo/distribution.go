package demo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Shape is a family of service time distributions.
type Shape string

// The shapes of a Distribution, by the variation of what they draw.
const (
	// Deterministic draws the mean, always.
	Deterministic Shape = "deterministic"
	// Exponential has a coefficient of variation of 1.
	Exponential Shape = "exponential"
	// HyperExponential mixes two exponentials, many short and few long requests, so that the squared
	// coefficient of variation is 4; both carry half of the work ("balanced means", W. Whitt,
	// Approximating a Point Process by a Renewal Process, 1982).
	HyperExponential Shape = "hyper-exponential"
)

// hyperVariation is the squared coefficient of variation of HyperExponential.
const hyperVariation = 4.0

// Distribution is what the work of a request is drawn from.
type Distribution struct {
	Shape Shape
	// Mean is the mean service time on a worker of speed 1. More than 0.
	Mean time.Duration
}

func (d Distribution) validate() error {
	switch d.Shape {
	case Deterministic, Exponential, HyperExponential:
	default:
		return fmt.Errorf("shape %q: want %s, %s or %s", d.Shape, Deterministic, Exponential, HyperExponential)
	}
	if d.Mean <= 0 {
		return fmt.Errorf("mean %s: must be more than 0", d.Mean)
	}
	return nil
}

func (d Distribution) draw(random *rand.Rand) time.Duration {
	mean := float64(d.Mean)
	switch d.Shape {
	case Exponential:
		return time.Duration(mean * random.ExpFloat64())
	case HyperExponential:
		long := (1 - math.Sqrt((hyperVariation-1)/(hyperVariation+1))) / 2
		branch := 1 - long
		if random.Float64() < long {
			branch = long
		}
		return time.Duration(mean / (2 * branch) * random.ExpFloat64())
	default:
		return d.Mean
	}
}
