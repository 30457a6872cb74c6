package pipeline

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/audit"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
)

// pin holds a fleet at an earlier generation. It ends when an operator says so, or when one of the objects
// that were rolled back changes again and with it what the fleet would be served: that is the fix, or
// another attempt, and whoever made it means it to be in force. Endpoints and weights do not end it, nor does
// a change of any other object: that waits in the history, and is said to.
type pin struct {
	snapshot.Pin
	config       *snapshot.Snapshot // the generation's, without endpoints
	fingerprints map[string]string  // of Objects, as they were when it was pinned
}

var errNotRead = errors.New("the objects were not read since the start; what was saved is served")

// rollback pins a fleet to an earlier generation.
func (c *core) rollback(now time.Time, by, name string, number uint64) (snapshot.Pin, error) {
	f := c.fleets[name]
	if err := c.role.MayAct(); err != nil {
		return snapshot.Pin{}, err
	}
	switch {
	case c.catalog == nil:
		return snapshot.Pin{}, errNotRead
	case f == nil || f.object == nil:
		return snapshot.Pin{}, fmt.Errorf("no fleet %q; there is %s", name, listed(slices.Sorted(maps.Keys(c.catalog.Fleets))))
	case f.newest == nil:
		return snapshot.Pin{}, fmt.Errorf("nothing could be made of the objects of fleet %s since the start; what was saved is served", name)
	case number == f.number && f.pin != nil:
		return snapshot.Pin{}, fmt.Errorf("generation %d of %s is the newest: unpin the fleet to have it served", number, name)
	case number == f.number:
		return snapshot.Pin{}, fmt.Errorf("generation %d of %s is the newest, and is served", number, name)
	}
	at := slices.IndexFunc(f.history, func(g snapshot.Generation) bool { return g.Number == number })
	if at < 0 {
		return snapshot.Pin{}, fmt.Errorf("generation %d of %s is not kept; there is %s", number, name, kept(f.history))
	}
	p := &pin{Pin: snapshot.Pin{Number: number, At: now, By: by}, config: f.history[at].Snapshot, fingerprints: map[string]string{}}
	previous := number
	for _, g := range f.history[at+1:] {
		p.Objects = union(p.Objects, g.Changed)
		p.AllObjects = p.AllObjects || g.AllChanged || g.Number != previous+1
		previous = g.Number
	}
	if p.AllObjects || len(p.Objects) > maxChanged {
		p.Objects, p.AllObjects = nil, true
	}
	for _, object := range p.Objects {
		p.fingerprints[object] = audit.Fingerprint(c.store.Get(refOf(object)))
	}
	if missing := c.pinned(p).Dangling(); len(missing) > 0 {
		return snapshot.Pin{}, fmt.Errorf("generation %d of %s cannot be served any more: %s", number, name, strings.Join(missing, "; "))
	}
	f.pin = p
	c.unsaved = true
	c.publish(f, name)
	if len(p.Gone) > 0 {
		c.log.Warn("clusters of the generation that a fleet is pinned to have no endpoints: their Services are gone", "fleet", name, "generation", number, "clusters", p.Gone)
	}
	return p.Pin, nil
}

// unpin has a fleet served its newest generation again.
func (c *core) unpin(name string) error {
	f := c.fleets[name]
	if err := c.role.MayAct(); err != nil {
		return err
	}
	switch {
	case c.catalog == nil:
		return errNotRead
	case f == nil || f.object == nil:
		return fmt.Errorf("no fleet %q; there is %s", name, listed(slices.Sorted(maps.Keys(c.catalog.Fleets))))
	case f.pin == nil:
		return fmt.Errorf("fleet %s is not pinned; it is served its newest generation, %d", name, f.number)
	}
	f.pin = nil
	c.unsaved = true
	c.publish(f, name)
	return nil
}

// holds says whether a pin holds against a new generation; if not, it has ended.
func (c *core) holds(f *fleet, name string, g snapshot.Generation) bool {
	if object, ends := c.ends(f.pin, g); ends && c.role.Leads {
		c.endPin(f, name, object+" changed, which was rolled back")
		return false
	}
	held := union(f.pin.Held, g.Changed)
	if g.AllChanged || len(held) > maxChanged {
		held = f.pin.Held
	}
	next := *f.pin // readers may hold the one before
	next.Held = held
	f.pin = &next
	c.log.Warn("a change is held back: the fleet is pinned to an earlier generation", "fleet", name, "pinned", f.pin.Number, "heldBack", g.Number, "objects", g.Why)
	return true
}

// ends says which object of a pin changed, if one did. Of a pin of any object every change is one.
func (c *core) ends(p *pin, g snapshot.Generation) (object string, ends bool) {
	if p.AllObjects {
		return g.Why, g.AllChanged || len(g.Changed) > 0
	}
	for _, object := range p.Objects {
		if audit.Fingerprint(c.store.Get(refOf(object))) != p.fingerprints[object] {
			return object, true
		}
	}
	return "", false
}

// endPin forgets a fleet's pin, if it has one.
func (c *core) endPin(f *fleet, name, why string) {
	if f.pin == nil {
		return
	}
	c.log.Warn("a fleet is not pinned any more", "fleet", name, "was", f.pin.Number, "why", why)
	audit.Log(c.log, []audit.Record{{By: "the pin itself", Op: "unpin", Object: "fleet " + name, Result: audit.Accepted, Reason: why,
		Generations: []string{name + " " + strconv.FormatUint(f.number, 10)}}})
	f.pin = nil
	c.unsaved = true
}

// pinned is the generation of a pin with the endpoints and weights of now. A cluster whose Service is gone
// has none: those of the past may be anybody's by now.
func (c *core) pinned(p *pin) *snapshot.Snapshot {
	var assignments []*snapshot.Resource
	p.Gone = nil
	for _, cluster := range p.config.Resources(translate.CDS) {
		for _, name := range cluster.Refs[translate.EDS] {
			if s := c.services[name]; s != nil && s.assignment != nil {
				assignments = append(assignments, s.assignment)
				continue
			}
			nobody := translate.Assignment(&catalog.Service{Name: name}, nil)
			nobody.Source = cluster.Source
			if r := c.encode(nobody, nil); r != nil {
				assignments = append(assignments, r)
			}
			p.Gone = append(p.Gone, name)
		}
	}
	slices.Sort(p.Gone)
	assignments = append(assignments, c.limits.assignment)
	return p.config.WithAssignments(assignments...)
}

// refOf is the inverse of source.Ref.String.
func refOf(object string) source.Ref {
	kind, name, _ := strings.Cut(object, " ")
	if namespace, name, ok := strings.Cut(name, "/"); ok {
		return source.Ref{Kind: kind, Namespace: namespace, Name: name}
	}
	return source.Ref{Kind: kind, Name: name}
}

// kept names the generations of a history.
func kept(history []snapshot.Generation) string {
	numbers := make([]string, len(history))
	for i, g := range history {
		numbers[i] = strconv.FormatUint(g.Number, 10)
	}
	return listed(numbers)
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
