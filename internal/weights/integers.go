package weights

import "math"

const (
	// unit is the integer of an average weight: fine enough for steps of 0.1 %, and 10^6 endpoints
	// of it sum to less than 2^32, as Envoy wants of a locality.
	unit = 1000
	// The anchor moves when the mean leaves [anchorLow, anchorHigh] of it.
	anchorLow, anchorHigh = 0.5, 2
)

// integer is max(1, round(1000 w/anchor)).
func integer(w, anchor float64) uint32 {
	return uint32(min(math.MaxUint32, max(1, math.Round(unit*w/anchor))))
}

// anchored is the scale of the next full publication: the present one, unless the mean of the weights
// has left it too far behind (or there is none yet). Keeping it means that an endpoint whose weight
// did not change keeps its integer. A single endpoint is its own scale: its integer is 1000.
func (t *tick) anchored() float64 {
	anchor, mean := t.m.anchor, mean(t.w)
	switch {
	case anchor == 0,
		!t.hold && t.frozen == "" && (len(t.w) == 1 || mean < anchorLow*anchor || mean > anchorHigh*anchor):
		return mean
	}
	return anchor
}

// overflows reports whether the weights of the Service sum to 2^32 or more.
func (m *Machine) overflows() bool { return m.total() > math.MaxUint32 }

// total is the sum of the published weights.
func (m *Machine) total() float64 {
	sum := 0.0
	for i := range m.members {
		sum += float64(m.members[i].Weight)
	}
	return sum
}
