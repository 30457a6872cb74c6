package weights

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever the load: what is shed stays within its bound and on its steps; under a constant load it comes to
// rest; with nothing too much to do nothing is shed, from the start and in the end.
func TestShedding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPlant(t, 100)
		p.svc.Config.MaxShed = rapid.Float64Range(0, 0.9).Draw(t, "maxShed")
		for _, a := range []string{"10.0.0.1:80", "10.0.0.2:80"} {
			p.add(a, 100)
		}
		check := func() {
			t.Helper()
			s := p.last.Shed
			if !(s >= 0 && s <= p.svc.Config.MaxShed) || math.Abs(s/shedStep-math.Round(s/shedStep)) > 1e-6 || (s > 0) != (p.last.Shedding != "") {
				t.Fatalf("sheds %v of at most %v: %q", s, p.svc.Config.MaxShed, p.last.Shedding)
			}
		}
		p.members()
		p.run(time.Minute)
		if p.last.Shed != 0 {
			t.Fatalf("sheds %v at half of the load", p.last.Shed)
		}
		p.load = rapid.Float64Range(0, 2000).Draw(t, "load")
		for range 60 {
			p.tick()
			check()
		}
		before := p.last.Shed
		for range 60 {
			p.tick()
			if check(); p.last.Shed != before {
				t.Fatalf("a constant load of %v: sheds %v, then %v", p.load, before, p.last.Shed)
			}
		}
		if over := 1 - 200/p.load; over > 0.02 && before < min(over, math.Floor(p.svc.Config.MaxShed/shedStep)*shedStep)-shedStep {
			t.Fatalf("%v of the load is too much and %v of at most %v is shed", over, before, p.svc.Config.MaxShed)
		}
		p.load = 100
		p.run(5 * time.Minute)
		if p.last.Shed != 0 {
			t.Fatalf("still sheds %v", p.last.Shed)
		}
	})
}
