package scrape

import (
	"math"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"
)

// observations are response times from 10 µs to 100 s, spread evenly over their logarithm.
func drawObservations(t *rapid.T, name string) []float64 {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) float64 {
		return math.Pow(10, rapid.Float64Range(-5, 2).Draw(t, "log10"))
	}), 1, 60).Draw(t, name)
}

// exact is the observation of the rank that histogram_quantile aims at.
func exact(observed []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(observed))
	return sorted[int(math.Ceil(q*float64(len(sorted))))-1]
}

// read is the state of a client_golang histogram.
func read(t interface{ Fatal(...any) }, h prometheus.Histogram) histogram {
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		t.Fatal(err)
	}
	decoded, why := histogramOf(m.GetHistogram(), 1000)
	if why != "" {
		t.Fatal(why)
	}
	return decoded
}

var bounds = []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10}

// TestClassicQuantile: the estimate is in the bucket of the exact quantile, linearly as far in as the
// rank is among the bucket's observations.
func TestClassicQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Buckets: bounds})
		earlier, observed := drawObservations(t, "earlier"), drawObservations(t, "observed")
		for _, v := range earlier {
			h.Observe(v)
		}
		before := read(t, h)
		for _, v := range observed {
			h.Observe(v)
		}
		window := read(t, h).since(before)
		q := rapid.SampledFrom([]float64{0.5, 0.9}).Draw(t, "q")
		got := window.quantile(q)

		i, _ := slices.BinarySearch(bounds, exact(observed, q))
		if i == len(bounds) {
			if got != bounds[len(bounds)-1] {
				t.Fatalf("beyond the last bound: %v", got)
			}
			return
		}
		lower := 0.0
		if i > 0 {
			lower = bounds[i-1]
		}
		below, within := 0, 0
		for _, v := range observed {
			switch {
			case v <= lower:
				below++
			case v <= bounds[i]:
				within++
			}
		}
		want := lower + (bounds[i]-lower)*(q*float64(len(observed))-float64(below))/float64(within)
		if math.Abs(got-want) > 1e-9*want {
			t.Fatalf("quantile %v: %v, want %v", q, got, want)
		}
	})
}

// TestNativeQuantile: the estimate is off by no more than the width of a bucket.
func TestNativeQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		factor := rapid.SampledFrom([]float64{1.01, 1.1, 1.5, 2}).Draw(t, "factor")
		h := prometheus.NewHistogram(prometheus.HistogramOpts{NativeHistogramBucketFactor: factor})
		for _, v := range drawObservations(t, "earlier") {
			h.Observe(v)
		}
		before := read(t, h)
		observed := drawObservations(t, "observed")
		for _, v := range observed {
			h.Observe(v)
		}
		window := read(t, h).since(before).(*native)
		if total := window.zero + sumOf(window.buckets); total != float64(len(observed)) {
			t.Fatalf("%v observations in the window, want %d", total, len(observed))
		}
		for _, q := range []float64{0.5, 0.9} {
			got, want := window.quantile(q), exact(observed, q)
			if ratio := max(got/want, want/got); !(ratio <= factor*1.000001) {
				t.Fatalf("quantile %v: %v, want %v within a factor of %v", q, got, want, factor)
			}
		}
	})
}

func sumOf(buckets []bucket) (sum float64) {
	for _, b := range buckets {
		sum += b.count
	}
	return sum
}

// TestNativeInterpolation pins the formula: with n observations in one bucket the quantile is
// lower * (upper/lower)^q, here between 1 and 2.
func TestNativeInterpolation(t *testing.T) {
	n := &native{schema: 0, buckets: []bucket{{index: 1, count: 10}}}
	if got := n.quantile(0.5); math.Abs(got-math.Sqrt2) > 1e-12 {
		t.Errorf("quantile %v, want the geometric mean of 1 and 2", got)
	}
	n = &native{zeroThreshold: 0.01, zero: 10}
	if got := n.quantile(0.5); math.Abs(got-0.005) > 1e-12 {
		t.Errorf("quantile %v, want the middle of the zero bucket", got)
	}
	// A threshold inside a bucket.
	n = &native{zeroThreshold: 1.9, zero: 5, buckets: []bucket{{index: 1, count: 5}}}
	if low, high := n.quantile(0.5), n.quantile(0.6); low != 1.9 || high < 1.9 || high > 2 {
		t.Errorf("quantiles %v and %v across the threshold 1.9", low, high)
	}
}

// TestNativeArithmetic: what was added can be told apart again, whatever the resolutions.
func TestNativeArithmetic(t *testing.T) {
	draw := func(t *rapid.T, name string) *native {
		n := &native{
			schema:        rapid.Int32Range(-2, 5).Draw(t, name+" schema"),
			zeroThreshold: rapid.SampledFrom([]float64{0, 0.25, 1}).Draw(t, name+" threshold"),
			zero:          float64(rapid.IntRange(0, 5).Draw(t, name+" zero")),
		}
		for _, index := range slices.Sorted(slices.Values(rapid.SliceOfDistinct(rapid.Int32Range(-60, 60), rapid.ID).Draw(t, name+" indices"))) {
			if n.bound(index-1) >= n.zeroThreshold {
				n.buckets = append(n.buckets, bucket{index, float64(rapid.IntRange(1, 9).Draw(t, name+" count"))})
			}
		}
		return n
	}
	same := func(a, b *native) bool {
		return a.schema == b.schema && a.zeroThreshold == b.zeroThreshold && a.zero == b.zero && slices.Equal(a.buckets, b.buckets)
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		ab, ba := a.plus(b).(*native), b.plus(a).(*native)
		if !same(ab, ba) {
			t.Fatalf("a+b %+v, b+a %+v", ab, ba)
		}
		if want := a.zero + b.zero + sumOf(a.buckets) + sumOf(b.buckets); ab.zero+sumOf(ab.buckets) != want {
			t.Fatalf("%v observations, want %v", ab.zero+sumOf(ab.buckets), want)
		}
		if !slices.IsSortedFunc(ab.buckets, func(x, y bucket) int { return int(x.index - y.index) }) {
			t.Fatalf("not in order: %+v", ab.buckets)
		}
		back := ab.since(a).(*native)
		if want := b.coarser(ab.schema).widerZero(ab.zeroThreshold); !same(back, want) {
			t.Fatalf("a+b since a is %+v, want %+v", back, want)
		}
	})
}

// TestNativeWidens: client_golang limits the buckets by lowering the resolution and widening the zero
// bucket; a window across that loses nothing and takes nothing twice.
func TestNativeWidens(t *testing.T) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  10,
		NativeHistogramMaxZeroThreshold: 1,
	})
	before := read(t, h)
	for i := range 300 {
		h.Observe(math.Pow(1.05, float64(i%150)-100))
		now := read(t, h)
		grown, ok := now.since(before).(*native)
		if !ok || grown.zero+sumOf(grown.buckets) != 1 {
			t.Fatalf("observation %d: %+v after %+v counts %+v", i, now, before, grown)
		}
		before = now
	}
	if n := before.(*native); n.schema >= 3 || len(n.buckets) > 10 {
		t.Fatalf("the histogram did not widen: %+v", n)
	}
}

func TestResets(t *testing.T) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Buckets: bounds})
	n := prometheus.NewHistogram(prometheus.HistogramOpts{NativeHistogramBucketFactor: 1.1})
	again := prometheus.NewHistogram(prometheus.HistogramOpts{Buckets: bounds})
	nAgain := prometheus.NewHistogram(prometheus.HistogramOpts{NativeHistogramBucketFactor: 1.1})
	for range 10 {
		h.Observe(0.02)
		n.Observe(0.02)
	}
	for range 3 {
		again.Observe(3)
		nAgain.Observe(3)
	}
	if got := read(t, again).since(read(t, h)).(*classic); got.counts[len(got.counts)-1] != 3 {
		t.Errorf("classic: %+v", got)
	}
	if got := read(t, nAgain).since(read(t, n)).(*native); sumOf(got.buckets) != 3 {
		t.Errorf("native: %+v", got)
	}
	if got := read(t, n).since(read(t, h)); got != nil {
		t.Errorf("a native histogram compared with a classic one: %+v", got)
	}
}

func TestRefusedHistograms(t *testing.T) {
	up := func(bound float64, count uint64) *dto.Bucket {
		return &dto.Bucket{UpperBound: &bound, CumulativeCount: &count}
	}
	count := func(c float64) *dto.Bucket {
		return &dto.Bucket{UpperBound: new(1.0), CumulativeCountFloat: &c}
	}
	span := func(offset int32, length uint32) []*dto.BucketSpan {
		return []*dto.BucketSpan{{Offset: &offset, Length: &length}}
	}
	for _, test := range []struct {
		name string
		h    *dto.Histogram
		want rejection
	}{
		{"none", nil, rejectedType},
		{"empty", &dto.Histogram{SampleCount: new(uint64(3))}, rejectedBuckets},
		{"unsorted", &dto.Histogram{Bucket: []*dto.Bucket{up(2, 5), up(1, 3)}, SampleCount: new(uint64(5))}, ""},
		{"decreasing", &dto.Histogram{Bucket: []*dto.Bucket{up(1, 5), up(2, 3)}}, rejectedDecreasing},
		{"count below the last bucket", &dto.Histogram{Bucket: []*dto.Bucket{up(1, 5)}, SampleCount: new(uint64(3))}, rejectedDecreasing},
		{"bound twice", &dto.Histogram{Bucket: []*dto.Bucket{up(1, 5), up(1, 5)}}, rejectedDuplicate},
		{"NaN bound", &dto.Histogram{Bucket: []*dto.Bucket{up(math.NaN(), 5)}}, rejectedNaN},
		{"NaN count", &dto.Histogram{Bucket: []*dto.Bucket{count(math.NaN())}}, rejectedNaN},
		{"infinite count", &dto.Histogram{Bucket: []*dto.Bucket{count(math.Inf(1))}}, rejectedInf},
		{"negative count", &dto.Histogram{Bucket: []*dto.Bucket{count(-1)}}, rejectedNegative},
		{"endless span", &dto.Histogram{PositiveSpan: span(0, math.MaxUint32), PositiveDelta: []int64{1}}, rejectedBuckets},
		{"counts without a span", &dto.Histogram{PositiveSpan: span(0, 1), PositiveDelta: []int64{1, 1}}, rejectedBuckets},
		{"index out of range", &dto.Histogram{PositiveSpan: span(math.MaxInt32, 1), PositiveDelta: []int64{1}}, rejectedBuckets},
		{"negative native count", &dto.Histogram{PositiveSpan: span(0, 2), PositiveDelta: []int64{1, -2}}, rejectedNegative},
		{"negative observations", &dto.Histogram{NegativeSpan: span(0, 1), NegativeDelta: []int64{1}}, rejectedNegative},
		{"unknown schema", &dto.Histogram{Schema: new(int32(-53)), PositiveSpan: span(0, 1), PositiveDelta: []int64{1}}, rejectedBuckets},
		{"NaN threshold", &dto.Histogram{ZeroThreshold: new(math.NaN()), PositiveSpan: span(0, 1), PositiveDelta: []int64{1}}, rejectedBuckets},
		{"nothing observed", &dto.Histogram{PositiveSpan: span(0, 0)}, ""},
	} {
		if _, got := histogramOf(test.h, 100); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	for _, h := range []histogram{&classic{[]float64{math.Inf(1)}, []float64{5}}, &classic{[]float64{1, math.Inf(1)}, []float64{0, 0}}, &native{}} {
		if got := h.quantile(0.5); !math.IsNaN(got) {
			t.Errorf("%+v: quantile %v of nothing", h, got)
		}
	}
}
