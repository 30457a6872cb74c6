// Package snapshot owns what is served: it validates and encodes resources once, versions them by a
// hash of the bytes that are sent, gathers them into immutable Snapshots (one per fleet, in the form
// that go-control-plane's cache serves), tells two of them apart and leads from one to the next.
//
// Nothing reaches a client that did not pass Encode: a real Envoy answers one bad endpoint with an
// outage of other clusters.
//
// gRPC clients are served a second rendering of the same Snapshots, made while there are any (follow.go).
//
// A Snapshot says what a fleet should have. What it has, who refused what, and when anything is sent
// is package xds.
package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"

	"evenkeel.io/controlplane/internal/translate"
)

// Snapshot is everything a fleet is served. Immutable, safe for concurrent use; a nil Snapshot is
// empty. It is a cache.ResourceSnapshot, so any cache of go-control-plane serves it.
type Snapshot struct {
	tables     map[translate.Type]*Table
	generation uint64
}

var _ cache.ResourceSnapshot = (*Snapshot)(nil)

// New makes a Snapshot of the resources. Of two with the same type and name the last one stays.
func New(resources ...*Resource) *Snapshot {
	byType := map[translate.Type]map[string]*Resource{}
	for _, t := range translate.Types {
		byType[t] = map[string]*Resource{}
	}
	for _, r := range resources {
		byType[r.Type][r.Name] = r
	}
	s := &Snapshot{tables: map[translate.Type]*Table{}}
	for t, named := range byType {
		s.tables[t] = newTable(named)
	}
	return s
}

// after is s as the successor of before: tables with the same content are before's own, and the others
// know what is different in them.
func (s *Snapshot) after(before *Snapshot) *Snapshot {
	if before == nil {
		return s
	}
	next := &Snapshot{tables: map[translate.Type]*Table{}, generation: s.generation}
	for t, table := range s.tables {
		next.tables[t] = table.after(before.tables[t])
	}
	return next
}

// WithEndpoints is s with the given load assignments in place of those of the same names. It shares
// everything else with s, and is s itself if no version differs. Resources of other types are ignored.
func (s *Snapshot) WithEndpoints(changed ...*Resource) *Snapshot {
	next := s.Table(translate.EDS).with(changed)
	if next == s.Table(translate.EDS) {
		return s
	}
	if s == nil {
		s = New()
	}
	return s.with(translate.EDS, next)
}

// with is s with another table of that type.
func (s *Snapshot) with(t translate.Type, table *Table) *Snapshot {
	tables := maps.Clone(s.tables)
	tables[t] = table
	return &Snapshot{tables: tables, generation: s.generation}
}

// InGeneration is s as what a fleet is served in its Generation of that number. It serves the same.
func (s *Snapshot) InGeneration(number uint64) *Snapshot {
	return &Snapshot{tables: s.tables, generation: number}
}

// Generation is the number of the fleet's Generation that s belongs to, 0 if it has none.
func (s *Snapshot) Generation() uint64 {
	if s == nil {
		return 0
	}
	return s.generation
}

// Resources are the resources of a type by name. The map must not be changed.
func (s *Snapshot) Resources(t translate.Type) map[string]*Resource {
	return s.Table(t).resources
}

// Get is the resource of that type and name, nil if there is none.
func (s *Snapshot) Get(t translate.Type, name string) *Resource { return s.Resources(t)[name] }

// Version is the version of a type as a whole: a hash over names and versions of its resources.
func (s *Snapshot) Version(t translate.Type) string {
	if translate.TypeOf(t.URL()) == "" {
		return ""
	}
	return s.Table(t).Version()
}

// Equal says whether a and s serve the same.
func (s *Snapshot) Equal(a *Snapshot) bool {
	return s.EqualButEndpoints(a) && s.sameVersion(a, translate.EDS)
}

// EqualButEndpoints says whether a and s serve the same but for load assignments.
func (s *Snapshot) EqualButEndpoints(a *Snapshot) bool { return s.Content() == a.Content() }

// Content is the version of everything but load assignments: a hash that is the same after a restart.
func (s *Snapshot) Content() string {
	hash := sha256.New()
	for _, t := range translate.Types {
		if t != translate.EDS && len(s.Resources(t)) > 0 {
			fmt.Fprintf(hash, "%s %s\n", t, s.Version(t))
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

// sameVersion takes a nil Snapshot for an empty one.
func (s *Snapshot) sameVersion(a *Snapshot, t translate.Type) bool {
	return s.Version(t) == a.Version(t) || len(s.Resources(t)) == 0 && len(a.Resources(t)) == 0
}

// Dangling are the references to resources that s does not have, as sentences, sorted. A Snapshot
// with any of them would make an Envoy wait, or answer 404 or 503, and is not to be served.
func (s *Snapshot) Dangling() []string {
	var out []string
	for _, t := range translate.Types {
		for name, r := range s.Resources(t) {
			for to, names := range r.Refs {
				for _, missing := range names {
					if s.Get(to, missing) == nil {
						out = append(out, fmt.Sprintf("%s %q names %s %q, which does not exist", t, name, to, missing))
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// Table is the resources of a type, an empty one if there are none.
func (s *Snapshot) Table(t translate.Type) *Table {
	if s == nil || s.tables[t] == nil {
		return empty
	}
	return s.tables[t]
}

// GetVersion is Version for a type URL, as cache.ResourceSnapshot has it.
func (s *Snapshot) GetVersion(typeURL string) string { return s.Version(translate.TypeOf(typeURL)) }

// GetResourcesAndTTL are the messages of a type by name; none has a TTL.
func (s *Snapshot) GetResourcesAndTTL(typeURL string) map[string]types.ResourceWithTTL {
	return s.Table(translate.TypeOf(typeURL)).messages()
}

// GetResources are the messages of a type by name.
func (s *Snapshot) GetResources(typeURL string) map[string]types.Resource {
	resources := s.Resources(translate.TypeOf(typeURL))
	out := make(map[string]types.Resource, len(resources))
	for name, r := range resources {
		out[name] = r.Message()
	}
	return out
}

// ConstructVersionMap has nothing to do: versions are known from the start.
func (s *Snapshot) ConstructVersionMap() error { return nil }

// GetVersionMap are the versions of the resources of a type by name.
func (s *Snapshot) GetVersionMap(typeURL string) map[string]string {
	return s.Table(translate.TypeOf(typeURL)).versions()
}
