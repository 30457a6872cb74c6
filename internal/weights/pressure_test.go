package weights

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/signals"
)

// Response times that are k times as long for all endpoints leave the weights alone.
func TestLatencyScaleIsNoMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScenario(t, "slower", "faster", "hidden", "sheds", "failing", "silent", "heard", "load", "join", "leave", "restart")
		k := rapid.IntRange(2, 1000).Draw(t, "k")
		var want []Decisions
		s.play(t, func(p *plant) { want = append(want, p.last) })
		at := 0
		s.play(t, func(p *plant) {
			p.longer = k
			for i, d := range p.last.Endpoints {
				if was := want[at].Endpoints[i]; math.Abs(d.Computed/was.Computed-1) > 1e-6 {
					t.Fatalf("%s, decision %d: %v, with %d times the response times %v", d.Key.Address, at, was.Computed, k, d.Computed)
				}
			}
			at++
		})
	})
}

// pressures is the sigma of every endpoint.
func pressures(p *plant) []float64 {
	var out []float64
	for _, e := range p.m.State().Endpoints {
		out = append(out, e.Sigma)
	}
	return out
}

// A server that slows down to a half in a way that its CPU does not show is under pressure within
// 10 s, and the others are not (but for noise), whatever they are.
func TestHiddenSlowdownIsPressure(t *testing.T) {
	for seed := range uint64(24) {
		p := newPlant(t, 300)
		if seed >= 6 {
			p.noise = rand.New(rand.NewPCG(seed, 0))
		}
		for i, speed := range []float64{50, 50, 75, 75, 100, 100} {
			p.add(address(i), speed)
		}
		p.members()
		p.run(2 * time.Minute)
		for i, sigma := range pressures(p) {
			if sigma > pressed && p.noise == nil {
				t.Errorf("seed %d: %s: sigma %v though nothing is wrong", seed, address(i), sigma)
			}
		}
		victim := int(seed % 6)
		p.server(address(victim)).hidden = 2
		felt := make([]float64, len(p.servers))
		for range 5 {
			p.tick()
			for i, sigma := range pressures(p) {
				felt[i] = max(felt[i], sigma)
			}
		}
		for i, sigma := range felt {
			if (sigma > pressed) != (i == victim) && (p.noise == nil || i == victim) {
				t.Errorf("seed %d, %s slower: %s: sigma %v", seed, address(victim), address(i), sigma)
			}
		}
	}
}

// One window's response times are not enough, nor the same requests seen again; four times the
// median's are.
func TestPressureIsConfirmed(t *testing.T) {
	mid := middle{cpu: 0.5, lnP50: math.Log(0.01), lnSpeed: math.Log(0.01), lnWork: math.Log(0.5 * 0.01)}
	sigma := func(ratio float64, readings int) float64 {
		e := member{EndpointState: EndpointState{Pressure: Pressure{Busy: 0.5, Speed: Speed{Taken: speeds}}}}
		at := epoch
		for i := range 10 + readings {
			p50 := 10 * time.Millisecond
			if i >= 10 {
				p50 = time.Duration(ratio * float64(p50))
			}
			at = at.Add(2 * time.Second)
			e.P50 = p50
			e.reading = &signals.Reading{From: at.Add(-6 * time.Second), To: at, Terms: needsPressure, Done: 100, P50: p50}
			e.press(at, mid)
		}
		return e.Sigma
	}
	for _, c := range []struct {
		ratio    float64
		readings int
		pressed  bool
	}{{1.9, 1, false}, {1.9, 3, false}, {1.9, 4, true}, {5, 1, true}, {1.2, 9, false}} {
		if s := sigma(c.ratio, c.readings); (s > pressed) != c.pressed {
			t.Errorf("%v times the median's %d times: sigma %v", c.ratio, c.readings, s)
		}
	}
}

// What an endpoint is slower by for good is learned in its good moments and kept: the bad hour after
// them changes nothing while it has too much to do.
func TestSpeed(t *testing.T) {
	var s Speed
	at := epoch
	for i := range 30 {
		s.learn(at, 0.4+float64(i%3)*0.1, 0)
		s.learn(at.Add(time.Second), 7, 0) // too soon
		at = at.Add(speedEvery)
	}
	if math.Abs(s.Value-0.4) > 0.011 {
		t.Errorf("learned %v, want the good moments' 0.4", s.Value)
	}
	s.learn(at.Add(-time.Hour), 0.4, 0) // the clock was set back
	if s.At != at.Add(-time.Hour).Unix() {
		t.Error("waits for the time that the clock was set back by")
	}

	p := newPlant(t, 300)
	for i := range 4 {
		p.add(address(i), 100)
	}
	p.members()
	p.run(3 * time.Minute)
	p.server(address(3)).hidden = 2
	p.run(time.Hour)
	if b := p.m.State().Endpoints[3].Speed.Value; b > 0.05 {
		t.Errorf("after an hour's trouble it is taken to be slower by %v", b)
	}
}
