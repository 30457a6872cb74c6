package rls

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"

	"evenkeel.io/controlplane/internal/rls/gcra"
)

// shards of a rule's table, each with a lock of its own.
const shards = 32

// sample is how many keys are looked at to find the one to forget.
const sample = 8

// key is the values of a counter's key as a hash of 128 bits under a seed of this process: 16 bytes whatever a
// client sends. Two keys of a million share one with a probability of 10^-27, and nobody outside can aim for it.
type key struct{ a, b uint64 }

// hasher makes keys. Values are hashed apart from each other, so that where one ends matters.
type hasher struct{ a, b maphash.Seed }

func newHasher() hasher { return hasher{maphash.MakeSeed(), maphash.MakeSeed()} }

func (h hasher) key(entries []*ratelimitv3.RateLimitDescriptor_Entry) key {
	var k key
	for _, e := range entries {
		k = h.fold(h.fold(k, e.GetKey()), e.GetValue())
	}
	return k
}

// lease is the id of a request's leases.
func (h hasher) lease(domain, request string) key { return h.fold(h.fold(key{}, domain), request) }

func (h hasher) fold(k key, s string) key {
	return key{mix(k.a, maphash.String(h.a, s)), mix(k.b, maphash.String(h.b, s))}
}

func mix(before, part uint64) uint64 {
	hi, lo := bits.Mul64(before^0x9e3779b97f4a7c15, 0xd6e8feb86659fd93)
	return hi ^ lo ^ part
}

// memory bounds the keys of all tables together. Half of the room is first come, first served; of the other half
// each rule has an equal share of its own, so that one rule's flood takes nothing from the others.
//
//	0 ............ most/2 ............................ most
//	| common, whoever comes | own | own | own | ... | own |
type memory struct {
	fixed  bool // windows in place of GCRA
	most   int64
	own    atomic.Int64 // keys that each rule may have of its own
	common atomic.Int64 // keys in the common half
	// forgotten counts keys that were live when they made room for others.
	forgotten atomic.Uint64
}

// count divides the half that is not common, and counts what is taken of the common one anew: room that keys
// left is to be had from the next count on.
func (m *memory) count(tables []*table) {
	own := m.most / 2 / int64(max(1, len(tables)))
	common := int64(0)
	for _, t := range tables {
		common += max(0, t.keys.Load()-own)
	}
	m.own.Store(own)
	m.common.Store(common)
}

// table has the states of one rule's keys. When there is no more room for a new key, one of its own is forgotten:
// of a few looked at the one that earns back first what it took. What is lost is what that key had used,
// the least there is; a key that uses its limit to the full is never the one beside a flood of new keys.
type table struct {
	memory *memory
	keys   atomic.Int64
	shards [shards]shard
}

type shard struct {
	mu     sync.Mutex
	states map[key]gcra.State
	peak   int // the most keys since the map was made, which never shrinks
}

func (t *table) shard(k key) *shard { return &t.shards[k.a%shards] }

func (t *table) take(k key, b gcra.Bound, now, n int64) gcra.Answer {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.states[k]
	after, answer := t.decide(b, before, now, n)
	if !answer.Admitted || n == 0 {
		return answer // nothing changed
	}
	if !known {
		t.makeRoom(s, now)
	}
	s.states[k] = after
	s.peak = max(s.peak, len(s.states))
	return answer
}

// look is the answer of a take that takes nothing.
func (t *table) look(k key, b gcra.Bound, now, n int64) gcra.Answer {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, answer := t.decide(b, s.states[k], now, n)
	return answer
}

func (t *table) decide(b gcra.Bound, s gcra.State, now, n int64) (gcra.State, gcra.Answer) {
	if t.memory.fixed {
		return b.TakeWindow(s, now, n)
	}
	return b.Take(s, now, n)
}

// give undoes a take.
func (t *table) give(k key, b gcra.Bound, now, n int64) {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	state, known := s.states[k]
	if !known {
		return
	}
	if t.memory.fixed {
		state = b.GiveWindow(state, now, n)
	} else {
		state = b.Give(state, now, n)
	}
	s.states[k] = state
}

func (t *table) over(s gcra.State, now int64) bool {
	if t.memory.fixed {
		return gcra.OverWindow(s, now)
	}
	return gcra.Over(s, now)
}

// makeRoom has room for a key more in a shard. It is called with the shard's lock.
func (t *table) makeRoom(s *shard, now int64) {
	if s.states == nil {
		s.states = map[key]gcra.State{}
	}
	switch {
	case t.keys.Load() < t.memory.own.Load():
	case t.memory.common.Add(1) <= t.memory.most/2:
	default:
		t.memory.common.Add(-1)
		t.forget(s, now)
	}
	t.keys.Add(1)
}

// forget makes room in a shard by a key that is over, or else one that soon is. A shard without keys may have
// one beyond the bound.
func (t *table) forget(s *shard, now int64) {
	var victim key
	var soonest gcra.State
	looked := 0
	for k, state := range s.states { // in an order that is random
		if looked == 0 || state < soonest {
			victim, soonest = k, state
		}
		if looked++; looked == sample {
			break
		}
	}
	if looked == 0 {
		return
	}
	if !t.over(soonest, now) {
		t.memory.forgotten.Add(1)
	}
	delete(s.states, victim)
	t.keys.Add(-1)
}

// sweep forgets what is over, in one shard.
func (t *table) sweep(i int, now int64) {
	s := &t.shards[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.states)
	for k, state := range s.states {
		if t.over(state, now) {
			delete(s.states, k)
		}
	}
	t.keys.Add(int64(len(s.states) - before))
	if live := len(s.states); s.peak > 64 && live < s.peak/4 {
		smaller := make(map[key]gcra.State, live)
		for k, state := range s.states {
			smaller[k] = state
		}
		s.states, s.peak = smaller, live
	}
}
