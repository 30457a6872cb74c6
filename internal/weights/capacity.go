package weights

import (
	"cmp"
	"fmt"
	"math"

	"evenkeel.io/controlplane/internal/signals"
)

// capacityLaw makes the weight of an endpoint the work it can do: w = C * slow start * multiplier * e.
//
// C = requests/s completed without an error / CPU used, of one source and one window: what the endpoint
// would complete at full use. Unlike a latency or a utilisation it hardly depends on the traffic that
// the endpoint gets, so that weights made of it do not chase their own effect, whatever the delay.
// Robinhood (Dropbox, 2024) closes its loop with a PID on utilisation instead, gRFC A58
// (weighted_round_robin) uses the same quotient, unfiltered, within the client.
type capacityLaw struct{}

func (capacityLaw) needs() signals.Terms { return needsCapacity }

func (capacityLaw) absent() string { return "no-cpu: half of the endpoints or more report no CPU" }

func (capacityLaw) stages() []stage {
	return []stage{startFromBase, applyCapacity, applyPressure, applyCeiling, boundRatio, applySlowStart, applyMultiplier, tilt, applyErrors, spareSlowStart, applyStrain}
}

// The filter. Variances are of ln C.
const (
	// priorVariance: before it is measured an endpoint is its prior give or take 50 %.
	priorVariance = 0.25
	// maxVariance is where an endpoint that is not measured for long ends up.
	maxVariance = 1
	// drift is what the variance grows by per second: 0.9 % in a second, half in an hour.
	drift = 8e-5
	// modelNoise and cpuNoise are the standard deviations of ln C between equal windows, and of the
	// reading of CPU.
	modelNoise, cpuNoise = 0.03, 0.01
	// minRequests and minCPU are what a window must hold to say anything.
	minRequests, minCPU = 10, 0.01
	// fullCPU bounds CPU in quotients: above it the accounting is not exact.
	fullCPU = 0.98
	// A deviation of stepNow standard deviations is no noise; nor is one of stepTwice that a later
	// window, one that shares nothing with the first, repeats.
	stepNow, stepTwice = 3, 1.7
)

// estimateCapacity is a scalar Kalman filter on x = ln C with detection of steps:
//
//	m = ln(done/s / cpu)      R = 4/done + (0.01/cpu^)^2 + 0.03^2       cpu^ = done/s / e^x
//	P = min(1, P + 8e-5 T)    v = m - x    s = v / sqrt(P+R)
//	if |s| > 3, or |s| > 1.7 twice in the same direction in windows that do not overlap,
//	or the window holds the end of one of which that was said: P += v^2
//	K = P/(P+R)               x += K v     P *= 1-K
//
// The last condition makes the filter follow a step to its end: the window in which a step shows first
// is mostly of the time before it, and an estimate that stopped there would take minutes for the rest.
//
// The 4 in R is the squared coefficient of variation of service times, generously. R takes the CPU
// that the estimate predicts, not the one that was read: with that one in it a reading of more CPU could
// be believed so much more that the estimate rises. The prior of an endpoint is
// x0 = ln base + median(x - ln base) over those measured, P = 0.25 (renewPrior). While none is, the
// first measurements of the Service are taken as they are.
//
// done is believed up to 1.5 times what Envoys report if all of them do (exaggeration), but as much as
// makes the endpoint a median one of its kind: requests from elsewhere are in done and not in the
// reports, and an endpoint that got less for them would have ever less reported.
//
// Raising P on a large innovation is the usual cure of a filter that has become too sure of itself
// (Bar-Shalom, Li, Kirubarajan: Estimation with Applications to Tracking and Navigation, ch. 11).
func estimateCapacity(t *tick) {
	first := !t.m.knowsPrior(t.now)
	for i := range t.m.members {
		e := &t.m.members[i]
		if e.Measured {
			e.P = min(maxVariance, e.P+drift*Tick.Seconds())
		}
		var done, cpu float64
		if done, cpu, e.informed = informative(e.reading); !e.informed {
			t.liftIdle(e)
			continue
		}
		x := math.Log(done / cpu)
		e.bounded = false
		if exceeds := exaggeration(e.reading); exceeds > 1 {
			bound := max(x-math.Log(exceeds), math.Log(e.Base)+t.m.priorOffset(t.now))
			x, e.bounded = min(x, bound), bound < x
		}
		predicted := min(fullCPU, max(minCPU, done/math.Exp(e.X)))
		if first {
			predicted = cpu
		}
		ofCPU := cpuNoise / predicted
		r := 4/e.reading.Done + ofCPU*ofCPU + modelNoise*modelNoise
		if first {
			e.X, e.P = x, r
			e.measured()
			continue
		}
		e.update(x-e.X, r)
		e.measured()
	}
}

// liftIdle takes requests that cost less than 1 % CPU for what they are worth. They do not tell the
// capacity, but that it is at least done/s / 1 %; if that is above the estimate it is taken as measured,
// give or take half of it, though for no more than the prior. Without this an endpoint at the floor of
// an idle Service, whose few requests cost next to no CPU, could never show that it recovered; the
// bound is for those whose CPU metric is broken.
func (t *tick) liftIdle(e *member) {
	r := e.reading
	if !e.Measured || r == nil || !r.Terms.Has(needsCapacity) || r.Done < minRequests || r.CPU >= minCPU {
		return
	}
	atLeast := math.Log(r.Done / r.To.Sub(r.From).Seconds() / minCPU)
	if v := min(atLeast, math.Log(e.Base)+t.m.priorOffset(t.now)) - e.X; v > 0 {
		e.update(v, 4/r.Done+0.5*0.5)
		e.measured()
	}
}

// informative is what a reading says about capacity, if anything: requests/s without an error, and
// CPU, at most fullCPU.
func informative(r *signals.Reading) (donePerSecond, cpu float64, ok bool) {
	if r == nil || !r.Terms.Has(needsCapacity) ||
		r.Done+r.Failed < minRequests || r.Done < 1 || r.CPU < minCPU {
		return 0, 0, false
	}
	return r.Done / r.To.Sub(r.From).Seconds(), min(r.CPU, fullCPU), true
}

// believed is how many times as many requests as Envoys report an endpoint may complete: the two are not
// counted at the same moment.
const believed = 1.5

// exaggeration is how many times more an endpoint says that it completed than is believed, 1 for not.
func exaggeration(r *signals.Reading) float64 {
	n, ok := reportedIn(r)
	if !ok || !n.All {
		return 1
	}
	return max(1, n.Claim/believed)
}

// update takes the innovation v with the variance r into the estimate.
func (e *member) update(v, r float64) {
	s := v / math.Sqrt(e.P+r)
	sign := int8(cmp.Compare(v, 0))
	switch {
	case math.Abs(s) > stepNow,
		math.Abs(s) > stepTwice && sign == e.Suspect && !e.reading.From.Before(e.SuspectTo):
		e.P += v * v
		e.Suspect, e.StepTo = 0, e.reading.To
	case e.reading.From.Before(e.StepTo):
		e.P += v * v
	case math.Abs(s) <= stepTwice:
		e.Suspect = 0
	case sign != e.Suspect:
		e.Suspect, e.SuspectTo = sign, e.reading.To
	}
	k := e.P / (e.P + r)
	e.X += k * v
	e.P *= 1 - k
}

// measured says that readings are in the estimate, this tick's too.
func (e *member) measured() { e.Measured, e.LastX = true, e.X }

// shown is the capacity in requests/s as it was last measured, 0 if it never was. Unlike the estimate
// it does not fade: what an endpoint's health_score says does not get better by silence.
func (e *member) shown() float64 {
	if !e.Measured {
		return 0
	}
	return math.Exp(e.LastX)
}

// startFromBase begins every weight with the base.
func startFromBase(t *tick) {
	for i := range t.m.members {
		t.w[i] = 1
		base := t.m.members[i].Base
		t.scale(i, Reason{Term: "base", Value: base, Factor: base, Text: "what it is taken to be worth before it is measured"})
		if why := t.m.members[i].refused; why != "" {
			t.explain(i, Reason{Term: "refused", Factor: 1, Text: why})
		}
	}
}

// applyCapacity puts the estimate in place of the base, unless there is no CPU for half of the
// endpoints or more: then estimates and bases would be weighed against each other, and bases are
// used alone.
func applyCapacity(t *tick) {
	for i := range t.m.members {
		e := &t.m.members[i]
		if t.base != "" {
			t.scale(i, Reason{Term: "capacity", Factor: 1, Text: t.base})
			continue
		}
		c := math.Exp(e.X)
		t.scale(i, Reason{Term: "capacity", Value: c, Unit: "req/s", Factor: c / t.w[i], Text: t.whereFrom(e)})
	}
}

func (t *tick) whereFrom(e *member) string {
	switch {
	case e.Measured && e.informed && e.bounded:
		return fmt.Sprintf("requests completed per second over CPU used, bounded by load reports: it counts %.3g times as many as they do", e.reading.Reported.Claim)
	case e.Measured && e.informed:
		return "requests completed per second over CPU used"
	case e.Measured && e.Load.fresh(t.now):
		return "measured; this tick brought no further information"
	case e.Measured && t.fading(e):
		return "stale, fading to the median of the measured endpoints"
	case e.Measured:
		return "held since its readings stopped"
	case t.lacking(e):
		return "no-cpu: it reports no CPU; the median of the measured endpoints"
	case t.m.knowsPrior(t.now):
		return "not measured yet: the median of the measured endpoints"
	}
	return "no endpoint is measured yet: its base"
}

// boundRatio lets an endpoint's own word raise its capacity to maxRatio times the median of its class
// (the endpoints of its base), and no further: C = min(C, maxRatio * median C). A server that fails
// fast, or reports next to no CPU, would get the traffic of all.
func boundRatio(t *tick) {
	if t.base != "" {
		return
	}
	members := t.m.members
	byClass := sortAgain(t.m.scratch.bases, len(members), func(a, b int) int {
		return cmp.Or(cmp.Compare(members[a].Base, members[b].Base), cmp.Compare(a, b))
	})
	t.m.scratch.bases = byClass
	for len(byClass) > 0 {
		base, n := members[byClass[0]].Base, 0
		capacities := t.m.scratch.sorted[:0]
		for n < len(byClass) && members[byClass[n]].Base == base {
			capacities = append(capacities, t.w[byClass[n]])
			n++
		}
		bound := t.cfg.MaxRatio * lowerMedian(capacities)
		for _, i := range byClass[:n] {
			if t.w[i] > bound {
				t.scale(i, Reason{Term: "max-ratio", Value: t.cfg.MaxRatio, Factor: bound / t.w[i], Text: "times the median of the endpoints of its base, at most"})
			}
		}
		byClass = byClass[n:]
	}
	copy(t.c, t.w)
}

// applyMultiplier is the user's own word on the endpoint, the annotation evenkeel.io/weight.
func applyMultiplier(t *tick) {
	for i := range t.m.members {
		if f := t.m.members[i].Multiplier; f != 1 {
			t.scale(i, Reason{Term: "multiplier", Value: f, Factor: f, Text: "the endpoint's annotation evenkeel.io/weight"})
		}
	}
}
