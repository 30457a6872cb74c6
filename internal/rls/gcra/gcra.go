// Package gcra decides whether a key may have so many requests more, from a state of eight bytes and a given
// now. It is pure. Two algorithms share the state's form, and one counter keeps to one of them:
//
//   - GCRA, the generic cell rate algorithm (ITU-T I.371, the virtual scheduling form): the state is the
//     theoretical arrival time TAT, at which everything taken is earned back. With T = per/requests, n requests
//     are admitted if max(TAT, now) + n*T - now <= burst*T. A state whose TAT has passed says as much as none.
//   - Fixed windows, as many rate limiters count: the state is the window's end and how much was taken in it.
//
// # What it promises
//
// Of any requests in any time t GCRA admits burst + t/T at most, and exactly that of a sequence that always asks
// for more. A bound may differ from call to call and acts at once: what is kept of a key is the share of
// its burst that is used (in time), so that a change neither resets it nor locks it out. T is whole nanoseconds,
// so that a rate is kept to within half a nanosecond per request.
package gcra

import (
	"math"
	"time"
)

// State of a key; 0 is that of one that was never seen.
type State uint64

// maxTolerance is the longest time in which a burst is earned back: more would leave the range of a TAT.
const maxTolerance = 1 << 61 // ns, 73 years

// Bound is a rate and how many may come at once. The zero value admits nothing.
type Bound struct {
	interval  int64 // T, ns
	tolerance int64 // burst*T, ns
	burst     int64
	window    int64 // of a fixed window: requests in per
	per       int64 // ns
}

// NewBound is requests per time with a burst, times a factor: the rate and the burst both, but never less than
// a burst of one. Requests, per and factor are more than 0. Fixed windows do not use the burst.
func NewBound(requests int64, per time.Duration, burst int64, factor float64) Bound {
	scaled := float64(requests) * factor
	interval := max(1, math.Round(float64(per)/scaled))
	b := Bound{
		interval: int64(min(interval, maxTolerance)),
		burst:    Scale(burst, factor),
		window:   min(Scale(requests, factor), math.MaxUint32),
		per:      int64(per),
	}
	b.burst = min(b.burst, maxTolerance/b.interval)
	b.tolerance = b.burst * b.interval
	return b
}

// Tighter is the one of two bounds that admits less: the lower of the rates, and of the bursts.
func Tighter(a, b Bound) Bound {
	t := a
	if b.interval > a.interval {
		t.interval, t.window, t.per = b.interval, b.window, b.per
	}
	t.burst = min(a.burst, b.burst, maxTolerance/t.interval)
	t.tolerance = t.burst * t.interval
	return t
}

// Interval is the time in which one request is earned, T.
func (b Bound) Interval() time.Duration { return time.Duration(b.interval) }

// Burst is how many may come at once.
func (b Bound) Burst() int64 { return b.burst }

// Window is how many requests a fixed window has, and how long it is.
func (b Bound) Window() (most int64, per time.Duration) { return b.window, time.Duration(b.per) }

// Answer is what was decided.
type Answer struct {
	Admitted bool
	// Remaining is how many more would be admitted now, at least 0.
	Remaining int64
	// Reset of what was admitted is when everything is earned back; of what was refused, when as many are
	// admitted as were asked for, if nobody else comes first.
	Reset time.Duration
}

// Take asks for n requests at now (ns since 1970), 0 or more, and returns the state to keep. A refusal takes
// nothing.
func (b Bound) Take(s State, now, n int64) (State, Answer) {
	tat := max(int64(s), now)
	room := now + b.tolerance - tat // negative after a bound was lowered
	if n > b.burst || b.interval == 0 || n*b.interval > room {
		return s, Answer{Remaining: b.fit(room), Reset: time.Duration(b.short(n) - room)}
	}
	tat += n * b.interval
	return State(tat), Answer{Admitted: true, Remaining: b.fit(room - n*b.interval), Reset: time.Duration(tat - now)}
}

// Give undoes a Take of n that was admitted, or earns back n before their time.
func (b Bound) Give(s State, now, n int64) State {
	return State(max(0, int64(s)-b.short(n)))
}

// Over says whether a state says as much as none.
func Over(s State, now int64) bool { return int64(s) <= now }

func (b Bound) fit(room int64) int64 {
	if room <= 0 || b.interval == 0 {
		return 0
	}
	return room / b.interval
}

// short is n*T, and burst*T of more than the burst.
func (b Bound) short(n int64) int64 { return min(n, b.burst) * b.interval }

// The state of a fixed window: its end in seconds since 1970, and how much was taken.
func windowState(end, taken int64) State { return State(uint64(end)<<32 | uint64(taken)) }

func (s State) window() (end, taken int64) { return int64(s >> 32), int64(s & math.MaxUint32) }

// TakeWindow is Take with fixed windows, which begin at multiples of per since 1970.
func (b Bound) TakeWindow(s State, now, n int64) (State, Answer) {
	end, taken := b.current(s, now)
	reset := time.Duration(end*int64(time.Second) - now)
	if n > b.window-taken {
		return s, Answer{Remaining: max(0, b.window-taken), Reset: reset}
	}
	return windowState(end, taken+n), Answer{Admitted: true, Remaining: b.window - taken - n, Reset: reset}
}

// GiveWindow is Give with fixed windows. What an ended window had taken is nobody's any more.
func (b Bound) GiveWindow(s State, now, n int64) State {
	if OverWindow(s, now) {
		return s
	}
	end, taken := s.window()
	return windowState(end, max(0, taken-n))
}

// OverWindow is Over with fixed windows.
func OverWindow(s State, now int64) bool {
	end, _ := s.window()
	return end*int64(time.Second) <= now
}

// current is the window at now, and what was taken in it. One that was begun under a longer per ends as the new
// one does.
func (b Bound) current(s State, now int64) (end, taken int64) {
	per := max(1, b.per/int64(time.Second))
	end = (now/int64(time.Second)/per + 1) * per
	if OverWindow(s, now) {
		return end, 0
	}
	begun, taken := s.window()
	return min(end, begun), taken
}

// Scale is n times f in whole requests, at least 1.
func Scale(n int64, f float64) int64 {
	return int64(min(max(1, float64(n)*f), 1<<62))
}
