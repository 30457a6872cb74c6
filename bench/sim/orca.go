package main

import (
	"slices"
	"time"
)

// client_side_weighted_round_robin: each proxy makes weights of its own from the load that servers
// report with every response (ORCA), and serves them by ROUND_ROBIN.
//
// Source: source/extensions/load_balancing_policies/common/orca_weight_manager.cc and
// client_side_weighted_round_robin/client_side_weighted_round_robin_lb.cc. The periods are their
// defaults. Unlike gRPC's policy of the same design (gRFC A58), which has a static stride scheduler,
// Envoy refreshes its usual schedule whenever a weight has changed. The penalty is gRFC A58's default;
// Envoy's is 0, with which a server that fails fast would look idle.
const (
	orcaBlackout   = 10 * time.Second
	orcaExpiration = 180 * time.Second
	orcaPeriod     = time.Second
	orcaPenalty    = 1.0
)

// orcaReport is what a server says of itself: rates over the second before.
type orcaReport struct {
	requestsPerSecond, errorsPerSecond, cpu float64
}

// orcaHost is what a proxy keeps of a host's reports.
type orcaHost struct {
	weight uint32
	since  time.Duration // the first report, since the last expiration
	last   time.Duration
	known  bool
}

// weight is requests/s over utilisation, which errors raise; false if the report says nothing.
func (r orcaReport) weight() (uint32, bool) {
	if r.requestsPerSecond <= 0 {
		return 0, false
	}
	utilisation := r.cpu + orcaPenalty*r.errorsPerSecond/r.requestsPerSecond
	if utilisation <= 0 {
		return 0, false
	}
	return uint32(r.requestsPerSecond / utilisation), true
}

func (o *orcaHost) take(now time.Duration, r orcaReport) {
	w, ok := r.weight()
	if !ok {
		return
	}
	if !o.known {
		o.since, o.known = now, true
	}
	o.weight, o.last = w, now
}

// reweigh is the proxy's timer. A host without a valid weight gets the median of those that have one.
func (p *proxy) reweigh() {
	var valid []uint32
	for _, h := range p.hosts {
		o := &h.orca
		if o.known && p.clock.now-o.last > orcaExpiration {
			o.known = false
		}
		if o.valid(p.clock.now) {
			valid = append(valid, max(1, o.weight))
		}
	}
	usual := uint32(1)
	if n := len(valid); n > 0 {
		slices.Sort(valid)
		usual = valid[n/2]
		if n%2 == 0 {
			usual = (valid[n/2-1] + valid[n/2]) / 2
		}
	}
	changed := false
	for _, h := range p.hosts {
		w := usual
		if h.orca.valid(p.clock.now) {
			w = max(1, h.orca.weight)
		}
		changed = changed || w != h.weight
		h.weight = w
	}
	if changed {
		p.rebuild()
	}
}

func (o *orcaHost) valid(now time.Duration) bool { return o.known && now-o.since >= orcaBlackout }

// reporter keeps a server's report up to date.
func (s *server) reporter() func() {
	var before counters
	instance := -1
	return func() {
		s.account()
		now := s.said
		if instance == s.instance {
			period := orcaPeriod.Seconds()
			r := orcaReport{
				requestsPerSecond: (now.done + now.failed - before.done - before.failed) / period,
				errorsPerSecond:   (now.failed - before.failed) / period,
				cpu:               (now.cpuSeconds() - before.cpuSeconds()) / period / float64(s.workers),
			}
			if s.saidCPU > 0 {
				r.cpu = s.saidCPU
			}
			if r.requestsPerSecond > 0 {
				s.orca = r
			}
		}
		before, instance = now, s.instance
	}
}
