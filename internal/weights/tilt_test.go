package weights

import (
	"math"
	"testing"
	"time"
)

// With a tilt the faster of two kinds gets more than its capacity's share, e^(-tilt b) of it; without,
// that share. The others' readings must not make it run away.
func TestTilt(t *testing.T) {
	for _, tilt := range []float64{0, 0.25, 1} {
		p := newPlant(t, 150)
		p.svc.Config.Tilt = tilt
		for i, speed := range []float64{60, 60, 90, 90, 90} {
			p.add(address(i), speed)
		}
		p.members()
		p.run(15 * time.Minute)
		ratio := p.last.Endpoints[2].Computed / p.last.Endpoints[0].Computed
		b := p.m.members[0].Speed.Value - p.m.members[2].Speed.Value
		if want := 1.5 * math.Exp(tilt*b); math.Abs(ratio/want-1) > 0.02 || b < 0.2 || b > 0.5 {
			t.Errorf("tilt %v: %v times the slower kind's weight, want %v; b differs by %v\n%s", tilt, ratio, want, b, p.last.Endpoints[0].Describe())
		}
		before := p.last.Endpoints[2].Computed
		p.run(time.Minute)
		if after := p.last.Endpoints[2].Computed; math.Abs(after/before-1) > 0.02 {
			t.Errorf("tilt %v: moves on from %v to %v", tilt, before, after)
		}
	}
}
