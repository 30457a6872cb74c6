package weights

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/signals"
)

// Load reports that say what the endpoints say change no weight, however noisy and uneven the load: what
// changes at once, by more than the weights themselves let it, is in both at a slightly different time.
func TestReportsThatAgreeChangeNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScenario(t, "restart", "freeze", "unfreeze")
		var without, with []Decisions
		s.play(t, func(p *plant) { without = append(without, p.last) })
		s.play(t, func(p *plant) { p.reports = "all"; with = append(with, p.last) })
		for i := range without {
			if !slices.Equal(weightsOf(without[i]), weightsOf(with[i])) {
				t.Fatalf("decision %d\nwithout %s\nwith %s", i, without[i].Describe(), with[i].Describe())
			}
		}
	})
}

func weightsOf(d Decisions) (weights []uint32) {
	for _, e := range d.Endpoints {
		weights = append(weights, e.Weight)
	}
	return weights
}

// An endpoint gains nothing by a count beyond 1.5 times what is reported of it, or the median's if that is
// more.
func TestExaggerationGainsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.Float64Range(20, 500).Draw(t, "capacity")
		estimate := func(claims float64) float64 {
			p := newPlant(t, 100)
			p.reports = "all"
			for _, address := range []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"} {
				p.add(address, 100)
			}
			_, s := p.add("10.0.0.5:80", capacity)
			s.claims = claims
			p.run(2 * time.Minute)
			return math.Exp(p.m.members[4].X)
		}
		most := max(1.5*estimate(1), 100)
		if got := estimate(rapid.Float64Range(1, 50).Draw(t, "claims")); got > 1.05*most {
			t.Fatalf("it is taken to do %v/s, want %v at most", got, most)
		}
	})
}

// What no Envoy can have reported counts as not reported.
func TestUnbelievableReports(t *testing.T) {
	good := signals.Reported{From: epoch, To: epoch.Add(5 * time.Second), SourceInterval: 5 * time.Second, All: true, Done: 50, Failed: 50, Claim: 2}
	reading := signals.Reading{To: good.To, Reported: good}
	if _, ok := reportedIn(&reading); !ok {
		t.Fatal("a good one is refused")
	}
	for what, spoil := range map[string]func(*signals.Reported){
		"nothing":         func(n *signals.Reported) { *n = signals.Reported{} },
		"an empty window": func(n *signals.Reported) { n.From = n.To },
		"done NaN":        func(n *signals.Reported) { n.Done = math.NaN() },
		"done negative":   func(n *signals.Reported) { n.Done = -1 },
		"failed infinite": func(n *signals.Reported) { n.Failed = math.Inf(1) },
		"too many":        func(n *signals.Reported) { n.Done = 1e14 },
		"a claim of NaN":  func(n *signals.Reported) { n.Claim = math.NaN() },
		"an endless one":  func(n *signals.Reported) { n.Claim = math.Inf(1) },
		"from the future": func(n *signals.Reported) { n.To = n.To.Add(time.Minute) },
	} {
		r := signals.Reading{To: good.To, Reported: good}
		spoil(&r.Reported)
		if _, ok := reportedIn(&r); ok {
			t.Errorf("%s is believed: %+v", what, r.Reported)
		}
	}
}
