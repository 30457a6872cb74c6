package weights

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// unslewed is the weight that every endpoint is moved towards, by the reasons.
func unslewed(d Decisions) []float64 {
	var out []float64
	for _, e := range d.Endpoints {
		w := 1.0
		for _, r := range e.Reasons {
			switch r.Term {
			case "mean", "clamp", "blend", "slew", "freeze", "hold":
			default:
				w *= r.Factor
			}
		}
		out = append(out, w)
	}
	return out
}

// The errors of others never more than double a healthy endpoint's share, however many fail.
func TestErrorsOfOthersAtMostDouble(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 9).Draw(t, "endpoints")
		p := newPlant(t, 0)
		for i := range n {
			e, s := p.add(address(i), rapid.Float64Range(20, 200).Draw(t, "capacity"))
			e.Multiplier = rapid.Float64Range(0.2, 3).Draw(t, "multiplier")
			p.load += s.capacity / 3
		}
		p.members()
		p.run(40 * time.Second)
		for i := 1; i < n; i++ {
			p.servers[i].failing = rapid.SampledFrom([]float64{0, 0.3, 1}).Draw(t, "failing")
		}
		for range 20 {
			p.tick()
			with, without := 0.0, 0.0
			for i, w := range unslewed(p.last) {
				with += w
				for _, r := range p.last.Endpoints[i].Reasons {
					if r.Term == "errors" {
						w /= r.Factor
					}
				}
				without += w
			}
			if with < without/2*(1-1e-9) {
				t.Fatalf("errors take %v of %v", without-with, without)
			}
		}
	})
}

// Nobody is planned to be used to more than 90 %, or slow start is given up and the overload reported.
func TestPlannedUtilisation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		drawScenario(t, "slower", "faster", "hidden", "sheds", "failing", "load", "join", "leave", "replace", "silent", "multiplier").play(t, func(p *plant) {
			if p.last.Frozen != "" || !p.m.knowsPrior(p.now) {
				return
			}
			lambda, total := 0.0, 0.0
			weights := unslewed(p.last)
			for i, w := range weights {
				lambda += p.m.members[i].RequestsPerSecond
				total += w
			}
			worst, starting, given := 0.0, false, 0.0
			for i, d := range p.last.Endpoints {
				c, ss := 1.0, 1.0
				for _, r := range d.Reasons {
					switch r.Term {
					case "base", "capacity", "ceiling", "max-ratio":
						c *= r.Factor
					case "slow-start":
						ss *= r.Factor
					case "overload":
						ss *= r.Factor
						given = r.Value / 100
					}
					if strings.HasPrefix(r.Text, "no-cpu: half") {
						return
					}
				}
				worst = max(worst, weights[i]/total*lambda/c)
				starting = starting || ss < 1-1e-9
			}
			if given > 0 && p.last.Overload == "" {
				if before := planned(p.last, lambda, given-1.0/thetaSteps); before <= fullest*(1-1e-9) {
					t.Fatalf("%v of slow start is given up; with a step less the fullest would be at %v", given, before)
				}
			}
			switch {
			case worst > fullest*(1+1e-9) && (p.last.Overload == "" || starting):
				t.Fatalf("someone is planned for %v; reported: %q, slow start kept: %v", worst, p.last.Overload, starting)
			case worst <= fullest*(1-1e-9) && p.last.Overload != "":
				t.Fatalf("the fullest is at %v and %q is reported", worst, p.last.Overload)
			}
		})
	})
}

// planned is the highest utilisation if the part theta of slow start were given up.
func planned(d Decisions, lambda, theta float64) float64 {
	total, worst := 0.0, 0.0
	weights, capacities := unslewed(d), make([]float64, len(d.Endpoints))
	for i, e := range d.Endpoints {
		capacities[i] = 1
		for _, r := range e.Reasons {
			switch r.Term {
			case "base", "capacity", "ceiling", "max-ratio":
				capacities[i] *= r.Factor
			case "slow-start":
				weights[i] *= math.Pow(r.Factor, -theta)
			case "overload":
				weights[i] /= r.Factor
			}
		}
		total += weights[i]
	}
	for i, w := range weights {
		worst = max(worst, w/total*lambda/capacities[i])
	}
	return worst
}
