package main

import (
	"math"
	"math/rand/v2"
	"testing"

	"evenkeel.io/controlplane/internal/demo"
)

// plant is servers of uneven speed under a load that follows the weights, seen as a PID sees them: through
// samples of two seconds, in which few requests of very uneven size leave a lot to chance.
type plant struct {
	speeds []float64
	random *rand.Rand
}

func (p plant) utilisations(weights []uint32) []float64 {
	const load = 0.7
	capacity, sum := 0.0, 0.0
	for i, s := range p.speeds {
		capacity += s
		sum += float64(weights[i])
	}
	u := make([]float64, len(weights))
	for i := range u {
		u[i] = min(1, load*capacity*float64(weights[i])/sum/p.speeds[i])
	}
	return u
}

func (p plant) samples(weights []uint32) []pidSample {
	samples := make([]pidSample, len(weights))
	for i, u := range p.utilisations(weights) {
		requests := u * p.speeds[i] / 0.06 * 2 * pidPeriod.Seconds()
		// Of a sum of Poisson many requests, each of a squared coefficient of variation of 4.
		noise := math.Sqrt((1 + 4) / requests)
		samples[i] = pidSample{cpu: min(1, max(0, u*(1+noise*p.random.NormFloat64()))), inFlight: 2 * u, ok: true}
	}
	return samples
}

func TestPIDConvergesOnUnevenServers(t *testing.T) {
	p := plant{random: rand.New(rand.NewPCG(1, 2))}
	for i := range 12 {
		p.speeds = append(p.speeds, 1+3*float64(i)/11)
	}
	control := newPID(12)
	total := make([]float64, 12)
	for tick := range 60 {
		control.tick(p.samples(control.weights()))
		if tick >= 30 {
			for i, u := range p.utilisations(control.weights()) {
				total[i] += u
			}
		}
	}
	if got := demo.MaxOverMean(total); got > 1.15 {
		t.Errorf("max/avg utilisation %.3f over the second minute, want at most 1.15", got)
	}
}
