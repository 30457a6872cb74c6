package main

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// histogram of latencies in buckets that grow by a hundredth, so that a quantile is known to half of
// that.
type histogram struct {
	counts [buckets]uint32
	total  int
}

const (
	growth = 1.01
	// shortest is where the first bucket ends.
	shortest = 100 * time.Microsecond
	// buckets reach to 11 s, more than any client waits.
	buckets = 1168
)

func bucketOf(latency time.Duration) int {
	if latency <= shortest {
		return 0
	}
	return min(buckets-1, int(math.Ceil(math.Log(float64(latency)/float64(shortest))/math.Log(growth))))
}

// upper is where a bucket ends.
func upper(bucket int) time.Duration {
	return time.Duration(float64(shortest) * math.Pow(growth, float64(bucket)))
}

func (h *histogram) add(latency time.Duration) {
	h.counts[bucketOf(latency)]++
	h.total++
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// quantile is the middle of the bucket at the nearest rank, 0 of nothing. 0 < q <= 1.
func (h *histogram) quantile(q float64) time.Duration {
	rank := max(1, int(math.Ceil(q*float64(h.total)-1e-9)))
	below := 0
	for i, n := range h.counts {
		if below += int(n); n > 0 && below >= rank {
			return time.Duration(float64(upper(i)) / math.Sqrt(growth))
		}
	}
	return 0
}

// MarshalJSON writes [bucket, count] of those that are not empty.
func (h histogram) MarshalJSON() ([]byte, error) {
	pairs := [][2]int{}
	for i, n := range h.counts {
		if n > 0 {
			pairs = append(pairs, [2]int{i, int(n)})
		}
	}
	return json.Marshal(pairs)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *histogram) UnmarshalJSON(text []byte) error {
	var pairs [][2]int
	if err := json.Unmarshal(text, &pairs); err != nil {
		return fmt.Errorf("histogram: %w", err)
	}
	*h = histogram{}
	for _, p := range pairs {
		if p[0] < 0 || p[0] >= buckets || p[1] < 0 || p[1] > math.MaxUint32 {
			return fmt.Errorf("histogram: %v: want a bucket below %d and a count", p, buckets)
		}
		h.counts[p[0]] += uint32(p[1])
		h.total += p[1]
	}
	return nil
}
