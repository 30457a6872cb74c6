package lrs

import (
	"slices"
	"time"
)

const (
	// A report is over more than shortest, so that a rate made of it means something, and at most
	// longest.
	shortest, longest = 100 * time.Millisecond, 10 * time.Minute
	// maxPerSecond is the highest rate, or number of requests in service, that is taken for one.
	maxPerSecond = 1e9
)

// reporter is a stream that said who it is. All of it is under the Manager's mu.
type reporter struct {
	node    node
	asked   bool          // for reports
	ended   bool          // the stream is over; its last reports count until they are old
	replan  chan struct{} // holds a token when what it is asked for may have changed
	strange bool          // its last report came without an ADS stream
	count   uint64        // of reports
}

// report is what one reporter said of one Service.
type report struct {
	at       time.Time
	count    uint64 // which of the reporter's it is
	interval time.Duration
	values   []value
}

// value is what one reporter said of one endpoint: counts over the report's interval, and a gauge.
type value struct {
	of                                *endpoint
	succeeded, failed, issued, active float32
}

// take takes in what a reporter sent at now.
func (m *Manager) take(r *reporter, msg *message, now time.Time) {
	if msg.refused == nil && len(msg.clusters) == 0 {
		return // it introduces itself, or has nothing to tell
	}
	m.metrics.reports.Inc()
	if msg.refused != nil {
		reason := reasonMalformed
		if msg.refused == errTooLarge {
			reason = reasonTooLarge
		}
		m.drop(reason)
		return
	}
	connected := m.options.Connected(r.node.id, r.node.fleet)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !connected {
		m.drop(reasonNotConnected)
		if !r.strange {
			m.options.Logger.Warn("load reports of a node without an ADS stream do not count", "node", r.node.id, "fleet", r.node.fleet)
		}
		r.strange = true
		return
	}
	r.strange = false
	r.count++
	for i := range msg.clusters {
		c := &msg.clusters[i]
		name := c.service
		if name == "" {
			name = c.name
		}
		s := m.services[name]
		switch {
		case s == nil && r.node.sendsAllOf():
			// One of its own that we know nothing of: it was asked for all.
		case s == nil || !slices.Contains(s.spec.Fleets, r.node.fleet):
			m.drop(reasonCluster)
		case c.interval < shortest || c.interval > longest:
			m.drop(reasonInterval)
		default:
			m.takeCluster(r, s, c, msg.endpoints[c.first:c.end], now)
		}
	}
}

// takeCluster replaces the last report of r on a Service, or adds to it where two clusters of one
// message are of the same Service.
func (m *Manager) takeCluster(r *reporter, s *service, c *cluster, stats []endpointStats, now time.Time) {
	last := s.reports[r]
	if last == nil {
		s.forgetEnded(r.node, m)
		last = &report{}
		s.reports[r] = last
	}
	if last.count != r.count {
		m.values -= len(last.values)
		last.values = last.values[:0]
	}
	last.at, last.count, last.interval = now, r.count, c.interval
	if m.values+len(stats) > m.options.MaxValues {
		m.drop(reasonFull)
		m.forget(s, r)
		return
	}
	most := uint64(maxPerSecond * c.interval.Seconds())
	for _, e := range stats {
		known := s.endpoints[e.address]
		switch {
		case known == nil:
			m.drop(reasonEndpoint)
		case e.succeeded > most || e.failed > most || e.issued > most || e.active > maxPerSecond:
			m.drop(reasonValue)
		default:
			last.values = append(last.values, value{known, float32(e.succeeded), float32(e.failed), float32(e.issued), float32(e.active)})
			m.values++
		}
	}
}

// forgetEnded forgets what a stream before said that the node has replaced: both count the same Envoy.
func (s *service) forgetEnded(n node, m *Manager) {
	for r := range s.reports {
		if r.ended && r.node.id == n.id && r.node.fleet == n.fleet {
			m.forget(s, r)
			return
		}
	}
}

// forget drops the last report of r on a Service.
func (m *Manager) forget(s *service, r *reporter) {
	if last := s.reports[r]; last != nil {
		m.values -= len(last.values)
		delete(s.reports, r)
	}
}

func (m *Manager) drop(reason string) { m.metrics.dropped.WithLabelValues(reason).Inc() }
