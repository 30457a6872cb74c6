package weights

import (
	"fmt"
	"math"
	"time"
)

const (
	// tooFull is the utilisation of all endpoints together from which requests may be shed. What shedding
	// aims at is fullest.
	tooFull = 0.95
	// patienceToShed is for how long there must have been too much to do: limits tighten before, and what
	// they hold off is seen a window later.
	patienceToShed = 8 * time.Second
	// shedStep is in what steps it moves, shedHold for how long less is not shed after it moved.
	shedStep = 0.05
	shedHold = 10 * time.Second
	// shedAgain is how long what was shed takes to show in a window of readings.
	shedAgain = 6 * time.Second
	// queued is how many times as long as usual answers take when requests wait for each other: completed
	// requests, which are never more than can be completed, do not tell how many come.
	queued = 2
)

// Shed is the part of the requests that is refused because all endpoints together cannot do them.
type Shed struct {
	// Part in [0, 0.9], a multiple of 0.05.
	Part float64 `json:"part,omitempty"`
	// Full is the utilisation by which it was last judged.
	Full float64 `json:"full,omitempty"`
	// Over is since when there is too much to do, zero if there is not; Moved is when Part last did.
	Over  time.Time `json:"over,omitzero"`
	Moved time.Time `json:"moved,omitzero"`
}

// shed decides which part of the requests Envoys refuse, at most MaxShed of them:
//
//	U = sum q / sum (C able)       at least 1.05 while all CPU is used and answers take twice as long as usual
//	U > 0.95 for 8 s:              part = 1 - (1-part) 0.9/U, rounded up to a step; again after 6 s
//	10 s after a move:             part falls by a step, if U stays under 0.9 with it
//
// q are the requests/s that are let in and C able what the endpoints can do under the strain that they
// share. It is the last resort, for all requests alike: limits know whose requests they are, and act first.
// Between the two bounds nothing moves, and it ends by steps.
func shed(t *tick) {
	s := &t.m.shed
	before := s.Part
	defer func() { t.shedMoved = s.Part != before }()
	if t.cfg.MaxShed == 0 || t.cfg.Mode != Enforce {
		*s = Shed{}
		return
	}
	if t.hold || t.frozen != "" {
		return
	}
	full, ok := t.full()
	if !ok {
		full = 0 // what cannot be known to be too much is let in, step by step
	}
	s.Full = full
	if full <= tooFull {
		s.Over = time.Time{}
	} else if s.Over.IsZero() {
		s.Over = t.now
	}
	less := inSteps(max(0, s.Part-shedStep))
	switch {
	case !s.Over.IsZero() && s.mayRise(t.now):
		want := math.Ceil((1-(1-s.Part)*fullest/full)/shedStep-negligible) * shedStep
		if to := inSteps(min(want, t.cfg.MaxShed)); to > s.Part {
			s.Part, s.Moved = to, t.now
		}
	case s.Part > t.cfg.MaxShed:
		s.Part, s.Moved = inSteps(t.cfg.MaxShed), t.now
	case s.Part > 0 && full*(1-less)/(1-s.Part) < fullest && t.now.Sub(s.Moved) >= shedHold:
		s.Part, s.Moved = less, t.now
	}
}

func (s *Shed) mayRise(now time.Time) bool {
	if s.Part > 0 {
		return now.Sub(s.Moved) >= shedAgain
	}
	return now.Sub(s.Over) >= patienceToShed
}

// inSteps is the largest multiple of shedStep that is no more than v.
func inSteps(v float64) float64 {
	return math.Round(math.Floor(v/shedStep+negligible)*shedStep*100) / 100
}

// full is the utilisation of all endpoints together, if there are estimates of what they can do.
func (t *tick) full() (float64, bool) {
	if t.base != "" || !t.m.knowsPrior(t.now) {
		return 0, false
	}
	requests, able := 0.0, 0.0
	for i := range t.m.members {
		e := &t.m.members[i]
		requests += e.RequestsPerSecond
		able += math.Exp(e.X)
	}
	full := requests / (able * t.m.usual.able())
	if t.m.usual.ratio() > queued && full > fullest {
		full = max(full, 1.05)
	}
	return full, finite(full)
}

func (s *Shed) text() string {
	if s.Part == 0 {
		return ""
	}
	return fmt.Sprintf("shedding %.0f%% of the requests: what is let in uses %.0f%% of what the endpoints can do", 100*s.Part, 100*s.Full)
}

func (s *Shed) check() error {
	if !(s.Part >= 0 && s.Part <= 0.9) || !(s.Full >= 0) || !finite(s.Full) {
		return fmt.Errorf("part, full: %v, %v: want 0 to 0.9, and a finite number that is not negative", s.Part, s.Full)
	}
	return nil
}
