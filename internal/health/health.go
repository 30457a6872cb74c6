// Package health turns what is known of one endpoint into the numbers other programs read: the factor
// of its slow start, its health_score and its qps_decay_factor. It is a pure leaf: functions of their
// arguments, and Reference, a small value that its owner keeps.
//
// It estimates nothing (package weights does) and does not judge whether an endpoint gets traffic.
package health

import (
	"math"
	"time"
)

const (
	// slowStartFloor is the part of its weight that an endpoint has at age 0: enough to warm its
	// caches, too little to hurt when it is not up to it yet.
	slowStartFloor = 0.1
	// headroom is the part of a capacity that may be planned with. At 0.93 of it a queue of several
	// workers is long but still bounded.
	headroom = 0.93
	// decayFloor is the lowest qps_decay_factor: a limiter never closes altogether.
	decayFloor = 0.1
	// steps per unit of the published numbers: they move by 0.05, so that noise is not news.
	steps = 20
)

// SlowStart is the part of its whole weight that an endpoint of the given age has:
// min(1, max(0.1, age/over)). Envoy's slow_start_config is the same law with aggression 1 and
// min_weight_percent 10 (envoy/config/cluster/v3/cluster.proto). With over = 0 it is 1.
func SlowStart(age, over time.Duration) float64 {
	if over <= 0 {
		return 1
	}
	return min(1, max(slowStartFloor, float64(age)/float64(over)))
}

// Score is the health_score: e * min(1, capacity/reference), in [0, 1] in steps of 0.05.
//
// e in [0, 1] is the part of the requests that do not fail by the endpoint's own fault. capacity and
// reference are in the same unit; where one of them is 0, not known, the score is e.
func Score(e, capacity, reference float64) float64 {
	return quantize(min(1, max(0, e)) * min(1, ratio(capacity, reference)))
}

// Decay is the qps_decay_factor: the part of its configured rate that a limiter should let through to
// the endpoint, in [0.1, 1] in steps of 0.05.
//
// With configured, the requests/s the whole Service is provisioned for, it is
// 0.93 * capacity * e / (configured * share), share being the endpoint's part of the traffic; with
// configured = 0 it is e * capacity/reference. capacity is in requests/s, 0 where it is not known;
// then the factor is e.
func Decay(e, capacity, reference, configured, share float64) float64 {
	e = min(1, max(0, e))
	if configured > 0 && share > 0 && capacity > 0 {
		e *= headroom * capacity / (configured * share)
	} else {
		e *= min(1, ratio(capacity, reference))
	}
	return quantize(min(1, max(decayFloor, e)))
}

// ratio is a/b, or 1 where one of them is not known.
func ratio(a, b float64) float64 {
	if a > 0 && b > 0 {
		return a / b
	}
	return 1
}

func quantize(v float64) float64 { return math.Round(v*steps) / steps }
