package demo

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestSpearman(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b []float64
		want float64
	}{
		{"same order, other scale", []float64{1, 2, 3, 4}, []float64{1, 10, 11, 1000}, 1},
		{"opposite", []float64{1, 2, 3}, []float64{9, 8, 7}, -1},
		// 1 - 6*sum(d^2)/(n(n^2-1)) with d = 0, 1, 1, 0, 0.
		{"neighbours swapped", []float64{1, 2, 3, 4, 5}, []float64{1, 3, 2, 4, 5}, 0.9},
		// Ranks 1.5 1.5 3 4 against 1 2 3 4.
		{"ties", []float64{5, 5, 6, 7}, []float64{1, 2, 3, 4}, 4.5 / math.Sqrt(4.5*5)},
		{"constant", []float64{1, 1, 1}, []float64{1, 2, 3}, 0},
		{"nothing", nil, nil, 0},
	} {
		if got := Spearman(c.a, c.b); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSpearmanKnowsOnlyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(rapid.Float64Range(-10, 10), 2, 20).Draw(t, "a")
		b := rapid.SliceOfN(rapid.Float64Range(-10, 10), len(a), len(a)).Draw(t, "b")
		doubled := make([]float64, len(a))
		for i := range a {
			doubled[i] = 2*a[i] + 1
			if i > 0 && a[i] != a[0] && doubled[i] == doubled[0] {
				t.Skip("too close to tell apart after scaling")
			}
		}
		rho := Spearman(a, b)
		if math.Abs(rho) > 1+1e-12 || math.Abs(rho-Spearman(b, a)) > 1e-12 {
			t.Fatalf("rho %v, swapped %v", rho, Spearman(b, a))
		}
	})
}

func TestMaxOverMean(t *testing.T) {
	for want, values := range map[float64][]float64{1: {3, 3, 3}, 2: {0, 1, 2}, 0: {0, 0}} {
		if got := MaxOverMean(values); got != want {
			t.Errorf("MaxOverMean(%v) = %v, want %v", values, got, want)
		}
	}
	if got := MaxOverMean(nil); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestMedian(t *testing.T) {
	if got := Median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("odd: %v", got)
	}
	if got := Median([]float64{9, 1, 5, 3}); got != 4 {
		t.Errorf("even: %v", got)
	}
	if got := Median(nil); !math.IsNaN(got) {
		t.Errorf("nothing: %v", got)
	}
}
