package scrape

import (
	"cmp"
	"math"
	"slices"

	dto "github.com/prometheus/client_model/go"
)

// histogram counts observations in buckets: of one series since its process started, or of all
// series in a window. Histograms are immutable.
type histogram interface {
	// since is what was observed after before, an earlier state of the same series. Counts that fell
	// mean that the series began again: all that h holds is then new. It is nil if the two cannot be
	// compared, because the buckets are others.
	since(before histogram) histogram
	// plus is the sum; nil if the two cannot be added.
	plus(other histogram) histogram
	// quantile estimates the q-quantile, 0 < q < 1, in the unit of the observations; NaN if there
	// are none, or no bound to say anything.
	quantile(q float64) float64
}

// histogramOf reads a series; the rejection says why it cannot be used.
func histogramOf(h *dto.Histogram, maxBuckets int) (histogram, rejection) {
	if h == nil {
		return nil, rejectedType
	}
	// The rule of client_model's metrics.proto for telling the two kinds apart.
	native := len(h.GetPositiveSpan()) > 0 || len(h.GetNegativeSpan()) > 0 ||
		h.GetZeroThreshold() > 0 || h.GetZeroCount() > 0 || h.GetZeroCountFloat() > 0
	if native {
		return nativeOf(h, maxBuckets)
	}
	return classicOf(h, maxBuckets)
}

// classic is a histogram with chosen bounds.
type classic struct {
	bounds []float64 // increasing, the last one +Inf
	counts []float64 // cumulative: observations at or below the bound
}

func classicOf(h *dto.Histogram, maxBuckets int) (histogram, rejection) {
	buckets := h.GetBucket()
	if len(buckets) == 0 {
		return nil, rejectedBuckets
	}
	if len(buckets) > maxBuckets {
		return nil, rejectedLimit
	}
	if !slices.IsSortedFunc(buckets, byBound) {
		buckets = slices.Clone(buckets)
		slices.SortFunc(buckets, byBound)
	}
	c := &classic{
		bounds: make([]float64, 0, len(buckets)+1),
		counts: make([]float64, 0, len(buckets)+1),
	}
	for _, b := range buckets {
		bound, count := b.GetUpperBound(), either(b.GetCumulativeCountFloat(), b.GetCumulativeCount())
		if math.IsNaN(bound) {
			return nil, rejectedNaN
		}
		if why := badCount(count); why != "" {
			return nil, why
		}
		if n := len(c.bounds); n > 0 {
			if bound == c.bounds[n-1] {
				return nil, rejectedDuplicate
			}
			if count < c.counts[n-1] {
				return nil, rejectedDecreasing
			}
		}
		c.bounds, c.counts = append(c.bounds, bound), append(c.counts, count)
	}
	if last := len(c.bounds) - 1; !math.IsInf(c.bounds[last], 1) {
		total := either(h.GetSampleCountFloat(), h.GetSampleCount())
		if why := badCount(total); why != "" {
			return nil, why
		}
		if total < c.counts[last] {
			return nil, rejectedDecreasing
		}
		c.bounds, c.counts = append(c.bounds, math.Inf(1)), append(c.counts, total)
	}
	return c, ""
}

func byBound(a, b *dto.Bucket) int { return cmp.Compare(a.GetUpperBound(), b.GetUpperBound()) }

// either is the value of a pair of fields of which the float, if not zero, overrides the integer.
func either(float float64, integer uint64) float64 {
	if float != 0 {
		return float
	}
	return float64(integer)
}

func (c *classic) since(before histogram) histogram {
	b, ok := before.(*classic)
	if !ok || !slices.Equal(b.bounds, c.bounds) {
		return nil
	}
	counts := make([]float64, len(c.counts))
	for i := range counts {
		if c.counts[i] < b.counts[i] {
			return c
		}
		counts[i] = c.counts[i] - b.counts[i]
	}
	return &classic{c.bounds, counts}
}

func (c *classic) plus(other histogram) histogram {
	o, ok := other.(*classic)
	if !ok || !slices.Equal(o.bounds, c.bounds) {
		return nil
	}
	counts := make([]float64, len(c.counts))
	for i := range counts {
		counts[i] = c.counts[i] + o.counts[i]
	}
	return &classic{c.bounds, counts}
}

// quantile interpolates linearly in the bucket that holds the rank, from 0 in the first, and answers
// the highest finite bound for a rank above it: the estimate of PromQL's histogram_quantile
// (prometheus/promql/quantile.go).
func (c *classic) quantile(q float64) float64 {
	last := len(c.bounds) - 1
	// The buckets of a page are not read at one moment, so the increment up to one bound can be a
	// little more than that up to the next; a running maximum makes it a distribution again.
	total := slices.Max(c.counts)
	if total <= 0 || last == 0 {
		return math.NaN()
	}
	rank, below, lower := q*total, 0.0, 0.0
	for i, upper := range c.bounds[:last] {
		count := max(c.counts[i], below)
		if count >= rank && count > below {
			if i == 0 && upper <= 0 {
				return upper
			}
			return lower + (upper-lower)*(rank-below)/(count-below)
		}
		below, lower = count, upper
	}
	return c.bounds[last-1]
}
