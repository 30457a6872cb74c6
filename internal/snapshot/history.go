package snapshot

import (
	"slices"
	"sync"
	"time"

	"evenkeel.io/controlplane/internal/translate"
)

// Kept is how many generations of a fleet, and how many pushes of a Service, a History keeps; the
// oldest goes first.
const Kept = 64

// Generation is one entry of a fleet's history: something other than endpoints changed.
type Generation struct {
	Number   uint64 // rises by one per change of the fleet, from 1
	At       time.Time
	Why      string // which objects changed: "HTTPRoute shop/web changed (File edit)"
	Snapshot *Snapshot
}

// Push is one entry of a Service's history: its weights or endpoints were sent anew.
type Push struct {
	At      time.Time
	Why     string            // weights.Decisions.Cause, or the change of endpoints
	Weights map[string]uint32 // by address, after
}

// History remembers what was served. The zero History is empty and ready; it is safe for concurrent
// use. The slices it returns are never changed afterwards. Snapshots share the resources that did not
// change between them, if these came from EncodeAfter.
type History struct {
	mu     sync.Mutex
	fleets map[string][]Generation
	pushes map[string][]Push
}

// Add makes s the newest generation of the fleet and returns it. If s differs from the newest in
// nothing but endpoints, there is no new generation: the newest is returned, and false.
func (h *History) Add(fleet string, at time.Time, why string, s *Snapshot) (Generation, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	past := h.fleets[fleet]
	next := Generation{Number: 1, At: at, Why: why, Snapshot: s}
	if len(past) > 0 {
		newest := past[len(past)-1]
		if sameButEndpoints(newest.Snapshot, s) {
			return newest, false
		}
		next.Number = newest.Number + 1
	}
	if h.fleets == nil {
		h.fleets = map[string][]Generation{}
	}
	h.fleets[fleet] = appendKept(past, next)
	return next, true
}

// Generations of the fleet, the oldest first.
func (h *History) Generations(fleet string) []Generation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fleets[fleet]
}

// AddPush adds a push of the Service. p.Weights must not be changed afterwards.
func (h *History) AddPush(service string, p Push) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pushes == nil {
		h.pushes = map[string][]Push{}
	}
	h.pushes[service] = appendKept(h.pushes[service], p)
}

// Pushes of the Service, the oldest first.
func (h *History) Pushes(service string) []Push {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pushes[service]
}

// ForgetService drops the pushes of a Service that is gone. Fleets are few and their generations are
// what explains that one is gone, so they stay.
func (h *History) ForgetService(service string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pushes, service)
}

// appendKept copies, because readers hold the slice before.
func appendKept[T any](past []T, next T) []T {
	past = past[max(0, len(past)+1-Kept):]
	return append(slices.Clip(past), next)
}

func sameButEndpoints(a, b *Snapshot) bool {
	for _, t := range translate.Types {
		if t != translate.EDS && a.Version(t) != b.Version(t) {
			return false
		}
	}
	return true
}
