package snapshot

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
)

// Table is the resources of one type in one Snapshot. Immutable, safe for concurrent use. Tables that
// follow one another know what changed between them, and the answer to "from there to here" is encoded
// once for all clients that are there.
type Table struct {
	id        uint64 // of this content, in this process
	resources map[string]*Resource
	sum       Sum
	// steps lead here, the latest last.
	steps []step

	wireOnce  sync.Once
	wire      map[string]types.ResourceWithTTL
	versionBy map[string]string

	mu      sync.Mutex
	updates map[updateKey]*Update
}

// step is what became different since the table with the id from.
type step struct {
	from  uint64
	names []string // sorted
}

// maxSteps is how far back a table remembers; a client that is further behind is compared name by name.
const maxSteps = 64

var (
	lastTable atomic.Uint64
	empty     = &Table{}
)

func newTable(resources map[string]*Resource) *Table {
	if len(resources) == 0 {
		return empty
	}
	t := &Table{id: lastTable.Add(1), resources: resources}
	for _, r := range resources {
		t.sum = t.sum.plus(r.digest())
	}
	return t
}

// Empty is the Table of no resources.
func Empty() *Table { return empty }

// Get is the resource of that name, nil if there is none.
func (t *Table) Get(name string) *Resource { return t.resources[name] }

// Len is the number of resources.
func (t *Table) Len() int { return len(t.resources) }

// All are the resources by name. The map must not be changed.
func (t *Table) All() map[string]*Resource { return t.resources }

// Version is the version of the table: equal for equal names and versions, also after a restart and on
// every replica.
func (t *Table) Version() string { return t.sum.String() }

// after is t as the successor of before, or before itself if the content is the same.
func (t *Table) after(before *Table) *Table {
	if before == nil || t == before {
		return t
	}
	if t.sum == before.sum && len(t.resources) == len(before.resources) {
		return before
	}
	if t == empty || t.steps != nil && t.steps[len(t.steps)-1].from == before.id {
		return t
	}
	return t.following(before, differences(before, t))
}

// following is a copy of t that knows how it came about. It shares the resources.
func (t *Table) following(before *Table, names []string) *Table {
	steps := append(slices.Clone(before.steps), step{before.id, names})
	return &Table{id: t.id, resources: t.resources, sum: t.sum, steps: steps[max(0, len(steps)-maxSteps):]}
}

// with is t with the given resources in place of those of the same names, t itself if nothing differs.
func (t *Table) with(changed []*Resource) *Table {
	next := &Table{sum: t.sum}
	var names []string
	for _, r := range changed {
		was := t.resources[r.Name]
		if next.resources != nil {
			was = next.resources[r.Name]
		}
		if was != nil && was.Version == r.Version {
			continue
		}
		if next.resources == nil {
			if next.resources = maps.Clone(t.resources); next.resources == nil {
				next.resources = map[string]*Resource{}
			}
		}
		if was != nil {
			next.sum = next.sum.minus(was.digest())
		}
		next.resources[r.Name], next.sum = r, next.sum.plus(r.digest())
		names = append(names, r.Name)
	}
	if names == nil {
		return t
	}
	next.id = lastTable.Add(1)
	slices.Sort(names)
	return next.following(t, slices.Compact(names))
}

// differences are the names whose version is not the same in both, sorted.
func differences(a, b *Table) []string {
	var names []string
	for name, r := range b.resources {
		if was := a.resources[name]; was == nil || was.Version != r.Version {
			names = append(names, name)
		}
	}
	for name := range a.resources {
		if b.resources[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Since are the names that may differ between from and t, sorted: all that do, and possibly some that
// changed and changed back.
func (t *Table) Since(from *Table) []string {
	if from == t || from.id == t.id {
		return nil
	}
	at := slices.IndexFunc(t.steps, func(s step) bool { return s.from == from.id })
	switch {
	case at < 0:
		return differences(from, t)
	case at == len(t.steps)-1:
		return t.steps[at].names
	}
	var names []string
	for _, s := range t.steps[at:] {
		names = append(names, s.names...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Same says whether both are the same content, by identity: false may be wrong, true is not.
func (t *Table) Same(o *Table) bool { return t.id == o.id }

func (t *Table) forms() {
	t.wireOnce.Do(func() {
		t.wire = make(map[string]types.ResourceWithTTL, len(t.resources))
		t.versionBy = make(map[string]string, len(t.resources))
		for name, r := range t.resources {
			t.wire[name] = types.ResourceWithTTL{Resource: r.Message()}
			t.versionBy[name] = r.Version
		}
	})
}

// messages are the resources as go-control-plane's caches want them.
func (t *Table) messages() map[string]types.ResourceWithTTL {
	t.forms()
	return t.wire
}

// versions are the versions by name.
func (t *Table) versions() map[string]string {
	t.forms()
	return t.versionBy
}
