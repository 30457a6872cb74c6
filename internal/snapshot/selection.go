package snapshot

import (
	"hash/maphash"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"weak"
)

// Selection is the names of one type that a client wants. Immutable; nil wants nothing. Clients of a
// fleet mostly want the same, so they share one (Selections).
type Selection struct {
	names    []string // sorted
	wildcard bool
	key      uint64
}

// Wildcard says whether it wants all there are, names or not.
func (s *Selection) Wildcard() bool { return s != nil && s.wildcard }

// Len is the number of names.
func (s *Selection) Len() int {
	if s == nil {
		return 0
	}
	return len(s.names)
}

// Names are the names, sorted.
func (s *Selection) Names() iter.Seq[string] {
	if s == nil {
		return func(func(string) bool) {}
	}
	return slices.Values(s.names)
}

// Named says whether it has this name.
func (s *Selection) Named(name string) bool {
	if s == nil {
		return false
	}
	_, found := slices.BinarySearch(s.names, name)
	return found
}

// Wants says whether it has this name or all.
func (s *Selection) Wants(name string) bool { return s.Wildcard() || s.Named(name) }

var selectionSeed = maphash.MakeSeed()

func newSelection(wildcard bool, names []string) *Selection {
	s := &Selection{names: names, wildcard: wildcard}
	var h maphash.Hash
	h.SetSeed(selectionSeed)
	if wildcard {
		h.WriteByte('*')
	}
	for _, name := range names {
		h.WriteByte(0)
		h.WriteString(name)
	}
	s.key = h.Sum64()
	return s
}

func (s *Selection) equal(o *Selection) bool {
	return s.wildcard == o.wildcard && slices.Equal(s.names, o.names)
}

// Selections keeps one Selection of each content for as long as anybody has it. The zero value is ready;
// safe for concurrent use.
type Selections struct {
	mu    sync.Mutex
	known map[uint64]weak.Pointer[Selection]
}

// Of is the Selection of these names, of which there may be duplicates, and, if wildcard, of all.
func (p *Selections) Of(wildcard bool, names []string) *Selection {
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	s := newSelection(wildcard, sorted)
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.known[s.key].Value(); known != nil {
		if known.equal(s) {
			return known
		}
		return s // two contents of one hash: this one is not shared
	}
	for i, name := range s.names {
		s.names[i] = strings.Clone(name) // a name from a request would hold on to the request
	}
	if p.known == nil {
		p.known = map[uint64]weak.Pointer[Selection]{}
	}
	p.known[s.key] = weak.Make(s)
	runtime.AddCleanup(s, p.forget, s.key)
	return s
}

func (p *Selections) forget(key uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[key].Value() == nil {
		delete(p.known, key)
	}
}
