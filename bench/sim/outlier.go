package main

import "time"

// Outlier detection of an Envoy as the control plane configures it: five consecutive 5xx eject a host
// for 30 s, longer each time, at most a fifth of the hosts, but always one.
//
// Source: source/common/upstream/outlier_detection_impl.cc (DetectorImpl: ejectHost, onIntervalTimer,
// checkHostForUneject).
const (
	consecutive5xx   = 5
	detectorInterval = 10 * time.Second
	baseEjection     = 30 * time.Second
	maxEjection      = 300 * time.Second
	maxEjectionPart  = 0.2
)

// outlier is what a proxy's detector knows of a host.
type outlier struct {
	errors    int // in a row
	ejected   bool
	ejectedAt time.Duration
	backoff   int
}

// observe takes an answer into account.
func (p *proxy) observe(h *host, ok bool) {
	if ok {
		h.outlier.errors = 0
		return
	}
	h.outlier.errors++
	if h.outlier.errors < consecutive5xx || h.outlier.ejected || h.gone {
		return
	}
	h.outlier.errors = 0
	if p.ejected > 0 && float64(p.ejected+1) > maxEjectionPart*float64(len(p.hosts)) {
		return
	}
	p.ejected++
	h.outlier.ejected, h.outlier.ejectedAt = true, p.clock.now
	if time.Duration(h.outlier.backoff)*baseEjection < maxEjection+baseEjection {
		h.outlier.backoff++
	}
	p.rebuild()
}

// review lets hosts back whose time is over, and forgives those that behaved.
func (p *proxy) review() {
	back := false
	for _, h := range p.hosts {
		o := &h.outlier
		if o.ejected && p.clock.now-o.ejectedAt >= min(time.Duration(o.backoff)*baseEjection, maxEjection) {
			o.ejected, o.errors = false, 0
			p.ejected--
			back = true
		}
		if !o.ejected && o.backoff > 0 {
			o.backoff--
		}
	}
	if back {
		p.rebuild()
	}
}
