package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// picker is the load balancer of one Envoy worker thread. rebuild is told of every change of hosts or
// weights; pick may be called only while there is a host.
//
// Source: source/extensions/load_balancing_policies/common/load_balancer_impl.cc (EdfLoadBalancerBase:
// refresh, chooseHostOnce). A refresh makes the schedule anew, after as many picks as the seed says that
// was drawn when the worker began: always the same place. While all weights are equal there is no
// schedule, and the policy has a way of its own to pick.
type picker interface {
	rebuild(hosts []*host)
	pick() *host
}

func weightsAreEqual(hosts []*host) bool {
	for _, h := range hosts {
		if h.weight != hosts[0].weight {
			return false
		}
	}
	return true
}

// roundRobin is ROUND_ROBIN (source/extensions/load_balancing_policies/round_robin/round_robin_lb.h).
type roundRobin struct {
	seed     uint64
	hosts    []*host
	index    uint64
	schedule *edf
}

func newRoundRobin(random *rand.Rand) *roundRobin {
	seed := random.Uint64()
	return &roundRobin{seed: seed, index: seed}
}

func (p *roundRobin) rebuild(hosts []*host) {
	p.hosts, p.schedule = hosts, nil
	if !weightsAreEqual(hosts) {
		p.schedule = newEDF(hosts, func(h *host) float64 { return float64(h.weight) }, uint32(p.seed))
	}
}

func (p *roundRobin) pick() *host {
	if p.schedule != nil {
		return p.schedule.pick()
	}
	h := p.hosts[p.index%uint64(len(p.hosts))]
	p.index++
	return h
}

// leastRequest is LEAST_REQUEST with N_CHOICES of 2
// (source/extensions/load_balancing_policies/least_request/least_request_lb.cc): of two hosts drawn
// with replacement the one with fewer active requests, the first of equals; or, while weights differ or
// a host is in slow start, the schedule of weight/(active+1)^bias.
type leastRequest struct {
	clock     *clock
	seed      uint32
	bias      float64
	slowStart time.Duration // 0: none
	latest    time.Duration // when the last host came
	random    *rand.Rand
	hosts     []*host
	schedule  *edf
}

// slowStartFloor is the part of its weight that a host has at first (min_weight_percent).
const slowStartFloor = 0.1

func newLeastRequest(c *clock, random *rand.Rand, bias float64, slowStart time.Duration) *leastRequest {
	return &leastRequest{clock: c, seed: uint32(random.Uint64()), bias: bias, slowStart: slowStart, latest: -1, random: random}
}

// rebuild makes a schedule even of equal weights while a host is in slow start. Envoy comes back to two
// choices only when the next update finds no such host, be it hours later.
func (p *leastRequest) rebuild(hosts []*host) {
	p.hosts, p.schedule = hosts, nil
	for _, h := range hosts {
		if p.clock.now-h.since <= p.slowStart {
			p.latest = max(p.latest, h.since)
		}
	}
	if !weightsAreEqual(hosts) || p.warming() {
		p.schedule = newEDF(hosts, p.weight, p.seed)
	}
}

func (p *leastRequest) warming() bool {
	return p.slowStart > 0 && p.clock.now-p.latest <= p.slowStart
}

func (p *leastRequest) weight(h *host) float64 {
	w := float64(h.weight) / math.Pow(float64(h.active+1), p.bias)
	if age := p.clock.now - h.since; p.warming() && age < p.slowStart {
		w *= max(slowStartFloor, float64(max(time.Millisecond, age))/float64(p.slowStart))
	}
	return w
}

func (p *leastRequest) pick() *host {
	if p.schedule != nil {
		return p.schedule.pick()
	}
	first := p.hosts[p.random.IntN(len(p.hosts))]
	second := p.hosts[p.random.IntN(len(p.hosts))]
	if second.active < first.active {
		return second
	}
	return first
}
