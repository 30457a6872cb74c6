package health

import (
	"encoding/json"
	"math"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

func TestSlowStart(t *testing.T) {
	for _, c := range []struct {
		age, over time.Duration
		want      float64
	}{
		{0, 30 * time.Second, 0.1},
		{-time.Hour, 30 * time.Second, 0.1},
		{3 * time.Second, 30 * time.Second, 0.1},
		{15 * time.Second, 30 * time.Second, 0.5},
		{30 * time.Second, 30 * time.Second, 1},
		{time.Hour, 30 * time.Second, 1},
		{0, 0, 1},
	} {
		if got := SlowStart(c.age, c.over); got != c.want {
			t.Errorf("SlowStart(%v, %v) = %v, want %v", c.age, c.over, got, c.want)
		}
	}
}

func TestScoreAndDecay(t *testing.T) {
	for _, c := range []struct {
		name                                      string
		e, capacity, reference, configured, share float64
		score, decay                              float64
	}{
		{"nothing known", 1, 0, 0, 0, 0, 1, 1},
		{"as good as ever", 1, 100, 100, 0, 0, 1, 1},
		{"better than ever", 1, 150, 100, 0, 0, 1, 1},
		{"half of it", 1, 50, 100, 0, 0, 0.5, 0.5},
		{"a step is 0.05", 1, 52, 100, 0, 0, 0.5, 0.5},
		{"errors", 0.5, 100, 100, 0, 0, 0.5, 0.5},
		{"errors of one not measured", 0.4, 0, 0, 0, 0, 0.4, 0.4},
		{"next to nothing", 1, 1, 100, 0, 0, 0, 0.1},
		// A quarter of 400/s is 100/s; 93 % of 80/s of capacity are there for it.
		{"configured", 1, 80, 100, 400, 0.25, 0.8, 0.75},
		{"configured, ample", 1, 1000, 1000, 400, 0.25, 1, 1},
		{"configured, not measured", 1, 0, 0, 400, 0.25, 1, 1},
	} {
		if got := Score(c.e, c.capacity, c.reference); got != c.score {
			t.Errorf("%s: score %v, want %v", c.name, got, c.score)
		}
		if got := Decay(c.e, c.capacity, c.reference, c.configured, c.share); got != c.decay {
			t.Errorf("%s: decay %v, want %v", c.name, got, c.decay)
		}
	}
}

// The reference is the peak of the hour, less the highest twentieth, and forgets what is older.
func TestReferenceRemembersAnHour(t *testing.T) {
	var r Reference
	now := time.Unix(1e9, 0)
	observe := func(minutes int, capacity float64) {
		for range minutes * 30 {
			now = now.Add(2 * time.Second)
			r.Observe(now, 0, capacity)
		}
	}
	observe(1, 500)
	if r.P95() != 0 && r.P95() != 500 {
		t.Errorf("after a minute %v", r.P95())
	}
	observe(20, 100)
	observe(30, 50)
	if r.P95() != 100 {
		t.Errorf("an hour of 100, then 50: %v, want 100", r.P95())
	}
	observe(60, 50)
	if r.P95() != 50 {
		t.Errorf("an hour of 50: %v, want 50", r.P95())
	}
	// Silence is not a sample, and makes old ones no younger.
	now = now.Add(30 * time.Minute)
	observe(10, 20)
	if r.P95() != 50 {
		t.Errorf("50 is 40 minutes old: %v, want 50", r.P95())
	}
	now = now.Add(3 * time.Hour)
	observe(2, 10)
	if r.P95() != 10 {
		t.Errorf("all else is hours old: %v, want 10", r.P95())
	}
}

func TestReferenceIgnoresTheFirstMinute(t *testing.T) {
	var r Reference
	r.Observe(time.Unix(1e9, 0), 0, 1000)
	if r.P95() != 0 {
		t.Errorf("a first estimate is a reference: %v", r.P95())
	}
}

func TestReferenceJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Reference
		now := time.Unix(rapid.Int64Range(0, 1e10).Draw(t, "start"), 0)
		for _, gap := range rapid.SliceOfN(rapid.IntRange(-5, 90), 0, 200).Draw(t, "gaps") {
			now = now.Add(time.Duration(gap) * time.Minute)
			r.Observe(now, time.Duration(gap&31)*time.Second, rapid.Float64Range(-1, 1e6).Draw(t, "capacity"))
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Reference
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if back != r {
			t.Fatalf("%+v\ncame back as %+v\nby %s", r, back, b)
		}
	})
}

func TestReferenceJSONRefuses(t *testing.T) {
	long, _ := json.Marshal(referenceJSON{Minute: 1, Samples: make([]float32, slots+1)})
	for _, bad := range []string{`{"minute":-1}`, `{"minute":9223372036854775807}`, `{"minute":1,"samples":[-1]}`, string(long), `[]`} {
		r := Reference{p95: 7}
		if err := json.Unmarshal([]byte(bad), &r); err == nil || r != (Reference{p95: 7}) {
			t.Errorf("%.40s: %v, %+v", bad, err, r)
		}
	}
}

func TestReferenceIsBounded(t *testing.T) {
	if size := unsafe.Sizeof(Reference{}); size > 256 {
		t.Errorf("%d bytes", size)
	}
	var r Reference
	now := time.Unix(1e9, 0)
	for _, c := range []float64{math.NaN(), math.Inf(1), -1, 0, 1e300} {
		now = now.Add(time.Minute)
		r.Observe(now, 0, c)
	}
	if r.P95() != 0 {
		t.Errorf("a reference of %v from nothing", r.P95())
	}
}
