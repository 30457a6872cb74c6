package weights

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	// speeds is how many samples a Speed is told from, and enoughSpeeds from how many on.
	speeds, enoughSpeeds = 30, 6
	// speedEvery is how often one is taken.
	speedEvery = 10 * time.Second
	// fastest bounds a Speed: who takes more than 3.3 times as long as the median for the same CPU is
	// taken to be hindered.
	fastest = 1.2
)

// Speed is b, how much slower an endpoint answers than the median when nothing hinders it: the 20th
// percentile of 30 samples of ln(P50/median P50), within 1.2. A slower processor, or one core where
// others have more, makes every response longer without anything being wrong.
//
// One sample is taken every 10 s while the endpoint is as busy as others: one that is idle answers
// faster for that alone. Samples do not age:
// an endpoint that is hindered for an hour is not the slower kind for it. The low percentile is that of
// the good moments. What the capacity has fallen by since a sample is added to it: requests that cost
// three times the CPU also take three times as long, and CPU hides nothing of that. A newcomer's first
// samples are against what those that are known would have at b = 0: it may itself be what makes the
// median another, as when half of a rollout is faster.
type Speed struct {
	// Value is b; before there are 6 samples, that of the last reading.
	Value float64 `json:"value,omitempty"`
	// Samples are in hundredths, Next is where the next goes; Taken counts them up to 30.
	Samples [speeds]int8 `json:"samples,omitzero"`
	Next    uint8        `json:"next,omitempty"`
	Taken   uint8        `json:"taken,omitempty"`
	// At is when the last was taken, in seconds since 1970, and LnC the estimate of ln C then.
	At  int64   `json:"at,omitempty"`
	LnC float64 `json:"lnC,omitempty"`
}

// known reports whether there are samples enough.
func (s *Speed) known() bool { return s.Taken >= enoughSpeeds }

// learn takes a sample if it is time for one.
func (s *Speed) learn(now time.Time, ln, lnC float64) {
	if since := now.Unix() - s.At; since >= 0 && since < int64(speedEvery/time.Second) {
		return
	}
	if s.Taken > 0 && lnC < s.LnC {
		fallen := int(math.Round(100 * min(fastest, s.LnC-lnC)))
		for i, was := range s.Samples[:s.Taken] {
			s.Samples[i] = int8(min(math.MaxInt8, int(was)+fallen))
		}
	}
	s.At, s.LnC = now.Unix(), lnC
	s.Samples[s.Next] = int8(math.Round(100 * clampSpeed(ln)))
	s.Next = (s.Next + 1) % speeds
	s.Taken = min(speeds, s.Taken+1)
	if s.known() {
		sorted := s.Samples
		slices.Sort(sorted[:s.Taken])
		s.Value = float64(sorted[(20*int(s.Taken)+99)/100-1]) / 100
	}
}

// at is b of an endpoint whose capacity is e^lnC now.
func (s *Speed) at(lnC float64) float64 {
	if !s.known() {
		return s.Value
	}
	return s.Value + max(0, s.LnC-lnC)
}

func clampSpeed(ln float64) float64 { return min(fastest, max(-fastest, ln)) }

func (s *Speed) check() error {
	if !(math.Abs(s.Value) <= math.MaxInt8/100.0) || !(math.Abs(s.LnC) < 100) || s.Next >= speeds || s.Taken > speeds {
		return fmt.Errorf("want |value| <= %v, |lnC| < 100, next < %d, taken <= %d", math.MaxInt8/100.0, speeds, speeds)
	}
	return nil
}
