package main

import (
	"testing"
	"time"
)

// A limit follows a loss of half in time, holds requests to about what is left, works off what piled up, remembers
// what it found, and comes back when the servers do.
func TestALossIsFollowed(t *testing.T) {
	for _, k := range kinds {
		for _, loss := range []string{"shown", "hidden"} {
			t.Run(loss+"/"+k.name, func(t *testing.T) {
				t.Parallel()
				l := lose(k, loss == "hidden", 10*time.Second, 1, nil)
				t.Logf("%+v", l)
				if l.followed == 0 || l.followed > 12 {
					t.Errorf("followed after %v s, want up to 12", l.followed)
				}
				if l.well > 20 && l.next > 2.5 {
					t.Errorf("p99 is under twice the unloaded one from %v s on, and %v times that after 20 s", l.well, l.next)
				}
				if l.long > 2.6 || l.admitted < 105 || l.admitted > 135 {
					t.Errorf("p99 is %v times the unloaded one with %v requests/s, want under 2.6 with 105 to 135", l.long, l.admitted)
				}
				if l.idle > 0.65 {
					t.Errorf("the factor is %v after two minutes of little to do, want up to 0.65", l.idle)
				}
				if l.back < 50 || l.back > 180 {
					t.Errorf("back after %v s, want a step of 0.05 each 10 s", l.back)
				}
			})
		}
	}
}

// Who is busy without having lost anything is let do it.
func TestBusyServersAreLeftAlone(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			follows, lowest := beBusy(k, 1, true, 10*time.Second, 1, nil)
			stands, _ := beBusy(k, 1, false, 10*time.Second, 1, nil)
			if follows < 0.97*stands {
				t.Errorf("%v requests/s of %v are let in, the factor was %v", follows, stands, lowest)
			}
			if again, _ := beBusy(k, 1, true, 10*time.Second, 1, nil); again != follows {
				t.Errorf("%v requests/s, then %v with the same seed", follows, again)
			}
		})
	}
}
