package main

import "time"

// proxy is an Envoy: worker threads that pick independently over hosts that they share.
type proxy struct {
	clock   *clock
	hosts   []*host
	workers []picker
	ejected int
	orca    bool // weights are its own: client_side_weighted_round_robin
	// routeTimeout: the deadline is Envoy's own and its answer a 504, which outlier detection counts. Else
	// it is the client that goes away, of which outlier detection learns nothing.
	routeTimeout bool
}

// host is a server as one proxy sees it, over all of its workers.
type host struct {
	server   *server
	instance int
	weight   uint32
	active   int
	since    time.Duration // when the proxy learned of it
	gone     bool          // removed; requests under way still end
	outlier  outlier
	orca     orcaHost
}

// deadline is how long clients wait.
const deadline = time.Second

// request is one request of a client, sent once: there are no retries.
type request struct {
	arrived time.Duration
	work    float64 // seconds at speed 1
	luck    float64 // in [0, 1): it fails where the error rate is higher

	proxy     *proxy
	host      *host
	abandoned func() // what a server has to do when the client is gone, if anything
	over      func(r *request, how outcome)
	settled   bool
}

type outcome int

const (
	succeeded outcome = iota
	failed
	timedOut
	outcomes
)

// endpoint is one line of what the control plane sends.
type endpoint struct {
	server   *server
	instance int
	weight   uint32
}

// update is an EDS update. A host that stays keeps what is known of it; each update makes all workers
// rebuild their schedules, whatever it changed.
func (p *proxy) update(endpoints []endpoint) {
	was := p.hosts
	p.hosts, p.ejected = make([]*host, 0, len(endpoints)), 0
	for _, e := range endpoints {
		h := &host{server: e.server, instance: e.instance, weight: 1, since: p.clock.now}
		for _, old := range was {
			if old.server == e.server && old.instance == e.instance {
				h = old
			}
		}
		if !p.orca {
			h.weight = e.weight
		}
		if h.outlier.ejected {
			p.ejected++
		}
		p.hosts = append(p.hosts, h)
	}
	for _, old := range was {
		old.gone = true
	}
	for _, h := range p.hosts {
		h.gone = false
	}
	p.rebuild()
}

func (p *proxy) rebuild() {
	healthy := make([]*host, 0, len(p.hosts))
	for _, h := range p.hosts {
		if !h.outlier.ejected {
			healthy = append(healthy, h)
		}
	}
	for _, w := range p.workers {
		w.rebuild(healthy)
	}
}

// send lets one of the workers pick and passes the request on.
func (p *proxy) send(r *request, worker int) {
	r.proxy = p
	if len(p.hosts) == p.ejected {
		r.settle(failed)
		return
	}
	r.host = p.workers[worker].pick()
	r.host.active++
	p.clock.after(deadline, r.timeout)
	r.host.server.accept(r)
}

// answer is the server's.
func (r *request) answer(ok bool) {
	if r.settled {
		return
	}
	r.host.active--
	r.proxy.observe(r.host, ok)
	if r.proxy.orca {
		r.host.orca.take(r.proxy.clock.now, r.host.server.orca)
	}
	if ok {
		r.settle(succeeded)
	} else {
		r.settle(failed)
	}
}

func (r *request) timeout() {
	if r.settled {
		return
	}
	r.host.active--
	if r.abandoned != nil {
		r.abandoned()
	}
	if r.proxy.routeTimeout {
		r.proxy.observe(r.host, false)
	}
	r.settle(timedOut)
}

func (r *request) settle(how outcome) {
	r.settled = true
	r.over(r, how)
}
