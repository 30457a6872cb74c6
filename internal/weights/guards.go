package weights

import (
	"fmt"
	"math"
)

const (
	// mostByErrors is the part of the total weight that errors may take away.
	mostByErrors = 0.5
	// fullest is the utilisation up to which load may be planned.
	fullest = 0.9
	// thetaSteps is how finely slow start is given up.
	thetaSteps = 20
)

// guardErrors bounds what errors take from the Service as a whole: with
//
//	lost = sum w (1-e) / sum w        e' = 1 - (1-e) min(1, 0.5/lost)
//
// at least half of the weight stays where it is, so that nobody's share more than doubles because others
// fail. Beyond that it is not a few servers that are broken, and the rest would break under their load.
func (t *tick) guardErrors(trims []float64) (guarded bool) {
	lost, total := 0.0, 0.0
	for i, e := range trims {
		lost += t.w[i] * (1 - e)
		total += t.w[i]
	}
	if lost <= mostByErrors*total {
		return false
	}
	for i, e := range trims {
		trims[i] = 1 - (1-e)*mostByErrors*total/lost
	}
	return true
}

// spareSlowStart gives slow start up as far as the others cannot bear it: with share_i = w_i / sum w,
// lambda the requests/s of the Service and C_i the capacities, the smallest theta in [0, 1] with
//
//	max share_i lambda / C_i <= 0.9        ss -> ss^(1-theta)
//
// Endpoints are often added because there is too much to do. If none does, theta is 1 and the overload
// is reported.
func spareSlowStart(t *tick) {
	if t.base != "" || !t.m.knowsPrior(t.now) {
		return
	}
	lambda := 0.0
	for i := range t.m.members {
		lambda += t.m.members[i].RequestsPerSecond
	}
	planned, spared := t.m.scratch.planned[:0], t.m.scratch.spared[:0]
	starting := false
	for i, w := range t.w {
		step := 1.0 // what a step of theta multiplies the weight by
		if t.ss[i] < 1 {
			starting, step = true, math.Pow(t.ss[i], -1.0/thetaSteps)
		}
		planned, spared = append(planned, w), append(spared, step)
	}
	t.m.scratch.planned, t.m.scratch.spared = planned, spared
	utilisation := func() (worst float64, at int) {
		total := 0.0
		for _, w := range planned {
			total += w
		}
		for i, w := range planned {
			if u := w / total * lambda / t.c[i]; u > worst {
				worst, at = u, i
			}
		}
		return worst, at
	}
	theta := 0.0
	worst, at := utilisation()
	for step := 1; worst > fullest && starting && step <= thetaSteps; step++ {
		theta = float64(step) / thetaSteps
		for i := range planned {
			planned[i] *= spared[i]
		}
		worst, at = utilisation()
	}
	if worst > fullest {
		t.overload = fmt.Sprintf("%s would be used to %.0f%%", t.m.members[at].Address, 100*worst)
	}
	if theta == 0 {
		return
	}
	for i, ss := range t.ss {
		if ss < 1 {
			t.ss[i] = math.Pow(ss, 1-theta)
			t.scale(i, Reason{Term: "overload", Value: 100 * theta, Unit: "%", Factor: t.ss[i] / ss, Text: "of slow start given up: the others cannot bear it"})
		}
	}
}
