package xds

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// convergence measures how long a change takes from being seen to being acknowledged by half of a
// fleet and by 99 % of it. One goroutine looks again whenever something was acknowledged.
type convergence struct {
	registry *Registry
	acked    chan struct{} // holds at most one
	seconds  *prometheus.HistogramVec

	mu      sync.Mutex
	pending map[string]*change // by fleet
}

// change is one that a fleet has not wholly acknowledged yet.
type change struct {
	seen time.Time
	half bool // half of the fleet has it
}

// lookAgainAfter bounds how often acknowledgements are counted, and is the measure's resolution.
const lookAgainAfter = 5 * time.Millisecond

// Serving tells that the cache was just given something new for a fleet, because of a change seen at
// that time. A change that comes before the one before it has converged is measured with it, from the
// older time.
func (r *Registry) Serving(fleet string, seen time.Time) {
	c := r.convergence
	defer c.wake() // the fleet may have been quicker than we
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[fleet] == nil {
		c.pending[fleet] = &change{seen: seen}
	}
}

// wake has the acknowledgements counted soon.
func (c *convergence) wake() {
	select {
	case c.acked <- struct{}{}:
	default:
	}
}

func (c *convergence) run(ctx context.Context) {
	for {
		select {
		case <-c.acked:
			c.look(time.Now())
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(lookAgainAfter):
		case <-ctx.Done():
			return
		}
	}
}

// look counts the nodes of each fleet with a pending change that have all they subscribed to. A fleet
// without nodes has nothing to measure.
func (c *convergence) look(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return
	}
	nodes, synced := map[string]int{}, map[string]int{}
	for _, s := range c.registry.list() {
		fleet, settled, identified := s.progress()
		if !identified || c.pending[fleet] == nil {
			continue
		}
		nodes[fleet]++
		if settled {
			synced[fleet]++
		}
	}
	for fleet, ch := range c.pending {
		n, have := nodes[fleet], synced[fleet]
		if n == 0 {
			delete(c.pending, fleet)
			continue
		}
		if !ch.half && 2*have >= n {
			ch.half = true
			c.seconds.WithLabelValues("0.5").Observe(now.Sub(ch.seen).Seconds())
		}
		if 100*have >= 99*n {
			c.seconds.WithLabelValues("0.99").Observe(now.Sub(ch.seen).Seconds())
			delete(c.pending, fleet)
		}
	}
}
