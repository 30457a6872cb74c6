package weights

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/signals"
)

// A server that slows down in a way that its CPU does not show has a weight within 15 % of where it
// comes to rest after 20 s, less than it had, and its old one a minute after the cause is gone.
func TestHiddenSlowdownAndRecovery(t *testing.T) {
	for _, hidden := range []float64{1.5, 1.8, 2.5, 4} {
		p := newPlant(t, 240)
		for i := range 6 {
			p.add(address(i), 100)
		}
		p.members()
		p.run(3 * time.Minute)
		p.server(address(2)).hidden = hidden
		share := func() float64 { return p.last.Endpoints[2].Computed / p.last.Endpoints[0].Computed }
		p.run(20 * time.Second)
		soon := share()
		sum, n := 0.0, 0
		for range 60 {
			p.tick()
			sum, n = sum+share(), n+1
		}
		if final := sum / float64(n); math.Abs(soon/final-1) > 0.15 || final > 0.95 {
			t.Errorf("slower by %v: %.2f of the others' weight after 20 s, %.2f in the end\n%s", hidden, soon, final, p.last.Endpoints[2].Describe())
		}
		p.server(address(2)).hidden = 1
		p.run(time.Minute)
		if share() < 0.95 {
			t.Errorf("slower by %v: recovered, %.2f of the others' weight\n%s", hidden, share(), p.last.Endpoints[2].Describe())
		}
	}
}

// A slowdown that CPU shows is not counted twice.
func TestVisibleSlowdownHasNoCeiling(t *testing.T) {
	p := newPlant(t, 240)
	for i := range 6 {
		p.add(address(i), 100)
	}
	p.members()
	p.run(3 * time.Minute)
	p.server(address(2)).capacity = 40
	p.run(time.Minute)
	if ratio := p.last.Endpoints[2].Computed / p.last.Endpoints[0].Computed; math.Abs(ratio/0.4-1) > 0.1 {
		t.Errorf("%.2f of the others' weight for 0.4 of their capacity\n%s", ratio, p.last.Endpoints[2].Describe())
	}
}

// A slow endpoint that is not busy, whatever it waits for, is never driven to the floor by its
// response times alone; with CPU or without.
func TestLatencyAloneStarvesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 8).Draw(t, "endpoints")
		p := newPlant(t, 0)
		for i := range n {
			p.add(address(i), 100)
		}
		p.load = float64(n) * rapid.Float64Range(10, 80).Draw(t, "load")
		p.members()
		p.run(time.Duration(rapid.IntRange(0, 180).Draw(t, "seconds before")) * time.Second)
		slow := rapid.Float64Range(1, 100).Draw(t, "slow")
		metrics := rapid.SampledFrom([]string{"on", "no-cpu"}).Draw(t, "metrics")
		least := map[string]float64{"on": 1.0 / 27, "no-cpu": 1 / 4.2}[metrics]
		for range 150 {
			p.serve()
			p.now = p.now.Add(Tick)
			readings := p.readings()
			readings[0].P50 = time.Duration(slow * float64(readings[0].P50))
			if metrics == "no-cpu" {
				readings[0].Terms &^= signals.TermCPU
				readings[0].CPU = 0
			}
			p.take(p.m.Step(p.now, p.svc, readings))
			if c := p.last.Endpoints[0].Computed; c < least {
				t.Fatalf("at %v of the mean\n%s", c, p.last.Endpoints[0].Describe())
			}
		}
	})
}

// An endpoint that is as idle as it is slow (it waits for something else than CPU) keeps its weight: no
// more of its requests are in service than of others'.
func TestSlowButIdleKeepsItsWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 8).Draw(t, "endpoints")
		p := newPlant(t, float64(n)*rapid.Float64Range(20, 80).Draw(t, "load"))
		for i := range n {
			p.add(address(i), 100)
		}
		p.members()
		p.run(2 * time.Minute)
		slow := rapid.Float64Range(1, 15).Draw(t, "slow")
		idle := rapid.Float64Range(slow, 15).Draw(t, "idle")
		for range 60 {
			p.serve()
			p.now = p.now.Add(Tick)
			readings := p.readings()
			r := &readings[0]
			r.P50 = time.Duration(slow * float64(r.P50))
			r.Done, r.CPU = r.Done/idle, r.CPU/idle
			p.take(p.m.Step(p.now, p.svc, readings))
			if ratio := p.last.Endpoints[0].Computed / p.last.Endpoints[1].Computed; ratio < 0.9 {
				t.Fatalf("%.2f of the others' weight\n%s", ratio, p.last.Endpoints[0].Describe())
			}
		}
	})
}

// While the metrics of all are lost a ceiling is kept: nothing is known to have become better.
func TestCeilingOutlivesTheMetrics(t *testing.T) {
	p := newPlant(t, 240)
	for i := range 4 {
		p.add(address(i), 100)
	}
	p.members()
	p.run(3 * time.Minute)
	p.server(address(2)).hidden = 2.5
	p.run(30 * time.Second)
	before := p.m.State().Endpoints[2]
	if !before.Ceiling.Held {
		t.Fatalf("no ceiling\n%s", p.last.Endpoints[2].Describe())
	}
	for _, s := range p.servers {
		s.metrics = "off"
	}
	p.run(5 * time.Minute)
	if after := p.m.State().Endpoints[2]; p.last.Frozen == "" || !after.Ceiling.Held || after.X != before.X {
		t.Errorf("frozen %q: %+v and x %v, before %+v and %v", p.last.Frozen, after.Ceiling, after.X, before.Ceiling, before.X)
	}
}

// A limit that is found again and again is probed ever more slowly, and forgotten once it is no limit.
func TestCeilingRemembers(t *testing.T) {
	var c Ceiling
	c.lower(math.Log(50))
	if !c.Held || c.Ln != math.Log(50) {
		t.Fatalf("%+v", c)
	}
	climb := func() float64 {
		from := c.Ln
		for range 10 {
			c.raise(false)
		}
		return c.Ln - from
	}
	first := climb()
	c.lower(c.Ln)
	second := climb()
	c.lower(c.Ln)
	third := climb()
	if math.Abs(first-0.12) > 1e-9 || math.Abs(second-0.06) > 1e-9 || math.Abs(third-0.04) > 1e-9 {
		t.Errorf("in 20 s it rises by %v, %v, %v; want 0.12, 0.06, 0.04", first, second, third)
	}
	for range 2 * quietTicks {
		c.raise(false)
	}
	if c.Backoff != 0 {
		t.Errorf("backoff %d after long quiet", c.Backoff)
	}
	before := c.Ln
	if c.raise(true); math.Abs(c.Ln-before-0.16) > 1e-9 {
		t.Errorf("the cause is gone: rises by %v", c.Ln-before)
	}
}

// With noise and nothing wrong, ceilings take little from anybody.
func TestNoiseIsNoCeiling(t *testing.T) {
	p := newPlant(t, 300)
	p.noise = rand.New(rand.NewPCG(5, 5))
	for i, speed := range []float64{50, 50, 75, 75, 100, 100} {
		p.add(address(i), speed)
	}
	p.members()
	p.run(2 * time.Minute)
	lost, n := 0.0, 0
	for range 300 {
		p.tick()
		for _, d := range p.last.Endpoints {
			for _, r := range d.Reasons {
				if r.Term == "ceiling" {
					lost += 1 - r.Factor
				}
			}
			n++
		}
	}
	if lost/float64(n) > 0.03 {
		t.Errorf("ceilings take %.3f of all", lost/float64(n))
	}
}
