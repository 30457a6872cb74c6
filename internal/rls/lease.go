package rls

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// leaseTime is how long a lease holds that nobody renews: two lost reports of an Envoy, which come every 10 s.
	leaseTime = 30 * time.Second
	// tombstoneTime is how long a lease that ended cannot be taken: an Envoy that cancelled a call, because its
	// client was gone, tells of the end perhaps before the call arrives.
	tombstoneTime = 10 * time.Second
	// grace is how long the leases of an Envoy hold after its last stream of access logs broke.
	grace = 5 * time.Second
)

// place is one key of one rule, of which leases are taken.
type place struct {
	counters *counters
	key      key
}

// leases are the sets of leases of all keys. A lease is taken by its id, that of an Envoy's request in its fleet
// (hashed as a key is), and may be taken at several places, one for each limit of the request.
//
//	id  -> held at places, until when, by whom     under the lock of the id's shard
//	place -> how many                              under the lock of the place's shard, taken after the id's
//
// The count of a place is that of the ids that are held there, always.
type leases struct {
	most     int64 // ids: of leases, and up to half of it tombstones
	ids      [shards]leaseShard
	places   [shards]placeShard
	known    atomic.Int64 // ids
	overflow atomic.Uint64
	ended    [endReasons]atomic.Uint64
	late     atomic.Uint64 // acquires that came after the end
	rebuilt  atomic.Uint64
}

// Why leases end.
const (
	endReleased     = iota // the request's end, as a call
	endLogged              // the request's end, in the access log
	endExpired             // nobody renewed it
	endDisconnected        // its proxy is gone
	endRefused             // another limit of the request refused it
	endReasons
)

var endNames = [endReasons]string{"released", "logged", "expired", "disconnected", "refused"}

type leaseShard struct {
	mu  sync.Mutex
	ids map[key]*lease
}

type lease struct {
	places  []place
	expires int64 // ns; of a tombstone, when it is forgotten
	gone    bool  // a tombstone
	holder  *holder
}

type placeShard struct {
	mu     sync.Mutex
	counts map[place]int64
}

// holder is a proxy, or a connection whose proxy is not known yet.
type holder struct {
	// proxy is what the holder of a connection turned out to be.
	proxy atomic.Pointer[proxy]
}

// proxy is an Envoy that sends access logs.
type proxy struct {
	name proxyName
	// lost is when its leases end, ns since 1970; 0 while it has a stream.
	lost atomic.Int64
}

// name is the proxy's, if it is known.
func (h *holder) name() (name proxyName, ok bool) {
	if h == nil {
		return proxyName{}, false
	}
	p := h.proxy.Load()
	if p == nil {
		return proxyName{}, false
	}
	return p.name, true
}

// ends is when the leases of a holder end for its own sake, 0 if they do not.
func (h *holder) ends() int64 {
	if h == nil {
		return 0
	}
	if p := h.proxy.Load(); p != nil {
		return p.lost.Load()
	}
	return 0
}

func (l *leases) shard(id key) *leaseShard { return &l.ids[id.a%shards] }

func (l *leases) place(p place) *placeShard { return &l.places[p.key.a%shards] }

// acquire takes a lease, or renews the one that is held. It says whether there is one, whether it is new, and how many
// are held at the place.
func (l *leases) acquire(id key, p place, by *holder, now, most int64) (ok, fresh bool, held int64) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.ids[id]
	if known != nil && known.gone {
		if known.expires > now {
			l.late.Add(1)
			return false, false, l.count(p)
		}
		known.gone = false
	}
	if known != nil && known.at(p) {
		known.expires, known.holder = now+int64(leaseTime), by
		return true, false, l.count(p)
	}
	if known == nil && l.known.Load() >= l.most {
		l.overflow.Add(1)
		return false, false, l.count(p)
	}
	if ok, held = l.add(p, most); !ok {
		return false, false, held
	}
	l.hold(s, id, p, by, now)
	return true, true, held
}

// hold notes a lease whose place has counted it. It is called with the shard's lock.
func (l *leases) hold(s *leaseShard, id key, p place, by *holder, now int64) {
	known := s.ids[id]
	if known == nil {
		known = l.know(s, id)
	}
	known.places = append(known.places, p)
	known.expires, known.holder = now+int64(leaseTime), by
}

// know makes room for an id. It is called with the shard's lock.
func (l *leases) know(s *leaseShard, id key) *lease {
	known := &lease{}
	if s.ids == nil {
		s.ids = map[key]*lease{}
	}
	s.ids[id] = known
	l.known.Add(1)
	return known
}

// renew has all leases of an id hold on, as those of a proxy, and takes those that are told of and not held, as
// after a restart, past any bound: they are in service already.
func (l *leases) renew(id key, told []place, by *holder, now int64) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.ids[id]
	if known != nil && known.gone {
		return // a report that its end has overtaken
	}
	if known != nil {
		known.expires, known.holder = now+int64(leaseTime), by
	}
	for _, p := range told {
		if known != nil && known.at(p) {
			continue
		}
		if known == nil && l.known.Load() >= l.most {
			l.overflow.Add(1)
			return
		}
		l.add(p, 0)
		l.hold(s, id, p, by, now)
		l.rebuilt.Add(1)
		known = s.ids[id]
	}
}

// release ends the lease of an id at one place, if it is held. The last one leaves a tombstone: a report that the
// request goes on may be under way.
func (l *leases) release(id key, p place, now int64) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.ids[id]; known != nil && known.leave(p) {
		l.sub(p, endReleased)
		if len(known.places) == 0 {
			*known = lease{gone: true, expires: now + int64(tombstoneTime)}
		}
	}
}

// giveBack undoes an acquire that was fresh.
func (l *leases) giveBack(id key, p place) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.ids[id]; known != nil && known.leave(p) {
		l.sub(p, endRefused)
		if len(known.places) == 0 {
			delete(s.ids, id)
			l.known.Add(-1)
		}
	}
}

// end ends all leases of an id, and keeps it from being taken for a while.
func (l *leases) end(id key, now int64) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.ids[id]
	if known == nil {
		if l.known.Load() >= l.most/2 { // leases come before tombstones
			l.overflow.Add(1)
			return
		}
		known = l.know(s, id)
	}
	for _, p := range known.places {
		l.sub(p, endLogged)
	}
	*known = lease{gone: true, expires: now + int64(tombstoneTime)}
}

// sweep ends what is over in one shard.
func (l *leases) sweep(i int, now int64) {
	s := &l.ids[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, known := range s.ids {
		lost := known.holder.ends()
		expired, disconnected := known.expires <= now, lost != 0 && lost <= now
		if !expired && !disconnected {
			continue
		}
		reason := endExpired
		if disconnected {
			reason = endDisconnected
		}
		for _, p := range known.places {
			l.sub(p, reason)
		}
		delete(s.ids, id)
		l.known.Add(-1)
	}
}

// leave says whether the lease was held at the place, where it is no longer.
func (known *lease) leave(p place) bool {
	i := slices.Index(known.places, p)
	if i < 0 {
		return false
	}
	known.places = slices.Delete(known.places, i, i+1)
	return true
}

func (known *lease) at(p place) bool { return slices.Contains(known.places, p) }

// add counts a lease at a place that has fewer than most; 0 is no bound.
func (l *leases) add(p place, most int64) (ok bool, held int64) {
	s := l.place(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	held = s.counts[p]
	if most > 0 && held >= most {
		return false, held
	}
	if s.counts == nil {
		s.counts = map[place]int64{}
	}
	s.counts[p] = held + 1
	p.counters.leases.Add(1)
	return true, held + 1
}

func (l *leases) sub(p place, reason int) {
	s := l.place(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts[p]--; s.counts[p] == 0 {
		delete(s.counts, p)
	}
	p.counters.leases.Add(-1)
	l.ended[reason].Add(1)
}

func (l *leases) count(p place) int64 {
	s := l.place(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[p]
}
