package scrape

import (
	"math"

	dto "github.com/prometheus/client_model/go"
)

const (
	// The resolutions of native histograms with exponential buckets.
	minSchema = -4
	maxSchema = 8
	// maxIndex is beyond every bucket that has a float64 bound: 1074 powers of two, 2^8 buckets each.
	maxIndex = 1 << 20
)

// native is a histogram with exponential buckets: bucket i holds (base^(i-1), base^i] where
// base = 2^(2^-schema), and the zero bucket [0, zeroThreshold]. Negative observations are rejected:
// a response time has none. (Prometheus "Native Histograms" specification.)
type native struct {
	schema        int32
	zeroThreshold float64
	zero          float64
	buckets       []bucket // by increasing index, counts not cumulative
}

type bucket struct {
	index int32
	count float64
}

func nativeOf(h *dto.Histogram, maxBuckets int) (histogram, rejection) {
	schema, threshold := h.GetSchema(), h.GetZeroThreshold()
	if schema < minSchema || schema > maxSchema || !(threshold >= 0) || math.IsInf(threshold, 1) {
		return nil, rejectedBuckets
	}
	for _, delta := range h.GetNegativeDelta() {
		if delta != 0 {
			return nil, rejectedNegative
		}
	}
	for _, count := range h.GetNegativeCount() {
		if count != 0 {
			return nil, rejectedNegative
		}
	}
	counts := h.GetPositiveCount()
	if len(counts) == 0 {
		counts = make([]float64, 0, len(h.GetPositiveDelta()))
		sum := int64(0)
		for _, delta := range h.GetPositiveDelta() {
			sum += delta
			counts = append(counts, float64(sum))
		}
	}
	if len(counts) > maxBuckets {
		return nil, rejectedLimit
	}
	n := &native{schema: schema, zeroThreshold: threshold, zero: either(h.GetZeroCountFloat(), h.GetZeroCount())}
	if why := badCount(n.zero); why != "" {
		return nil, why
	}
	n.buckets = make([]bucket, 0, len(counts))
	index := int64(0)
	for _, span := range h.GetPositiveSpan() {
		// The length of a span is any 32-bit number; the counts that must be there for it bound the work.
		if int64(span.GetLength()) > int64(len(counts)) {
			return nil, rejectedBuckets
		}
		index += int64(span.GetOffset())
		if len(n.buckets) > 0 && span.GetOffset() < 0 {
			return nil, rejectedBuckets
		}
		for range span.GetLength() {
			if index < -maxIndex || index > maxIndex {
				return nil, rejectedBuckets
			}
			if why := badCount(counts[0]); why != "" {
				return nil, why
			}
			if counts[0] > 0 {
				n.buckets = append(n.buckets, bucket{int32(index), counts[0]})
			}
			counts, index = counts[1:], index+1
		}
	}
	if len(counts) > 0 {
		return nil, rejectedBuckets
	}
	return n, ""
}

func (n *native) since(before histogram) histogram {
	b, ok := before.(*native)
	if !ok {
		return nil
	}
	// An exporter that has too many buckets makes them wider, or widens the zero bucket. Neither
	// loses observations, so the earlier state is brought to the newer form. The other way round
	// happens when the exporter has begun again.
	if b.schema < n.schema || b.zeroThreshold > n.zeroThreshold {
		return n
	}
	b = b.coarser(n.schema).widerZero(n.zeroThreshold)
	if n.zero < b.zero {
		return n
	}
	d := &native{schema: n.schema, zeroThreshold: n.zeroThreshold, zero: n.zero - b.zero, buckets: make([]bucket, 0, len(n.buckets))}
	old := b.buckets
	for _, now := range n.buckets {
		if len(old) > 0 && old[0].index < now.index {
			return n // a populated bucket is gone
		}
		if len(old) > 0 && old[0].index == now.index {
			if now.count < old[0].count {
				return n
			}
			now.count -= old[0].count
			old = old[1:]
		}
		if now.count > 0 {
			d.buckets = append(d.buckets, now)
		}
	}
	if len(old) > 0 {
		return n
	}
	return d
}

func (n *native) plus(other histogram) histogram {
	o, ok := other.(*native)
	if !ok {
		return nil
	}
	schema, threshold := min(n.schema, o.schema), max(n.zeroThreshold, o.zeroThreshold)
	a, b := n.coarser(schema).widerZero(threshold), o.coarser(schema).widerZero(threshold)
	sum := &native{schema: schema, zeroThreshold: threshold, zero: a.zero + b.zero, buckets: make([]bucket, 0, len(a.buckets)+len(b.buckets))}
	for x, y := a.buckets, b.buckets; len(x) > 0 || len(y) > 0; {
		switch {
		case len(y) == 0 || len(x) > 0 && x[0].index < y[0].index:
			sum.buckets, x = append(sum.buckets, x[0]), x[1:]
		case len(x) == 0 || y[0].index < x[0].index:
			sum.buckets, y = append(sum.buckets, y[0]), y[1:]
		default:
			sum.buckets = append(sum.buckets, bucket{x[0].index, x[0].count + y[0].count})
			x, y = x[1:], y[1:]
		}
	}
	return sum
}

// coarser is n at a lower resolution: every step down makes one bucket of the two with indices 2k-1
// and 2k, which is k.
func (n *native) coarser(schema int32) *native {
	if schema >= n.schema {
		return n
	}
	shift := n.schema - schema
	merged := &native{schema: schema, zeroThreshold: n.zeroThreshold, zero: n.zero, buckets: make([]bucket, 0, len(n.buckets))}
	for _, b := range n.buckets {
		index := (b.index-1)>>shift + 1
		if last := len(merged.buckets) - 1; last >= 0 && merged.buckets[last].index == index {
			merged.buckets[last].count += b.count
			continue
		}
		merged.buckets = append(merged.buckets, bucket{index, b.count})
	}
	return merged
}

// widerZero is n with the buckets at or below threshold in the zero bucket. Exporters widen it to the
// bound of a bucket; one that the threshold divides goes into the zero bucket whole, as most of an
// exponential bucket's width is near its upper bound.
func (n *native) widerZero(threshold float64) *native {
	if threshold <= n.zeroThreshold {
		return n
	}
	wider := &native{schema: n.schema, zeroThreshold: threshold, zero: n.zero, buckets: n.buckets}
	within := threshold * (1 - 1e-9) // bounds are powers that exporters round differently
	for len(wider.buckets) > 0 && n.bound(wider.buckets[0].index-1) < within {
		wider.zero += wider.buckets[0].count
		wider.buckets = wider.buckets[1:]
	}
	return wider
}

// bound is the upper bound of the bucket with that index.
func (n *native) bound(index int32) float64 {
	return math.Exp2(math.Ldexp(float64(index), int(-n.schema)))
}

// quantile interpolates exponentially in the bucket that holds the rank, and linearly in the zero
// bucket, as PromQL's histogram_quantile does since Prometheus 3.
func (n *native) quantile(q float64) float64 {
	total := n.zero
	for _, b := range n.buckets {
		total += b.count
	}
	if !(total > 0) {
		return math.NaN()
	}
	rank := q * total
	if n.zero > 0 && rank <= n.zero {
		return n.zeroThreshold * rank / n.zero
	}
	below := n.zero
	for i, b := range n.buckets {
		if rank > below+b.count && i < len(n.buckets)-1 {
			below += b.count
			continue
		}
		lower, upper := n.bound(b.index-1), n.bound(b.index)
		// What is in the bucket is above the zero bucket, wherever the bucket's own bound is.
		lower = max(lower, n.zeroThreshold)
		if lower == 0 || upper <= lower || math.IsInf(upper, 1) {
			return lower
		}
		return lower * math.Pow(upper/lower, min(1, (rank-below)/b.count))
	}
	return n.zeroThreshold
}
