package main

import "time"

// scenario is a fleet and what befalls it.
type scenario struct {
	name, what string
	// change alters the settings; happens schedules events, in parts of the window (share).
	change  func(*settings)
	happens func(*world)
	// settles is the part of the window after which nothing lasting changes any more, and befalls whom the
	// last lasting change befell; 0 and nil if weights have nothing to converge to.
	settles float64
	befalls func(*world) []*server
}

// one is the server that faults befall: its speed is in the middle.
const one = 2

func (w *world) theOne() []*server { return w.servers[one : one+1] }

// quarter is every fourth server.
func (w *world) quarter() []*server {
	var out []*server
	for i := 0; i < len(w.servers); i += 4 {
		out = append(out, w.servers[i])
	}
	return out
}

var scenarios = []scenario{
	{name: "even", what: "equal servers (2.5x), nothing happens",
		change: func(s *settings) { s.slowest, s.fastest = 2.5, 2.5 }},
	{name: "uneven", what: "speeds from 1x to 4x, nothing happens"},
	{name: "one-proxy", what: "12 servers of speeds from 1x to 4x behind one proxy of 2 workers, as in bench/lb; nothing happens",
		change: func(s *settings) { s.servers, s.proxies, s.pickers = 12, 1, 2 }},
	{name: "few-proxies", what: "uneven, behind 2 proxies of 4 workers",
		change: func(s *settings) { s.proxies, s.pickers = 2, 4 }},
	{name: "visible-step", what: "uneven; a quarter of the servers loses half of its speed, and CPU shows it", settles: 1. / 6, befalls: (*world).quarter,
		change: func(s *settings) { s.load = 0.65 },
		happens: func(w *world) {
			w.at(w.share(1./6), func() { each(w.quarter(), func(s *server) { s.visible = 0.5 }) })
		}},
	{name: "hidden-step", what: "the same, but CPU does not show it", settles: 1. / 6, befalls: (*world).quarter,
		change: func(s *settings) { s.load = 0.65 },
		happens: func(w *world) {
			w.at(w.share(1./6), func() { each(w.quarter(), func(s *server) { s.hidden = 0.5 }) })
		}},
	{name: "neighbours", what: "uneven; each server loses a random part of its speed, up to half, anew every 20 s on average; CPU shows it",
		change:  func(s *settings) { s.load = 0.5 },
		happens: func(w *world) { each(w.servers, w.neighbour) }},
	{name: "sinkhole-100", what: "uneven; one server fails all requests within 1 ms, for half of the window", settles: 2. / 3, befalls: (*world).theOne,
		happens: sinkhole(1)},
	{name: "sinkhole-30", what: "the same, but it fails 30 %", settles: 2. / 3, befalls: (*world).theOne, happens: sinkhole(0.3)},
	{name: "sinkhole-5", what: "the same, but it fails 5 %", settles: 2. / 3, befalls: (*world).theOne, happens: sinkhole(0.05)},
	{name: "black-hole", what: "uneven; one server answers nothing for a quarter of the window, though its metrics are there; the deadline is Envoy's own, so that outlier detection sees 504s", settles: 5. / 12, befalls: (*world).theOne,
		change: func(s *settings) { s.routeTimeout = true },
		happens: func(w *world) {
			w.at(w.share(1./6), func() { w.servers[one].blackHole = true })
			w.at(w.share(5./12), func() { w.servers[one].blackHole = false })
		}},
	{name: "pauses", what: "uneven; every server stops for 0.4 s every 10 s, at a phase of its own",
		change: func(s *settings) { s.load = 0.6 },
		happens: func(w *world) {
			for i, s := range w.servers {
				w.every(w.warmup+5*phase(i), 10*time.Second, func() { s.pause(400 * time.Millisecond) })
			}
		}},
	{name: "rolling-restart", what: "uneven; one server after the other leaves, is gone for 3 s and comes back with cold caches: at first it works three times as long",
		change: func(s *settings) { s.load = 0.6 },
		happens: func(w *world) {
			for i, s := range w.servers {
				w.at(w.share(float64(i)/float64(len(w.servers))), func() { w.restart(s) })
			}
		}},
	{name: "overload", what: "uneven; for a quarter of the window 1.2 times of what the fleet can serve is offered, then 60 %",
		change: func(s *settings) { s.load = 0.6 },
		happens: func(w *world) {
			w.at(w.share(1./6), func() { w.rate *= 2 })
			w.at(w.share(5./12), func() { w.rate /= 2 })
		}},
	{name: "metrics-30", what: "uneven; scrapes of 30 % of the servers fail from a sixth of the window on (ORCA does not scrape)", happens: silence(0.3)},
	{name: "metrics-50", what: "the same with half of the servers", happens: silence(0.5)},
	{name: "metrics-100", what: "the same with all servers", happens: silence(1)},
	{name: "control-down", what: "uneven; the control plane is gone for half of the window",
		happens: func(w *world) {
			w.at(w.share(1./6), func() { w.controlDown = true })
			w.at(w.share(2./3), func() { w.controlDown = false })
		}},
	{name: "square-wave", what: "uneven; a quarter of the servers loses half of its speed and gets it back, every 6 s; CPU shows it",
		change: func(s *settings) { s.load = 0.6 },
		happens: func(w *world) {
			w.every(w.warmup, 12*time.Second, func() { each(w.quarter(), func(s *server) { s.visible = 0.5 }) })
			w.every(w.warmup+6*time.Second, 12*time.Second, func() { each(w.quarter(), func(s *server) { s.visible = 0 }) })
		}},
	{name: "liar", what: "uneven; one server says that its CPU is 1 %, from a sixth of the window on", settles: 1. / 6, befalls: (*world).theOne,
		happens: func(w *world) { w.at(w.share(1./6), func() { w.servers[one].saidCPU = 0.01 }) }},
	{name: "chaos", what: "uneven, all at once: neighbours as above, a quarter loses half unseen for half of the window, one fails 30 % for a third of it, two pause for 0.4 s every 5 s, six restart, 30 % of the metrics are lost for the second half",
		change: func(s *settings) { s.load = 0.4 },
		happens: func(w *world) {
			each(w.servers, w.neighbour)
			w.at(w.share(1./6), func() { each(w.quarter(), func(s *server) { s.hidden = 0.5 }) })
			w.at(w.share(2./3), func() { each(w.quarter(), func(s *server) { s.hidden = 0 }) })
			w.at(w.share(1./4), func() { w.servers[one].errorRate = 0.3 })
			w.at(w.share(7./12), func() { w.servers[one].errorRate = 0 })
			for _, i := range []int{1, 7} {
				w.every(w.warmup+phase(i), 5*time.Second, func() { w.servers[i].pause(400 * time.Millisecond) })
			}
			for n := range 6 {
				s := w.servers[3+n*3]
				w.at(w.share(0.3+float64(n)/15), func() { w.restart(s) })
			}
			w.at(w.share(1./2), func() { w.mute(0.3) })
		}},
}

func each(servers []*server, do func(*server)) {
	for _, s := range servers {
		do(s)
	}
}

func sinkhole(part float64) func(*world) {
	return func(w *world) {
		w.at(w.share(1./6), func() { w.servers[one].errorRate = part })
		w.at(w.share(2./3), func() { w.servers[one].errorRate = 0 })
	}
}

func silence(part float64) func(*world) {
	return func(w *world) { w.at(w.share(1./6), func() { w.mute(part) }) }
}

// mute makes the scrapes of a part of the servers fail, spread over the fleet.
func (w *world) mute(part float64) {
	for i, s := range w.servers {
		s.mute = int(float64(i+1)*part+1e-9) > int(float64(i)*part+1e-9)
	}
}

// neighbour steals a random part of the server's speed, up to half, for 20 s on average, for ever.
func (w *world) neighbour(s *server) {
	w.after(seconds(20*w.chance.ExpFloat64()), func() {
		s.visible = w.chance.Float64() / 2
		w.neighbour(s)
	})
}

// restart takes the server out, ends its process two seconds later when its requests are answered, and
// puts a new one in after three more.
func (w *world) restart(s *server) {
	w.leave(s)
	w.after(2*time.Second, s.stop)
	w.after(5*time.Second, func() {
		s.start()
		w.join(s)
	})
}
