package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/audit"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
)

// fleet is a catalog.Fleet with what it is served.
type fleet struct {
	object    *catalog.Fleet
	resources []*snapshot.Resource // all but clusters and assignments
	// newest is what the objects make, nil while they were not read. served is the same, or, of a pinned
	// fleet, the generation it is pinned to with the endpoints of now.
	newest, served *snapshot.Snapshot
	number         uint64 // of the newest generation
	history        []snapshot.Generation
	pin            *pin
	noQuotas       bool // its routes carry no bounds of limits

	// Of what followers were told: the number, whether there are old Envoys, and the pin.
	toldNumber uint64
	toldOld    bool
	toldPin    *pin
}

// cause is why a fleet is rebuilt.
type cause struct {
	why, by string
	// changed are the objects that can make a generation, sorted; all says that they are not known.
	changed []string
	all     bool
}

// maxChanged bounds the objects that a generation or a pin names.
const maxChanged = 1024

// causeOf describes an update. first: before is nothing that it could be compared with.
func causeOf(before *source.Store, update source.Update, first bool) cause {
	c := cause{why: describeChanges(update.Changes), all: first || len(update.Changes) == 0}
	if first {
		return c
	}
	c.by = audit.Who(before, update.Store, update.Changes)
	for _, change := range update.Changes {
		switch change.Object.Kind {
		case source.KindEndpointSlice, source.KindPod, source.KindBalancePolicy:
			continue // they make endpoints and weights, which are in no generation
		}
		c.changed = append(c.changed, change.Object.String())
	}
	if c.changed = union(c.changed); len(c.changed) > maxChanged {
		c.changed, c.all = nil, true
	}
	return c
}

// union is what is in any of the lists, sorted.
func union(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

// made is a generation that a rebuild made, and whether it waits behind a pin.
type made struct {
	fleet  string
	number uint64
	held   bool
}

// rebuildFleet makes a fleet's snapshot from its own resources and its services'.
func (c *core) rebuildFleet(now time.Time, f *fleet, object *catalog.Fleet, why cause) {
	if f.object != object {
		before := map[string]*snapshot.Resource{}
		for _, r := range f.resources {
			before[resourceKey(r.Type, r.Name)] = r
		}
		if f.newest == nil && f.pin == nil { // at a start: what was saved
			for _, t := range translate.Types {
				for _, r := range f.served.Resources(t) {
					before[resourceKey(t, r.Name)] = r
				}
			}
		}
		f.resources = nil
		f.noQuotas = c.hasOld(object.Name)
		opts := c.options.Translate
		opts.NoQuotas = f.noQuotas
		for _, r := range translate.Fleet(object, opts) {
			if encoded := c.encode(r, before[resourceKey(r.Type, r.Name)]); encoded != nil {
				f.resources = append(f.resources, encoded)
			}
		}
		f.object = object
	}
	all := append(slices.Clone(f.resources), c.limits.assignment)
	for _, name := range object.Services {
		if s := c.services[name]; s != nil && s.cluster != nil && s.assignment != nil {
			all = append(all, s.cluster, s.assignment)
		}
	}
	if !c.role.Leads {
		if told := c.toldPins[object.Name]; told != nil || c.hearing {
			f.pin = told
		}
	}
	c.serve(now, f, object.Name, snapshot.New(all...), why)
}

// serve takes what the objects make of a fleet now, notes a generation if more than endpoints differ, and
// has it served unless the fleet is pinned.
func (c *core) serve(now time.Time, f *fleet, name string, next *snapshot.Snapshot, why cause) {
	if f.newest == nil || !f.newest.Equal(next) {
		if missing := next.Dangling(); len(missing) > 0 {
			c.log.Error("a fleet's resources do not fit together; what it was served before is kept", "fleet", name, "missing", missing)
			return
		}
		if f.newest == nil || !f.newest.EqualButEndpoints(next) {
			c.generation(now, f, name, next, why)
		}
		f.newest = next.InGeneration(f.number)
		f.renumber(c.toldGenerations[name])
	}
	c.publish(f, name)
}

// generation adds to a fleet's history.
func (c *core) generation(now time.Time, f *fleet, name string, next *snapshot.Snapshot, why cause) {
	g := snapshot.Generation{At: now, Why: why.why, By: why.by, Changed: why.changed, AllChanged: why.all}
	var before *snapshot.Snapshot
	if n := len(f.history); n > 0 {
		before = f.history[n-1].Snapshot
	}
	g.Snapshot = next.WithoutEndpoints(before)
	f.number++
	unchanged := false
	if f.newest == nil { // since the start
		known := c.restored.Generations[name]
		if n := len(f.history); n > 0 && f.history[n-1].Number >= known.Number && f.history[n-1].Snapshot.EqualButEndpoints(next) {
			f.number = f.history[n-1].Number
			return // the saved one is still the newest
		}
		if unchanged = known.Number >= f.number-1 && known.Content == next.Content(); unchanged {
			f.number, g.AllChanged = known.Number, false
		} else {
			f.number = max(f.number, known.Number+1)
		}
	}
	g.Number = f.number
	f.remember(g)
	c.unsaved = true
	held := f.pin != nil && (unchanged || c.holds(f, name, g))
	if !unchanged {
		c.made = append(c.made, made{name, g.Number, held})
	}
}

// historyLength is how many generations of a fleet and pushes of a service are kept.
const historyLength = 64

// remember appends to the history, which readers may still hold. The oldest leaves, but not the one that the
// fleet is pinned to.
func (f *fleet) remember(g snapshot.Generation) {
	f.history = append(slices.Clone(f.history), g)
	if len(f.history) > historyLength {
		oldest := 0
		if f.pin != nil && f.history[0].Number == f.pin.Number {
			oldest = 1
		}
		f.history = slices.Delete(f.history, oldest, oldest+1)
	}
}

// publish has a fleet served what it is to be served, if that is not so already.
func (c *core) publish(f *fleet, name string) {
	next := f.newest
	if f.pin != nil {
		next = c.pinned(f.pin).InGeneration(f.pin.Number)
	}
	if f.served == nil || !f.served.Equal(next) {
		c.hand(name, next, true)
	}
	f.served = next
}

// describeChanges names at most three objects.
func describeChanges(changes []source.Change) string {
	var parts []string
	for i, c := range changes {
		if i == 3 {
			parts = append(parts, fmt.Sprintf("and %d more", len(changes)-3))
			break
		}
		parts = append(parts, fmt.Sprintf("%s %s (%s)", c.Object, c.Op, c.Evidence))
	}
	return cmp.Or(strings.Join(parts, ", "), "objects were read anew")
}
