package demo

import (
	"slices"
	"time"
)

// Report is what became of the requests of a period.
type Report struct {
	From, To time.Duration // since the start of the load
	// Requests that were to be sent; OK of them were answered with 2xx, Good of those in time.
	Requests, OK, Good int
	// ByStatus counts them by status code, or NoAnswer, TimedOut, Dropped.
	ByStatus map[int]int
	// P50 to P999 and Max are of the latencies of requests that were answered with 2xx or timed out: a
	// quick failure does not make a server look fast.
	P50, P90, P99, P999, Max time.Duration
	// Samples are the requests themselves, in the order in which they ended.
	Samples []Sample
}

func newReport(from, to, deadline time.Duration, samples []Sample) Report {
	r := Report{From: from, To: to, Requests: len(samples), ByStatus: map[int]int{}, Samples: samples}
	latencies := make([]time.Duration, 0, len(samples))
	for _, s := range samples {
		r.ByStatus[s.Status]++
		ok := s.Status >= 200 && s.Status < 300
		if ok {
			r.OK++
			if s.Latency <= deadline {
				r.Good++
			}
		}
		if ok || s.Status == TimedOut {
			latencies = append(latencies, s.Latency)
		}
	}
	slices.Sort(latencies)
	r.P50, r.P90 = quantile(latencies, 0.5), quantile(latencies, 0.9)
	r.P99, r.P999 = quantile(latencies, 0.99), quantile(latencies, 0.999)
	r.Max = quantile(latencies, 1)
	return r
}

// Failed counts the requests that were not answered with 2xx.
func (r Report) Failed() int { return r.Requests - r.OK }

// Goodput is the share of the requests, 0 to 1, that were answered with 2xx within the deadline; 0 if
// there were none.
func (r Report) Goodput() float64 {
	if r.Requests == 0 {
		return 0
	}
	return float64(r.Good) / float64(r.Requests)
}
