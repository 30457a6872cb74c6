package weights

import (
	"fmt"
	"math"
	"time"
)

const (
	// usualParts is in how many parts the CPU is told apart, enoughUsual how many windows make what is usual
	// in one of them, half a minute.
	usualParts, enoughUsual = 10, 15
	// slowUsual is the part of a window in what is usual: it is that of the last 20 minutes.
	slowUsual = 1.0 / 600
	// usualAfter is how long strain lasts until it is what is usual: as long as an endpoint's Reference
	// remembers what it could do.
	usualAfter = time.Hour
	// lasting is for how many windows strain must have lasted that is not plain.
	lasting = 3
)

// Usual is how long the median endpoint takes to answer, by its CPU, and how much longer it takes now.
//
// All that package weights decides about shares is relative: what slows down all endpoints alike is nobody's
// fault and moves no weight. A limit has to know of it nevertheless. Where CPU shows it (the same requests
// cost twice as much) every endpoint's own capacity falls, against the reference of its own hour. Where it
// does not (a lock that all wait for, a database behind all, neighbours on every machine) nothing falls but
// the pace of answers; so that is held against what it was at the same CPU before.
type Usual struct {
	// LnP50 is ln of the seconds by tenth of the CPU, of as many windows as Seen says.
	LnP50 [usualParts]float32 `json:"lnP50,omitzero"`
	Seen  [usualParts]uint16  `json:"seen,omitzero"`
	// Strains are how many times as long as usual the last answers took, the latest first, 0 for none.
	Strains [lasting]float32 `json:"strains,omitzero"`
	// CPU is the median endpoint's of then, and To the end of the latest reading of then.
	CPU float32   `json:"cpu,omitempty"`
	To  time.Time `json:"to,omitzero"`
	// Since is when the strain of now began, zero for none.
	Since time.Time `json:"since,omitzero"`
}

// strain holds the median response time against the usual:
//
//	r = P50 / usual P50 at that CPU, the least of three windows unless it is above 4
//	able = u + (1-u) / max(1, r/1.25)
//
// A server that shares its time among the requests in it (M/G/1-PS) answers in s/(h-u), u being the part of
// its CPU in use and h the part of its full pace at which it runs: with what is usual at h = 1 that makes
// h = u + (1-u)/r. Where requests pile up without end h is u: it can do what it does, and no more.
//
// What is usual at a CPU is what was measured there or, never having been there, at the next higher one,
// which is on the safe side; above all that were measured it grows as 1/(1-u). It is learned while there is no
// strain.
func strain(t *tick) {
	s := &t.m.usual
	mid := t.mid
	latest := time.Time{}
	for i := range t.m.members {
		if e := &t.m.members[i]; e.reading != nil && e.reading.To.After(latest) {
			latest = e.reading.To
		}
	}
	if mid.cpu == 0 || !latest.After(s.To) {
		return // nothing new is told
	}
	s.To, s.CPU = latest, float32(mid.cpu)
	r := 1.0
	if usual, ok := s.at(mid.cpu); ok {
		r = math.Exp(mid.lnP50 - usual)
	}
	copy(s.Strains[1:], s.Strains[:])
	s.Strains[0] = float32(r)
	switch {
	case s.ratio() <= mild:
		s.Since = time.Time{}
		s.learn(mid.cpu, mid.lnP50)
	case s.Since.IsZero():
		s.Since = t.now
	case t.now.Sub(s.Since) > usualAfter:
		*s = Usual{To: s.To, CPU: s.CPU}
	}
}

func usualPart(cpu float64) int { return min(usualParts-1, max(0, int(cpu*usualParts))) }

// at is ln of the P50 in seconds that is usual at a CPU, if that is known.
func (s *Usual) at(cpu float64) (float64, bool) {
	part := usualPart(cpu)
	for i := part; i < usualParts; i++ {
		if s.Seen[i] >= enoughUsual {
			return float64(s.LnP50[i]), true
		}
	}
	for i := part - 1; i >= 0; i-- {
		if s.Seen[i] >= enoughUsual {
			below := (float64(i) + 0.5) / usualParts
			return float64(s.LnP50[i]) + max(0, math.Log((1-below)/(1-min(fullCPU, cpu)))), true
		}
	}
	return 0, false
}

func (s *Usual) learn(cpu, lnP50 float64) {
	part := usualPart(cpu)
	s.Seen[part] = min(math.MaxUint16-1, s.Seen[part]) + 1
	rate := max(slowUsual, 1/float64(s.Seen[part]))
	s.LnP50[part] += float32(rate * (lnP50 - float64(s.LnP50[part])))
}

// ratio is how many times as long as usual answers take, as far as it is certain.
func (s *Usual) ratio() float64 {
	if s.Strains[0] > plain {
		return float64(s.Strains[0])
	}
	least := s.Strains[0]
	for _, r := range s.Strains {
		least = min(least, r)
	}
	return max(1, float64(least))
}

// able is the part of their capacity that the endpoints can show under the strain that all of them share.
func (s *Usual) able() float64 {
	u := float64(s.CPU)
	return u + (1-u)/max(1, s.ratio()/mild)
}

// text is the strain in words, "" if there is none.
func (s *Usual) text() string {
	if s.able() > 0.975 { // nothing is lost: too much to do is no strain of this kind
		return ""
	}
	return fmt.Sprintf("answers take %.3g times as long as usual at %.0f%% CPU, on all endpoints: together they can do %.0f%%", s.ratio(), 100*s.CPU, 100*s.able())
}

func (s *Usual) check() error {
	for i, v := range s.LnP50 {
		if !(math.Abs(float64(v)) < 100) {
			return fmt.Errorf("lnP50[%d]: %v: want a number within 100", i, v)
		}
	}
	for _, r := range s.Strains {
		if !(r >= 0 && r <= math.MaxFloat32) {
			return fmt.Errorf("strains: %v: want a finite number, not negative", r)
		}
	}
	if !(s.CPU >= 0 && s.CPU <= 1) {
		return fmt.Errorf("cpu: %v: want 0 to 1", s.CPU)
	}
	return nil
}

// applyStrain only tells: it moves no weight, but the qps_decay_factor.
func applyStrain(t *tick) {
	if text := t.m.usual.text(); text != "" {
		for i := range t.m.members {
			t.explain(i, Reason{Term: "strain", Value: t.m.usual.ratio(), Factor: 1, Text: "times as long as usual to answer at this CPU, on all endpoints: counts for qps_decay_factor, not for shares"})
		}
	}
}
