package main

import (
	"fmt"
	"math"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

const (
	scrapeInterval = 2 * time.Second
	scrapeWindow   = 6 * time.Second
)

// epoch is the simulation's time 0 as the control plane's clock shows it.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const service = "sim/fleet:80"

func key(index int) signals.Key {
	return signals.Key{Service: service, Address: fmt.Sprintf("10.0.%d.%d:80", index/250, index%250+1)}
}

// scraper reads one server as the control plane's own would: every two seconds at a phase of its own,
// a window of the last six, counters that were read before a restart forgotten.
type scraper struct {
	server   *server
	instance int
	seen     []scraped
	latest   signals.Reading // zero before the first
}

type scraped struct {
	at           time.Duration
	done, failed float64
	cpu          float64
	latency      []uint64
}

// phase spreads the scrapes of a fleet evenly over the interval, in no order (the golden ratio).
func phase(index int) time.Duration {
	_, fraction := math.Modf(0.618033988749895 * float64(index+1))
	return time.Duration(fraction * float64(scrapeInterval))
}

func (c *scraper) scrape() {
	s := c.server
	if s.down || s.mute {
		return
	}
	s.account()
	now := s.clock.now
	if c.instance != s.instance {
		c.instance, c.seen = s.instance, nil
	}
	c.seen = slices.DeleteFunc(c.seen, func(o scraped) bool { return now-o.at > scrapeWindow })
	if len(c.seen) > 0 {
		first := c.seen[0]
		r := signals.Reading{
			Endpoint: key(s.index),
			From:     epoch.Add(first.at), To: epoch.Add(now), SourceInterval: scrapeInterval,
			Terms:    signals.TermRequests | signals.TermErrors | signals.TermCPU | signals.TermInFlight,
			Done:     s.said.done - first.done,
			Failed:   s.said.failed - first.failed,
			CPU:      (s.said.cpuSeconds() - first.cpu) / (now - first.at).Seconds() / float64(s.workers),
			InFlight: float64(s.said.inFlight),
			Instance: fmt.Sprint(s.instance),
		}
		if s.saidCPU > 0 {
			r.CPU = s.saidCPU
		}
		if r.Done > 0 {
			r.Terms |= signals.TermLatency
			r.P50 = s.said.latency.quantile(0.5, first.latency)
			r.P90 = s.said.latency.quantile(0.9, first.latency)
		}
		c.latest = r
	}
	c.seen = append(c.seen, scraped{now, s.said.done, s.said.failed, s.said.cpuSeconds(), slices.Clone(s.said.latency.counts)})
}
