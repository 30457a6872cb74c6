package rls

import (
	"context"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"

	"evenkeel.io/controlplane/internal/rls/gcra"
)

// store keeps the counts, in this process or in Redis.
type store interface {
	// count decides on the hits of one request, each of which gets its answer. It takes them all, or nothing if one
	// that counts is refused, or if it is only to look. over says that one was.
	count(ctx context.Context, hits []hit, now int64, take bool) (over bool, err error)
	// logs does what entries of a fleet's access logs say of leases.
	logs(ctx context.Context, fleet string, entries []logEntry, by *holder, now int64)
	// held is how many leases there are of a key.
	held(ctx context.Context, c *counters, entries []*ratelimitv3.RateLimitDescriptor_Entry) (int64, error)
	// proxies tells where proxies have streams of access logs. The leases of one that is lost end, unless it has streams at
	// another server.
	proxies(ctx context.Context, w whereabouts)
	close()
}

// logEntry is what an access log says of one request: that it is over, or that it goes on, and where it has leases.
type logEntry struct {
	request string
	over    bool
	told    []toldLease
}

type toldLease struct {
	counters *counters
	entries  []*ratelimitv3.RateLimitDescriptor_Entry
}

// local is the store in this process.
type local struct {
	hasher hasher
	leases *leases
}

// count takes and gives back what it took, rather than look first and take then, so that no two calls are admitted by
// the same room: between the two steps another call may be refused for it.
func (s *local) count(ctx context.Context, hits []hit, now int64, take bool) (over bool, err error) {
	if !take {
		return s.look(hits, now), nil
	}
	for i := range hits {
		h := &hits[i]
		c := h.variant.counters
		switch {
		case h.bound.unlimited:
			h.answer.Admitted = true
		case h.variant.lease:
			s.lease(ctx, h, now)
		case h.negative:
			c.table.give(h.key, h.bound.rate, now, h.n)
			h.answer.Admitted = true
		default:
			h.answer = c.table.take(h.key, h.bound.rate, now, h.n)
		}
		over = over || h.refused() && h.counts()
	}
	for i := range hits {
		if h := &hits[i]; over && h.answer.Admitted {
			s.giveBack(h, now)
		}
	}
	return over, nil
}

// look answers as count would, and leaves no trace: a key that nobody came with gets no room.
func (s *local) look(hits []hit, now int64) (over bool) {
	for i := range hits {
		h := &hits[i]
		c := h.variant.counters
		switch {
		case h.bound.unlimited || h.negative:
			h.answer.Admitted = true
		case h.variant.lease:
			held := s.leases.count(place{c, h.key})
			h.answer = gcra.Answer{Admitted: held < h.bound.concurrency, Remaining: max(0, h.bound.concurrency-held)}
		default:
			h.answer = c.table.look(h.key, h.bound.rate, now, h.n)
		}
		over = over || h.refused() && h.counts()
	}
	return over
}

func (s *local) lease(ctx context.Context, h *hit, now int64) {
	id, p := s.hasher.lease(h.variant.counters.domain, h.lease), place{h.variant.counters, h.key}
	if h.negative {
		s.leases.release(id, p, now)
		h.answer.Admitted = true
		return
	}
	var held int64
	h.held, h.fresh, held = s.leases.acquire(id, p, holderOf(ctx), now, h.bound.concurrency)
	h.answer = gcra.Answer{Admitted: h.held, Remaining: max(0, h.bound.concurrency-held)}
}

func (s *local) giveBack(h *hit, now int64) {
	switch {
	case h.bound.unlimited || h.negative:
	case h.variant.lease:
		if h.fresh {
			s.leases.giveBack(s.hasher.lease(h.variant.counters.domain, h.lease), place{h.variant.counters, h.key})
		}
		h.held = false
	default:
		h.variant.counters.table.give(h.key, h.bound.rate, now, h.n)
	}
}

func (s *local) logs(_ context.Context, fleet string, entries []logEntry, by *holder, now int64) {
	for _, e := range entries {
		id := s.hasher.lease(fleet, e.request)
		if e.over {
			s.leases.end(id, now)
			continue
		}
		places := make([]place, len(e.told))
		for i, t := range e.told {
			places[i] = place{t.counters, s.hasher.key(t.entries)}
		}
		s.leases.renew(id, places, by, now)
	}
}

func (s *local) held(_ context.Context, c *counters, entries []*ratelimitv3.RateLimitDescriptor_Entry) (int64, error) {
	return s.leases.count(place{c, s.hasher.key(entries)}), nil
}

// proxies is told nothing new: leases know their proxies, and there is no other server.
func (s *local) proxies(context.Context, whereabouts) {}

func (s *local) close() {}
