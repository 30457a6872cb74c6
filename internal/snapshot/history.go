package snapshot

import (
	"maps"
	"time"

	"evenkeel.io/controlplane/internal/translate"
)

// Generation is one entry of a fleet's history: something other than endpoints changed.
type Generation struct {
	Number uint64 // rises by one per change of the fleet, from 1
	At     time.Time
	Why    string // which objects changed: "HTTPRoute shop/web changed (File edit)"
	By     string // who changed them, where it is known: "kubectl", "file routes.yaml"
	// Snapshot is what the fleet's objects made, without load assignments: those are of the moment, and a
	// history of them would keep alive every endpoint that there was.
	Snapshot *Snapshot
	// Changed are the objects that may have made it differ from the generation before, sorted. AllChanged
	// says that they are not known, or too many to be listed.
	Changed    []string
	AllChanged bool
}

// Pin says that a fleet is served an earlier generation than its newest.
type Pin struct {
	Number uint64 // of the generation that is served
	At     time.Time
	By     string // who pinned it
	// Objects are what changed since that generation, sorted; the pin ends when one of them changes what
	// the fleet would be served. AllObjects: any may.
	Objects    []string
	AllObjects bool
	// Held are the objects that changed after the pin and wait for its end, sorted.
	Held []string
	// Gone are the clusters of the generation that have no endpoints any more, because there is no such
	// Service, sorted.
	Gone []string
}

// Push is one entry of a Service's history: its weights or endpoints were sent anew.
type Push struct {
	At      time.Time
	Why     string           // weights.Decisions.Cause, or the change of endpoints
	Weights []EndpointWeight // after, sorted by address
}

// EndpointWeight is what an endpoint was sent as.
type EndpointWeight struct {
	Address string
	Weight  uint32
}

// WithoutEndpoints is s without its load assignments. What is the same in before, which may be nil, it
// shares with it.
func (s *Snapshot) WithoutEndpoints(before *Snapshot) *Snapshot {
	out := &Snapshot{tables: maps.Clone(s.tables)}
	out.tables[translate.EDS] = empty
	if before == nil {
		return out
	}
	for t, table := range out.tables {
		if was := before.Table(t); table.sum == was.sum && table.Len() == was.Len() {
			out.tables[t] = was
		}
	}
	return out
}

// WithAssignments is s with these load assignments and no others.
func (s *Snapshot) WithAssignments(assignments ...*Resource) *Snapshot {
	named := make(map[string]*Resource, len(assignments))
	for _, r := range assignments {
		named[r.Name] = r
	}
	out := &Snapshot{tables: maps.Clone(s.tables)}
	out.tables[translate.EDS] = newTable(named)
	return out
}
