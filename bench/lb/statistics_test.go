package main

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func near1(got, want float64) bool { return math.Abs(got/want-1) < 1e-3 }

// TestRatioOfPairs is against a computation by hand: the logarithms of 0.8, 0.9 and 1.0 are -0.22314,
// -0.10536 and 0, their mean is -0.10950, their standard deviation 0.11163, and t of two degrees of
// freedom 2.920, which makes half an interval of 0.18819.
func TestRatioOfPairs(t *testing.T) {
	c := compare([]float64{80, 180, 500}, []float64{100, 200, 500})
	if c.Pairs != 3 || !near1(c.Mean, 0.89628) || !near1(c.Low, 0.74254) || !near1(c.High, 1.08184) {
		t.Errorf("%+v, want 0.896 (0.743-1.082)", c)
	}
	if c.String() != "x 0.90 (0.74-1.08)" {
		t.Errorf("written as %s", c)
	}
	if one := compare([]float64{1}, []float64{2}); one.Mean != 0.5 || !math.IsNaN(one.Low) || one.String() != "x 0.50 (one pair)" {
		t.Errorf("one pair: %+v", one)
	}
	if none := compare(nil, nil); !math.IsNaN(none.Mean) || none.String() != "-" {
		t.Errorf("no pair: %+v", none)
	}
}

func TestBalanceOfAWindow(t *testing.T) {
	r := record{}
	for s := range 12 {
		busy := ratio(0.5)
		if s >= 5 {
			busy = 0.9
		}
		r.Utilisation = append(r.Utilisation, []ratio{busy, 0.3})
	}
	// Slices of 5 s: 0.5 over 0.4, 0.9 over 0.6; the last two seconds are no slice.
	if got := r.imbalance5s(); !near1(got, (1.25+1.5)/2) {
		t.Errorf("median over 5 s %v, want 1.375", got)
	}
	// (5 x 0.5 + 7 x 0.9) / 12 = 0.73333 over 0.51667.
	if got := r.imbalance(); !near1(got, 1.41935) {
		t.Errorf("whole window %v, want 1.419", got)
	}
}

// TestSettling: of four servers the first loses its traffic by a fault after 5 s, at once or slowly.
func TestSettling(t *testing.T) {
	window := func(share func(second int) float64) record {
		r := record{FaultAt: 5 * time.Second}
		for s := range 60 {
			mine := uint64(1000 * share(s))
			r.Arrivals = append(r.Arrivals, []uint64{mine, (1000 - mine) / 3, (1000 - mine) / 3, (1000 - mine) / 3})
		}
		return r
	}
	for name, test := range map[string]struct {
		share func(int) float64
		after float64
	}{
		"at once": {func(s int) float64 {
			if s < 5 {
				return 0.4
			}
			return 0.1
		}, 0},
		// From 0.4 at 5 s by 0.02 a second to 0.1 at 20 s. The mean over three seconds around second 19 is
		// 0.12, too much, and around second 20, the fifteenth after that of the fault, 0.107.
		"to nothing": {func(s int) float64 {
			if s < 8 {
				return 0.4
			}
			return 0
		}, 4},
		"slowly": {func(s int) float64 { return min(0.4, max(0.1, 0.4-0.02*float64(s-5))) }, 15},
		"never": {func(s int) float64 {
			if s < 5 {
				return 0.4
			}
			return 0.1 + 0.1*float64(s/5%2)
		}, math.Inf(1)},
		"nobody loses": {func(int) float64 { return 0.25 }, math.NaN()},
	} {
		r := window(test.share)
		if got := r.settled(); got != test.after && !(math.IsNaN(got) && math.IsNaN(test.after)) {
			t.Errorf("%s: %v s, want %v", name, got, test.after)
		}
	}
}

// TestSettledGoesByWeightsWhereTheyAreKnown: requests that never rest do not matter then.
func TestSettledGoesByWeightsWhereTheyAreKnown(t *testing.T) {
	r := &record{FaultAt: 5 * time.Second}
	for s := range 40 {
		r.Arrivals = append(r.Arrivals, []uint64{uint64(100 - 50*(s%2)), 100})
		share := ratio(0.5)
		if s >= 9 {
			share = 0.2
		}
		r.Weights = append(r.Weights, []ratio{share, 1 - share})
	}
	if got := r.settled(); got != 4 {
		t.Errorf("%v s, want 4", got)
	}
}

func TestHistogramQuantiles(t *testing.T) {
	var h histogram
	for ms := 1; ms <= 1000; ms++ {
		h.add(time.Duration(ms) * time.Millisecond)
	}
	for q, want := range map[float64]float64{0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		if got := milliseconds(h.quantile(q)); math.Abs(got/want-1) > 0.0051 {
			t.Errorf("quantile %v is %v, want %v to half a hundredth", q, got, want)
		}
	}
	var empty histogram
	if empty.quantile(0.99) != 0 {
		t.Error("a quantile of nothing is not 0")
	}
}

func TestHistogramIsReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h, read histogram
		for _, us := range rapid.SliceOf(rapid.IntRange(0, 20_000_000)).Draw(t, "us") {
			h.add(time.Duration(us) * time.Microsecond)
		}
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &read); err != nil {
			t.Fatal(err)
		}
		if h != read {
			t.Fatalf("%s is read as another", text)
		}
	})
	var h histogram
	if err := json.Unmarshal([]byte(`[[99999,1]]`), &h); err == nil {
		t.Error("a bucket that there is not is accepted")
	}
}
