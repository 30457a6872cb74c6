package weights

import (
	"math"
	"testing"
	"time"
)

// snapPlant has three equal endpoints and one that is different by the factor given.
func snapPlant(t *testing.T, factor float64) *plant {
	p := newPlant(t, 200)
	for i := range 4 {
		p.add(address(i), 100)
	}
	p.server(address(3)).capacity = 100 * factor
	p.members()
	p.run(2 * time.Minute)
	return p
}

// Weights that hardly differ are published as equal ones, 1000 each, and others are not; nor are those
// that the user sets apart.
func TestSnapsToEqual(t *testing.T) {
	for _, c := range []struct {
		factor float64
		equal  bool
	}{{1, true}, {1.19, true}, {0.84, true}, {1.25, false}, {0.8, false}} {
		p := snapPlant(t, c.factor)
		equal := true
		for i := range 4 {
			equal = equal && p.weight(address(i)) == 1000
		}
		if equal != c.equal {
			t.Errorf("one of four is %v of the others: equal is %v\n%s", c.factor, equal, p.last.Describe())
		}
	}
	p := newPlant(t, 200)
	for i := range 4 {
		p.add(address(i), 100)
	}
	p.svc.Endpoints[3].Multiplier = 0.9
	p.members()
	p.run(2 * time.Minute)
	if w := p.weight(address(3)); w < 850 || w > 950 {
		t.Errorf("the multiplier 0.9 makes %v", p.weight(address(3)))
	}
}

// Equal weights stay while one is no further than 0.30 from the mean, and end when it is in two
// windows, or at once beyond 0.45; then the weights are the computed ones.
func TestLeavesEqual(t *testing.T) {
	for _, c := range []struct {
		factor float64
		leaves time.Duration // by then
		stays  time.Duration // until then
	}{{0.75, 0, time.Minute}, {0.64, 30 * time.Second, 6 * time.Second}, {0.2, 4 * time.Second, 0}} {
		p := snapPlant(t, 1)
		p.server(address(3)).capacity *= c.factor
		p.run(c.stays)
		if !p.m.snap.On {
			t.Errorf("%v: left before %v", c.factor, c.stays)
		}
		if c.leaves == 0 {
			continue
		}
		p.run(c.leaves - c.stays)
		if p.m.snap.On {
			t.Errorf("%v: not left after %v", c.factor, c.leaves)
		}
		p.run(time.Minute)
		if ratio := p.weight(address(3)) / p.weight(address(0)); math.Abs(ratio/c.factor-1) > 0.25 {
			t.Errorf("%v: %v of the others' weight", c.factor, ratio)
		}
	}
}

// What joins while weights are equal gets its own, and equality ends; it returns when the newcomer is
// warm.
func TestJoinsEquals(t *testing.T) {
	p := snapPlant(t, 1)
	p.add(address(5), 100)
	p.members()
	if p.weight(address(5)) != 100 || p.weight(address(0)) != 1000 {
		t.Errorf("a newcomer among equals:\n%s", p.last.Describe())
	}
	if p.tick(); p.m.snap.On {
		t.Error("still equal")
	}
	p.run(2 * time.Minute)
	for i := range 4 {
		if p.weight(address(i)) != 1000 {
			t.Errorf("not equal again:\n%s", p.last.Describe())
		}
	}
}
