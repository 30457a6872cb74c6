package health

import (
	"math"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestTrim(t *testing.T) {
	for _, c := range []struct{ failed, requests, common, want float64 }{
		{0, 0, 0, 1},
		{0, 1000, 0, 1},
		{1, 20, 0, 0.923}, // p = 1/30, z = 0.0133
		{100, 100, 0, 0.02},
		{110, 990, 0, 0.586}, // p = 0.11, z = 0.09... ^6
		{500, 1000, 0.5, 1},
		{10, 1000, 0, 1}, // within what is tolerated
		{1, 1, 0, 0.64},  // one failure condemns nobody
	} {
		f := Failures{Failed: c.failed, Requests: c.requests}
		if got := f.Trim(c.common); math.Abs(got-c.want) > 0.02 {
			t.Errorf("%v of %v failed, %v usual: %v, want %v", c.failed, c.requests, c.common, got, c.want)
		}
	}
}

// The window is enough by itself from 20 requests on; with fewer, older ones fill it up, each counted
// once, and none longer than 2 min.
func TestFailuresFillUp(t *testing.T) {
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	var f Failures
	f.Observe(at(0), at(6), 10, 10)
	if f.Observe(at(2), at(8), 10, 10) {
		t.Error("requests count twice")
	}
	f.Observe(at(6), at(12), 0, 10)
	if f.Failed != 10 || f.Requests != 20 || f.Over != 12*time.Second {
		t.Errorf("%+v, want 10 of 20 over 12 s", f)
	}
	f.Observe(at(12), at(18), 0, 10)
	if f.Failed != 5 || f.Requests != 20 {
		t.Errorf("%+v, want the older half forgotten", f)
	}
	if f.Observe(at(14), at(20), 3, 30); f.Failed != 3 || f.Requests != 30 {
		t.Errorf("%+v, want the one window that is enough", f)
	}
	if f.Observe(at(190), at(196), 0, 1); f.Failed != 0 || f.Requests != 1 {
		t.Errorf("%+v, want all that is older than 2 min forgotten", f)
	}
	if f.Observe(at(100), at(106), 1, 1) || f.Observe(at(200), at(206), 0, 0) {
		t.Error("an older window, or an empty one, counts")
	}
}

func TestFailuresCheck(t *testing.T) {
	for _, f := range []Failures{{Failed: -1}, {Failed: 2, Requests: 1}, {Requests: math.Inf(1)}, {Requests: math.NaN()}, {Over: -1}} {
		if f.Check() == nil {
			t.Errorf("%+v is accepted", f)
		}
	}
}
