package health

import (
	"errors"
	"math"
	"time"
)

const (
	// enoughRequests is how many requests a share of failures is told from: a window with fewer is
	// filled up with older ones.
	enoughRequests = 20
	// oldestFailure bounds how old they are.
	oldestFailure = 2 * time.Minute
	// commonRequests is how many requests with the Service's own share of failures stand for what is
	// not known of one endpoint: its first failure condemns nobody.
	commonRequests = 10
	// tolerated is how much more than the others an endpoint may fail.
	tolerated = 0.02
	// trimPower is how much harder than its failures an endpoint is trimmed: who fails 11 % more than
	// tolerated keeps half.
	trimPower = 6
	// TrimFloor is the smallest trim: what is left tells when it recovers.
	TrimFloor = 0.02
)

// Failures are the requests of an endpoint by which its failures are judged: those of the latest
// window, or if that has fewer than 20, about the last 20 of the last 2 min. The zero Failures
// knows of none. It holds no pointer and is copied by assignment.
type Failures struct {
	// To is the end of the latest window in it, and Over how far back it reaches.
	To   time.Time     `json:"to,omitzero"`
	Over time.Duration `json:"over,omitzero"`
	// Failed of Requests failed.
	Failed   float64 `json:"failed,omitempty"`
	Requests float64 `json:"requests,omitempty"`
}

// Observe takes in a window (from, to] and reports whether it did. A window that overlaps the one
// before counts only if it is enough by itself: else its requests would count twice.
func (f *Failures) Observe(from, to time.Time, failed, requests float64) bool {
	switch {
	case !to.After(f.To) || !(requests > 0):
		return false
	case requests >= enoughRequests || f.Requests == 0:
		*f = Failures{To: to, Over: to.Sub(from), Failed: failed, Requests: requests}
		return true
	case from.Before(f.To):
		return false
	}
	// Older requests are taken to be spread evenly over their time.
	part := min(1, (enoughRequests-requests)/f.Requests)
	if reach := oldestFailure - to.Sub(f.To); reach < f.Over {
		part = min(part, max(0, float64(reach)/float64(f.Over)))
	}
	over := to.Sub(from)
	if part > 0 {
		over = to.Sub(f.To) + time.Duration(part*float64(f.Over))
	}
	*f = Failures{To: to, Over: over, Failed: failed + part*f.Failed, Requests: requests + part*f.Requests}
	return true
}

// Share is the part of the requests that failed, 0 if there were none.
func (f Failures) Share() float64 {
	if f.Requests == 0 {
		return 0
	}
	return f.Failed / f.Requests
}

// Trim is the part of its weight that an endpoint keeps for its failures, in [0.02, 1], common being
// the share of failures that is usual in its Service:
//
//	p = (failed + 10 common) / (requests + 10)    z = max(0, p - common - 0.02)
//	e = max(0.02, (1-z)^6)
//
// p is the posterior mean of a share under a beta prior worth ten requests. What all endpoints have in
// common, a broken dependency or bad requests, trims none of them.
func (f Failures) Trim(common float64) float64 {
	p := (f.Failed + commonRequests*common) / (f.Requests + commonRequests)
	z := max(0, p-common-tolerated)
	return max(TrimFloor, math.Pow(1-z, trimPower))
}

// Check finds numbers that Observe would not have written.
func (f Failures) Check() error {
	if !(f.Failed >= 0 && f.Failed <= f.Requests && f.Requests <= math.MaxFloat64) || f.Over < 0 {
		return errors.New("want 0 <= failed <= requests, and a time that is not negative")
	}
	return nil
}
