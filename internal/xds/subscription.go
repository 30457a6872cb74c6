package xds

import (
	"maps"
	"slices"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"

	"evenkeel.io/controlplane/internal/translate"
)

// subscription is what one stream asked of one type, was sent and answered. It is guarded by its
// stream's mutex.
type subscription struct {
	kind translate.Type // "" for a type that we do not make

	// names is, on delta, the library's own reading of what the client wants. Its ReturnedResources
	// are what the client *acknowledged*, by name, where the library's handler keeps there what it sent.
	names stream.Subscription
	// requested is, on SotW, what the client wants.
	requested []string

	last       response   // the newest that was sent
	unanswered []response // oldest first; on SotW at most one, since only the newest nonce counts
	acked      string     // version of the last response that was accepted
	ackedAt    time.Time

	// refused: the version by name (delta), or of the type (SotW, under ""), that the client refused
	// and has not been sent a successor of.
	refused map[string]string

	// matched is the snapshot's version that the client was found to hold; "" after it was sent
	// something or asked for something else.
	matched string

	counts struct{ sent, acked, nacked uint64 }
}

// response is a discovery response that went out.
type response struct {
	nonce, version string
	at             time.Time
	versions       map[string]string // delta: by resource name
	removed        []string          // delta
}

func (s *subscription) send(r response, replaces bool) {
	if replaces {
		s.unanswered = s.unanswered[:0]
	}
	s.unanswered = append(s.unanswered, r)
	s.last = r
	s.last.versions, s.last.removed = nil, nil
	s.counts.sent++
	s.matched = ""
}

// take removes the response with that nonce from the unanswered ones.
func (s *subscription) take(nonce string) (response, bool) {
	i := slices.IndexFunc(s.unanswered, func(r response) bool { return r.nonce == nonce })
	if i < 0 {
		return response{}, false
	}
	r := s.unanswered[i]
	s.unanswered = slices.Delete(s.unanswered, i, i+1)
	return r, true
}

func (s *subscription) accept(r response, now time.Time) {
	s.acked, s.ackedAt = r.version, now
	s.counts.acked++
	delete(s.refused, "")
	if len(r.versions)+len(r.removed) == 0 {
		return
	}
	held := s.names.ReturnedResources()
	for name, version := range r.versions {
		delete(s.refused, name)
		if s.wants(name) {
			held[name] = version
		}
	}
	for _, name := range r.removed {
		delete(s.refused, name)
		delete(held, name)
	}
}

func (s *subscription) refuse(r response, delta bool) {
	if s.refused == nil {
		s.refused = map[string]string{}
	}
	if !delta {
		s.refused[""] = r.version
		return
	}
	for name, version := range r.versions {
		if s.wants(name) {
			s.refused[name] = version
		}
	}
}

func (s *subscription) wants(name string) bool {
	if s.names.IsWildcard() {
		return true
	}
	_, ok := s.names.SubscribedResources()[name]
	return ok
}

// size is how many names the client made us remember.
func (s *subscription) size() int {
	return max(len(s.names.SubscribedResources())+len(s.names.SubscribedPrefixes()), len(s.names.ReturnedResources()))
}

// state compares what the client acknowledged with what the cache has now: version of the type, and
// versions by resource name.
func (s *subscription) state(delta bool, version string, versions map[string]string) SyncState {
	switch {
	case len(s.unanswered) > 0:
		return Pending
	case s.matched != "" && s.matched == version:
		return Synced
	case delta && s.holds(versions), !delta && s.acked == version:
		s.matched = version
		return Synced
	case !delta && s.refused[""] == version:
		return Nacked
	}
	for name, refused := range s.refused {
		if delta && versions[name] == refused {
			return Nacked
		}
	}
	return Pending
}

// holds reports whether a delta client has acknowledged every resource that it wants. A version of
// the type is not enough to know that: it also changes with resources that this client does not
// want, and then no message is due.
func (s *subscription) holds(versions map[string]string) bool {
	held := s.names.ReturnedResources()
	if s.names.IsWildcard() {
		return maps.Equal(held, versions)
	}
	for name := range s.names.SubscribedResources() {
		want, exists := versions[name]
		have, had := held[name]
		if exists != had || want != have {
			return false
		}
	}
	return true
}
