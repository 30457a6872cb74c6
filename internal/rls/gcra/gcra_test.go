package gcra

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const epoch = int64(1_800_000_000_000_000_000)

func drawRate(t *rapid.T) (requests, burst int64, per time.Duration) {
	return rapid.Int64Range(1, 1_000_000).Draw(t, "requests"), rapid.Int64Range(1, 2_000).Draw(t, "burst"),
		time.Duration(rapid.Int64Range(1, 86_400).Draw(t, "per")) * time.Second
}

// TestNoSequenceIsAdmittedMore holds any sequence of requests, in any window of it, against burst + t/T.
func TestNoSequenceIsAdmittedMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		requests, burst, per := drawRate(t)
		b := NewBound(requests, per, burst, 1)
		type admitted struct{ at, n int64 }
		var all []admitted
		var s State
		now := epoch
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += rapid.Int64Range(0, 4*int64(b.Interval())).Draw(t, "pause")
			n := rapid.Int64Range(0, burst+1).Draw(t, "n")
			var a Answer
			if s, a = b.Take(s, now, n); a.Admitted {
				all = append(all, admitted{now, n})
			} else if _, later := b.Take(s, now+int64(a.Reset), min(n, burst)); !later.Admitted {
				t.Fatalf("%d were refused at %d, and again after the %v that were said", n, now, a.Reset)
			}
			if a.Remaining < 0 || a.Remaining > burst {
				t.Fatalf("%d remain of a burst of %d", a.Remaining, burst)
			}
		}
		for i := range all {
			sum := int64(0)
			for _, a := range all[i:] {
				sum += a.n
				if most := burst + (a.at-all[i].at)/int64(b.Interval()); sum > most {
					t.Fatalf("%d in %v: expected %d at most", sum, time.Duration(a.at-all[i].at), most)
				}
			}
		}
	})
}

// TestASaturatingSequenceIsAdmittedExactly asks again and again, as a client does that takes all it can get.
func TestASaturatingSequenceIsAdmittedExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		requests, burst, per := drawRate(t)
		factor := rapid.SampledFrom([]float64{1, 0.5, 0.2, 1.5}).Draw(t, "factor")
		b := NewBound(requests, per, burst, factor)
		var s State
		admitted, now, last := int64(0), epoch, epoch
		for range 3*b.Burst() + 100 {
			var a Answer
			if s, a = b.Take(s, now, 1); a.Admitted {
				admitted, last = admitted+1, now
				continue
			}
			now += min(int64(a.Reset), rapid.Int64Range(1, int64(b.Interval())).Draw(t, "patience"))
		}
		if expected := b.Burst() + (last-epoch)/int64(b.Interval()); admitted != expected {
			t.Fatalf("%d were admitted in %v: expected %d", admitted, time.Duration(last-epoch), expected)
		}
		if rate := float64(requests) * factor / per.Seconds(); rate < 1e6 {
			if had := float64(time.Second) / float64(b.Interval()); math.Abs(had/rate-1) > 0.001 {
				t.Fatalf("the rate is %v: expected %v", had, rate)
			}
		}
	})
}

// TestABoundThatChangesActsAtOnce keeps the share of the burst that was used.
func TestABoundThatChangesActsAtOnce(t *testing.T) {
	slow, fast := NewBound(10, time.Second, 10, 1), NewBound(100, time.Second, 100, 1)
	var s State
	for range 10 {
		s, _ = slow.Take(s, epoch, 1)
	}
	wait := func(b Bound) time.Duration { _, a := b.Take(s, epoch, 1); return a.Reset }
	if wait(slow) != 100*time.Millisecond || wait(fast) != 10*time.Millisecond {
		t.Fatalf("the next is admitted after %v, and after raising the rate %v: expected 100ms and 10ms", wait(slow), wait(fast))
	}
	half := State(epoch + int64(time.Second)/2)
	_, before := slow.Take(half, epoch, 0)
	_, after := fast.Take(half, epoch, 0)
	if before.Remaining != 5 || after.Remaining != 50 {
		t.Fatalf("of a key that used half, %d and %d remain: expected half of each burst", before.Remaining, after.Remaining)
	}
	short := NewBound(100, time.Second, 10, 1)
	if _, a := short.Take(half, epoch, 1); a.Admitted || a.Remaining != 0 || a.Reset != 410*time.Millisecond {
		t.Fatalf("a burst below what is used gave %+v: expected a refusal for 410ms", a)
	}
}

func TestGivingBackUndoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		requests, burst, per := drawRate(t)
		b := NewBound(requests, per, burst, 1)
		s := State(epoch + rapid.Int64Range(-int64(time.Hour), b.tolerance).Draw(t, "tat"))
		n := rapid.Int64Range(0, burst).Draw(t, "n")
		after, a := b.Take(s, epoch, n)
		if !a.Admitted {
			return
		}
		undone := b.Give(after, epoch, n)
		if max(undone, State(epoch)) != max(s, State(epoch)) {
			t.Fatalf("%d became %d, and then %d", s, after, undone)
		}
		s, _ = b.TakeWindow(0, epoch, min(n, 1))
		if after, a = b.TakeWindow(s, epoch, n); a.Admitted && b.GiveWindow(after, epoch, n) != s {
			t.Fatalf("a window of %d taken did not become what it was", n)
		}
	})
}

func TestExtremes(t *testing.T) {
	for _, c := range []struct {
		requests, burst int64
		per             time.Duration
		factor          float64
	}{
		{1, 1e9, 24 * time.Hour, 0.01}, {1e9, 1e9, time.Second, 10}, {1e9, 1, 24 * time.Hour, 1}, {1, 1, 365 * 24 * time.Hour, 0.2},
	} {
		b := NewBound(c.requests, c.per, c.burst, c.factor)
		if b.Interval() < 1 || b.Burst() < 1 || b.tolerance < 1 {
			t.Errorf("%+v became %+v", c, b)
		}
		for _, n := range []int64{0, 1, b.Burst(), b.Burst() + 1, math.MaxUint32} {
			s, a := b.Take(0, epoch, n)
			if a.Admitted != (n <= b.Burst()) || int64(s) < 0 || a.Remaining < 0 || a.Reset < 0 {
				t.Errorf("%+v: %d gave %d, %+v", c, n, s, a)
			}
		}
	}
	if _, a := (Bound{}).Take(0, epoch, 1); a.Admitted {
		t.Error("no bound at all admits")
	}
}

func TestWindows(t *testing.T) {
	b := NewBound(3, time.Minute, 100, 1)
	start := epoch - epoch%int64(time.Minute)
	var s State
	admit := func(at time.Duration, of Bound) (n int) {
		for {
			var a Answer
			if s, a = of.TakeWindow(s, start+int64(at), 1); !a.Admitted {
				if want := time.Minute - at%time.Minute; a.Reset != want || a.Remaining != 0 {
					t.Fatalf("%v: %+v: expected a reset after %v", at, a, want)
				}
				return n
			}
			n++
		}
	}
	if n := admit(59*time.Second, b); n != 3 {
		t.Errorf("the first window admitted %d, expected 3", n)
	}
	if n := admit(59*time.Second, NewBound(5, time.Minute, 5, 1)); n != 2 {
		t.Errorf("raised to 5, the window admitted %d more, expected 2", n)
	}
	if n := admit(59*time.Second, NewBound(2, time.Minute, 2, 1)); n != 0 {
		t.Errorf("lowered to 2, the window admitted %d more", n)
	}
	if OverWindow(s, start+int64(59*time.Second)) || !OverWindow(s, start+int64(time.Minute)) {
		t.Error("a state is over when its window is")
	}
	if n := admit(time.Minute, b); n != 3 {
		t.Errorf("the next window admitted %d, expected 3", n)
	}
}

func TestTighter(t *testing.T) {
	slow, fast := NewBound(10, time.Second, 50, 1), NewBound(100, time.Second, 20, 1)
	for _, b := range []Bound{Tighter(slow, fast), Tighter(fast, slow)} {
		if b.Interval() != slow.Interval() || b.Burst() != 20 || b.window != 10 {
			t.Errorf("%+v", b)
		}
	}
}
