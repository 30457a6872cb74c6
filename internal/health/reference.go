package health

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"
)

// slots is the number of samples of a Reference: one a minute for an hour.
const slots = 60

// maxMinute is far from every date and from overflow.
const maxMinute = 1e12

// Reference is the capacity that an endpoint has shown it can have: the 95th percentile of its own
// capacity over the last hour, from one sample a minute. The zero Reference knows nothing. It is
// 256 bytes, holds no pointer, and is copied by assignment.
type Reference struct {
	minute  int64 // of the latest sample, in minutes since 1970 of the endpoint's own phase; 0: none
	samples [slots]float32
	p95     float32
}

// Observe takes a sample of the capacity, more than 0, if a minute has begun since the last one. The
// first call only notes the minute: a first estimate is too rough to be held against an endpoint for
// an hour. phase, less than a minute, spreads the work of many endpoints.
func (r *Reference) Observe(now time.Time, phase time.Duration, capacity float64) {
	minute := min(maxMinute, max(1, now.Add(phase).Unix()/60))
	if r.minute == 0 || minute < r.minute {
		r.minute = minute
		return
	}
	if minute == r.minute || !(capacity > 0) || capacity > math.MaxFloat32 {
		return
	}
	for skipped := r.minute + 1; skipped < minute && skipped <= r.minute+slots; skipped++ {
		r.samples[skipped%slots] = 0
	}
	r.minute = minute
	r.samples[minute%slots] = float32(capacity)
	r.p95 = r.percentile95()
}

// P95 is the reference, 0 while there is no sample.
func (r *Reference) P95() float64 { return float64(r.p95) }

func (r *Reference) percentile95() float32 {
	var sorted [slots]float32
	n := 0
	for _, s := range r.samples {
		if s > 0 {
			sorted[n] = s
			n++
		}
	}
	if n == 0 {
		return 0
	}
	slices.Sort(sorted[:n])
	return sorted[(95*n+99)/100-1]
}

// referenceJSON is a Reference at rest: the samples of the last hour, the oldest first, 0 for a minute
// without one.
type referenceJSON struct {
	Minute  int64     `json:"minute"`
	Samples []float32 `json:"samples,omitempty"`
}

// MarshalJSON writes the samples, the oldest first.
func (r Reference) MarshalJSON() ([]byte, error) {
	at := referenceJSON{Minute: r.minute}
	for i := r.minute - slots + 1; i <= r.minute; i++ {
		if s := r.samples[((i%slots)+slots)%slots]; s > 0 || len(at.Samples) > 0 {
			at.Samples = append(at.Samples, s)
		}
	}
	return json.Marshal(at)
}

// UnmarshalJSON reads what MarshalJSON wrote. It refuses more than an hour of samples and any that is
// negative; r is then unchanged.
func (r *Reference) UnmarshalJSON(data []byte) error {
	var at referenceJSON
	if err := json.Unmarshal(data, &at); err != nil {
		return err
	}
	if len(at.Samples) > slots {
		return fmt.Errorf("samples: %d of them, want at most %d", len(at.Samples), slots)
	}
	if at.Minute < 0 || at.Minute > maxMinute {
		return fmt.Errorf("minute: %d, want 0 to %d minutes since 1970", at.Minute, int64(maxMinute))
	}
	read := Reference{minute: at.Minute}
	for i, s := range at.Samples {
		if s < 0 {
			return fmt.Errorf("samples[%d]: %v is negative", i, s)
		}
		slot := at.Minute - int64(len(at.Samples)-1-i)
		read.samples[((slot%slots)+slots)%slots] = s
	}
	read.p95 = read.percentile95()
	*r = read
	return nil
}
