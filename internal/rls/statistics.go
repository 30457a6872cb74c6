package rls

import (
	"sync"
	"sync/atomic"
)

const (
	// topKeys is how many of the most refused keys are known of each rule.
	topKeys = 16
	// maxKeyText is the longest text that is kept of a key, in bytes.
	maxKeyText = 256
)

// counters are what is kept of one rule of one fleet, as long as the fleet has it, whatever becomes of its bounds.
type counters struct {
	domain, id string
	table      table
	leases     atomic.Int64

	requests      atomic.Uint64
	refused       atomic.Uint64
	shadowRefused atomic.Uint64
	top           top
}

// top are the keys that are refused most, by the space-saving algorithm (Metwally, Agrawal, El Abbadi 2005): a
// key that is not among them takes the place of the least, and its count as a possible error. Of R refusals, a
// key with more than R/topKeys is surely there.
type top struct {
	mu   sync.Mutex
	keys []topKey // at most topKeys
}

type topKey struct {
	key   key
	text  string
	count uint64
	error uint64
}

// refuse counts a refusal of a key. text is asked for only if the key is new here.
func (t *top) refuse(k key, text func() string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	least := 0
	for i := range t.keys {
		if t.keys[i].key == k {
			t.keys[i].count++
			return
		}
		if t.keys[i].count < t.keys[least].count {
			least = i
		}
	}
	if len(t.keys) < topKeys {
		t.keys = append(t.keys, topKey{key: k, text: text(), count: 1})
		return
	}
	was := t.keys[least].count
	t.keys[least] = topKey{key: k, text: text(), count: was + 1, error: was}
}
