package weights

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	// usualParts is in how many parts the CPU is told apart, enoughUsual how many windows make what is usual
	// in one of them, half a minute.
	usualParts, enoughUsual = 10, 15
	// slowUsual is the part of a window in what is usual: it is that of the last 20 minutes.
	slowUsual = 1.0 / 600
)

// Usual is how the median endpoint answers, by its CPU, and how much longer it takes now.
//
// All that package weights decides about shares is relative: what slows down all endpoints alike is nobody's
// fault and moves no weight. A limit has to know of it nevertheless. Where CPU shows it (the same requests
// cost twice as much) every endpoint's own capacity falls, against the reference of its own hour. Where it
// does not (a lock that all wait for, a database behind all, neighbours on every machine) nothing falls but
// the pace of answers; so that is held against what it was at the same CPU before.
type Usual struct {
	// LnPace is ln of the P50 over the CPU time of a request, by tenth of the CPU, and InFlight is one more than
	// the requests that there were, 0 where that is not told: both of as many Windows.
	LnPace   [usualParts]float32 `json:"lnPace,omitzero"`
	InFlight [usualParts]float32 `json:"inFlight,omitzero"`
	Windows  [usualParts]uint16  `json:"windows,omitzero"`
	// Strains are how many times as long as usual the last answers took, the latest first, 0 for none.
	Strains [lasting]float32 `json:"strains,omitzero"`
	// CPU is the median endpoint's of then, and To the end of the latest reading of then.
	CPU float32   `json:"cpu,omitempty"`
	To  time.Time `json:"to,omitzero"`
	// Since is when the strain of now began, zero for none.
	Since time.Time `json:"since,omitzero"`
	// Left is the part of their capacity that the endpoints can show, 0 for all of it, and Found at how many
	// requests/s of the median one they last piled up, 0 for none. Crowds is at the ends of how many of the
	// last readings they had.
	Left   float32 `json:"left,omitempty"`
	Found  float32 `json:"found,omitempty"`
	Crowds uint8   `json:"crowds,omitempty"`
	// Waiting is how many seconds the endpoints take for what has piled up.
	Waiting float32 `json:"waiting,omitempty"`
}

func usualPart(cpu float64) int { return min(usualParts-1, max(0, int(cpu*usualParts))) }

// usually is what is usual at a CPU; inFlight is -1 if that is not known.
type usually struct{ lnPace, inFlight float64 }

// at is what is usual at a CPU, if that is known.
func (s *Usual) at(cpu float64) (usually, bool) {
	part := usualPart(cpu)
	for i := part; i < usualParts; i++ {
		if s.Windows[i] >= enoughUsual {
			return usually{float64(s.LnPace[i]), float64(s.InFlight[i]) - 1}, true
		}
	}
	for i := part - 1; i >= 0; i-- {
		if s.Windows[i] >= enoughUsual {
			below := (float64(i) + 0.5) / usualParts
			more := max(1, (1-below)/(1-min(fullCPU, cpu)))
			usual := usually{float64(s.LnPace[i]) + math.Log(more), float64(s.InFlight[i]) - 1}
			if usual.inFlight > 0 {
				usual.inFlight *= more * max(1, cpu/below)
			}
			return usual, true
		}
	}
	return usually{}, false
}

// learn takes in a window. How many are in flight is told from the start or not at all: where that begins, all
// begins anew.
func (s *Usual) learn(all together) {
	part := usualPart(all.cpu)
	if all.inFlight >= 0 && s.InFlight[part] == 0 {
		s.Windows[part] = 0
	}
	s.Windows[part] = min(math.MaxUint16-1, s.Windows[part]) + 1
	rate := max(slowUsual, 1/float64(s.Windows[part]))
	s.LnPace[part] += float32(rate * (all.lnPace - float64(s.LnPace[part])))
	if all.inFlight >= 0 {
		s.InFlight[part] += float32(rate * (1 + all.inFlight - float64(s.InFlight[part])))
	}
}

func (s *Usual) check() error {
	for i, v := range s.LnPace {
		if !(math.Abs(float64(v)) < 100) {
			return fmt.Errorf("lnPace[%d]: %v: want a number within 100", i, v)
		}
	}
	for _, r := range slices.Concat(s.Strains[:], s.InFlight[:], []float32{s.Found}) {
		if !(r >= 0 && r <= math.MaxFloat32) {
			return fmt.Errorf("strains, inFlight, found: %v: want a finite number, not negative", r)
		}
	}
	for _, part := range []float32{s.CPU, s.Left} {
		if !(part >= 0 && part <= 1) {
			return fmt.Errorf("cpu, left: %v: want 0 to 1", part)
		}
	}
	if !(s.Waiting >= 0 && s.Waiting <= maxWaiting) {
		return fmt.Errorf("waiting: %v: want 0 to %v", s.Waiting, maxWaiting)
	}
	return nil
}
