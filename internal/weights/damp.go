package weights

import "math"

var (
	// slewUp and slewDown are how far a weight moves in one tick: up by 2^sqrt(T/5 s) = 1.55, down by
	// 4^sqrt(T/5 s) = 2.4. Down is faster: an endpoint with too much work hurts at once, one with too
	// little only wastes.
	slewUp   = math.Log(2) * math.Sqrt(Tick.Seconds()/5)
	slewDown = math.Log(4) * math.Sqrt(Tick.Seconds()/5)
)

// negligible is a |factor - 1| that is rounding, not a stage's effect.
const negligible = 1e-9

// relative divides by the mean over the Service: from here on 1 is average.
func relative(t *tick) {
	mean := mean(t.w)
	for i := range t.w {
		t.scale(i, Reason{Term: "mean", Value: mean, Factor: 1 / mean, Text: "divided by the mean of the service"})
	}
}

// clamp keeps the weights within [floor, ceiling] times the mean. The floor keeps requests coming, and
// with them the readings that could lift the endpoint again.
func clamp(t *tick) {
	for i, w := range t.w {
		bound := min(t.cfg.Ceiling, max(t.cfg.Floor, w))
		if bound != w {
			t.scale(i, Reason{Term: "clamp", Value: bound, Factor: bound / w, Text: "times the mean, the nearer bound"})
		}
	}
}

// blend mixes the computed weights with the base weights (base * multiplier), each divided by its
// mean: w = blend * computed + (1 - blend) * base. All Envoys see the one mixed weight, which is how
// Dropbox brought in Robinhood.
func blend(t *tick) {
	if t.cfg.Blend == 1 {
		return
	}
	base := 0.0
	for i := range t.m.members {
		base += t.m.members[i].declaredWeight() / float64(len(t.w))
	}
	computed := mean(t.w)
	for i, w := range t.w {
		mixed := t.cfg.Blend*w/computed + (1-t.cfg.Blend)*t.m.members[i].declaredWeight()/base
		t.scale(i, Reason{Term: "blend", Value: 100 * t.cfg.Blend, Unit: "%", Factor: mixed / w, Text: "computed, the rest is base"})
	}
}

// declaredWeight is the weight that the user gave, whatever is measured.
func (e *member) declaredWeight() float64 { return e.Base * e.Multiplier }

// slew moves the weights of the tick before towards those of this tick, each at most x1.55 up and
// /2.4 down, or as far as it must where most of what it is sent fails (e < 0.7).
//
// Weights have no scale of their own. The one that is chosen leaves the median endpoint where it was,
// so that one endpoint that joins, leaves or changes does not rewrite the weights of all others; nor
// does a change that is common to all, like a heavier mix of requests.
//
// Frozen weights stay, except that endpoints in slow start go on growing. In Members all stay that
// have one. Endpoints that join get theirs whole.
func slew(t *tick) {
	members := t.m.members
	moves := t.m.scratch.sorted[:0]
	for i := range members {
		t.held[i] = false
		if e := &members[i]; !e.joined && !e.declared {
			moves = append(moves, math.Log(t.w[i]/e.Damped))
		}
	}
	shift := 0.0
	if len(moves) > 0 {
		shift = median(moves)
	} else {
		// Nobody is left to compare with: what was published gives no scale either.
		t.m.anchor = 0
	}
	scale := math.Exp(-shift)
	hold := t.hold || t.frozen != ""
	for i := range members {
		e := &members[i]
		target := t.w[i] * scale
		switch {
		case e.joined || e.declared:
			e.Damped, e.SlowStart = target, t.ss[i]
		case t.hold, hold && !e.Warming && e.SlowStart == 1:
			t.held[i] = true
		case hold:
			grown := max(e.SlowStart, min(t.ss[i], e.SlowStart*math.Exp(slewUp)))
			e.Damped *= grown / e.SlowStart
			e.SlowStart = grown
		default:
			move := math.Log(target / e.Damped)
			down := -slewDown
			if e.trim() < emergency {
				down = math.Inf(-1)
			}
			if move < down || move > slewUp {
				target = e.Damped * math.Exp(min(slewUp, max(down, move)))
			}
			e.Damped, e.SlowStart = target, t.ss[i]
		}
	}
	mean := t.m.meanDamped()
	for i, w := range t.w {
		f := members[i].Damped / mean / w
		switch {
		case math.Abs(f-1) < negligible:
			t.w[i] = members[i].Damped / mean
		case t.held[i] && t.frozen != "":
			t.scale(i, Reason{Term: "freeze", Value: w * f, Factor: f, Text: t.frozen})
		case t.held[i]:
			t.scale(i, Reason{Term: "hold", Value: w * f, Factor: f, Text: "until the next tick"})
		default:
			t.scale(i, Reason{Term: "slew", Value: w * f, Factor: f, Text: "on the way there"})
		}
	}
}

// meanDamped is the mean weight, 1 for a Service without endpoints.
func (m *Machine) meanDamped() float64 {
	if len(m.members) == 0 {
		return 1
	}
	sum := 0.0
	for i := range m.members {
		sum += m.members[i].Damped
	}
	return sum / float64(len(m.members))
}

// mean of the values, 1 if there are none.
func mean(values []float64) float64 {
	if len(values) == 0 {
		return 1
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
