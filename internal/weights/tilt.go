package weights

import "math"

// tilt moves traffic towards endpoints that answer faster by nature: w *= e^(-tilt b), b being how much
// slower one is (Speed), as soon as it is known. Weights by capacity use all endpoints alike; below
// their full load that leaves fast ones idle for requests that they would answer sooner. With tilt 1 an
// endpoint that takes twice as long has half of its share.
func tilt(t *tick) {
	if t.cfg.Tilt == 0 || t.base != "" {
		return
	}
	for i := range t.m.members {
		if s := &t.m.members[i].Speed; s.known() && s.Value != 0 {
			f := math.Exp(-t.cfg.Tilt * s.Value)
			t.scale(i, Reason{Term: "tilt", Value: math.Exp(s.Value), Factor: f, Text: "times the median's response time by nature"})
		}
	}
}
