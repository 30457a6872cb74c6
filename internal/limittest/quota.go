package limittest

import (
	"slices"
	"time"
)

// Quota is a rate with a burst.
type Quota struct {
	Requests float64
	Per      time.Duration
	Burst    float64
}

// Admits is how many requests a limit of that rate lets through that come at these times, which it sorts. Of a client
// that asks for more than there is at any time that is the burst and the rate times the time; one that is kept
// waiting, by a machine that is busy with other things, does not get what it did not ask for in time.
func (q Quota) Admits(times []time.Time) (n float64) {
	slices.SortFunc(times, time.Time.Compare)
	tokens := q.Burst
	for i, at := range times {
		if i > 0 {
			tokens = min(q.Burst, tokens+q.Requests*at.Sub(times[i-1]).Seconds()/q.Per.Seconds())
		}
		if tokens >= 1 {
			tokens--
			n++
		}
	}
	return n
}
