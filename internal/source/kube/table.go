package kube

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/source/guard"
)

// table is what is known of a kind besides its objects in force.
type table struct {
	kind *kind
	// current is the reading whose events count. next reads consistently and takes current's place with
	// its first list; until then the events of both count.
	current, next *reading
	nextSince     time.Time
	heard         time.Time // when a reading told anything
	verify        time.Time // when next is due, zero for never
	verified      time.Time // when the last one began
	// told are the versions of what current told while next was reading, until next has told the same. Its
	// list may be older, and it tells again what happened since.
	told map[types.NamespacedName]string

	synced  bool // there was a list
	trouble source.Degradation
	reads   int // consistent lists in a row of which something was held
	// held is by name what the last list has in place of what is in force, nil for nothing.
	held    map[types.NamespacedName]source.Object
	shrinks []guard.Shrink // of held EndpointSlices
	refused map[types.NamespacedName]source.Problem
}

func newTable(k *kind, now time.Time) *table {
	return &table{
		kind: k, heard: now,
		told: map[types.NamespacedName]string{},
		held: map[types.NamespacedName]source.Object{}, refused: map[types.NamespacedName]source.Problem{},
	}
}

// tells notes that an event tells of an object, and whether it is news.
func (t *table) tells(name types.NamespacedName, e event) bool {
	if t.outdated(name, e.version) {
		return false
	}
	if t.next != nil && e.from == t.current {
		t.told[name] = e.version
	}
	return true
}

// outdated tells whether what was told of an object is newer than version. Versions that cannot be compared
// have no order.
func (t *table) outdated(name types.NamespacedName, version string) bool {
	told, ok := t.told[name]
	if !ok {
		return false
	}
	if c, err := resourceversion.CompareResourceVersion(version, told); err == nil && c < 0 {
		return true
	}
	delete(t.told, name)
	return false
}

// settled tells whether the kind's objects are known, be it that there can be none.
func (t *table) settled() bool { return t.synced || t.trouble == source.NotInstalled }

// objects are the tables, the objects in force, and what changed since they were delivered last. It has
// no clock and does no I/O.
type objects struct {
	host    string
	editor  *source.Editor
	tables  map[string]*table
	outage  string // what was said first when the API server stopped answering, "" while it does
	changes map[source.Ref]change
	first   bool // nothing was delivered yet
}

// change is what is to be delivered of an object that was something else, or nothing, when it was delivered last.
type change struct {
	source.Change
	was source.Object
}

func newObjects(host string) *objects {
	return &objects{
		host: host, editor: source.NewEditor(), first: true,
		tables: map[string]*table{}, changes: map[source.Ref]change{},
	}
}

// put takes one object that an event has told of, or that a list holds.
func (o *objects) put(t *table, it item, evidence source.Evidence) {
	ref := source.RefOf(it.object)
	name := nameOf(ref)
	if len(it.errs) > 0 {
		kept := "nothing: it was never accepted"
		if o.editor.Get(ref) != nil {
			kept = "the version before stays in force"
		}
		t.refused[name] = source.Problem{Object: ref, Generation: it.object.GetGeneration(), Field: it.errs[0].Field, Message: it.errs[0].ErrorBody(), Kept: kept}
		return
	}
	delete(t.refused, name)
	delete(t.held, name)
	o.set(it.object, evidence)
}

func (o *objects) set(obj source.Object, evidence source.Evidence) {
	ref := source.RefOf(obj)
	now := o.editor.Get(ref)
	if now != nil && (now == obj || same(now, obj)) {
		return
	}
	if c := o.changes[ref]; c.was != nil && same(c.was, obj) {
		obj = c.was // it is again as it was delivered
	}
	o.editor.Put(obj)
	o.note(ref, now, obj, evidence)
}

// same tells whether two versions of an object say the same, whoever wrote them.
func same(was, obj source.Object) bool {
	by := obj.GetManagedFields()
	obj.SetManagedFields(was.GetManagedFields())
	defer obj.SetManagedFields(by)
	return equality.Semantic.DeepEqual(was, obj)
}

func (o *objects) remove(t *table, ref source.Ref, evidence source.Evidence) {
	name := nameOf(ref)
	delete(t.refused, name)
	delete(t.held, name)
	now := o.editor.Get(ref)
	if now == nil {
		return
	}
	o.editor.Remove(ref)
	o.note(ref, now, nil, evidence)
	if ref.Kind == source.KindService && evidence == source.EvidenceWatch {
		o.release(name, evidence) // with the Service its endpoints are gone for certain
	}
}

// note merges what happened to an object, which was before and now is something else, or nothing, into what
// is to be delivered.
func (o *objects) note(ref source.Ref, before, now source.Object, evidence source.Evidence) {
	c, pending := o.changes[ref]
	if !pending {
		c.was = before
	}
	if o.first {
		evidence = source.EvidenceFirst
	}
	c.Change = source.Change{Object: ref, Op: source.Changed, Evidence: evidence}
	switch {
	case c.was == now:
		delete(o.changes, ref)
		return
	case c.was == nil:
		c.Op = source.Added
	case now == nil:
		c.Op = source.Removed
	}
	o.changes[ref] = c
}

// replace takes a list. What the guard holds of it stays in force, and a consistent list is asked for.
func (o *objects) replace(t *table, l *list, now time.Time) {
	if l.consistent {
		t.reads++
	} else {
		t.reads = 0
	}
	listed := make(map[types.NamespacedName]item, len(l.items))
	for _, it := range l.items {
		listed[types.NamespacedName{Namespace: it.object.GetNamespace(), Name: it.object.GetName()}] = it
	}
	for name := range t.told {
		if !t.outdated(name, l.version) {
			continue
		}
		if now := o.editor.Get(source.Ref{Kind: t.kind.name, Namespace: name.Namespace, Name: name.Name}); now != nil {
			listed[name] = item{object: now}
		} else {
			delete(listed, name)
		}
	}
	t.synced = true
	for name := range t.refused {
		if _, there := listed[name]; !there {
			delete(t.refused, name)
		}
	}
	keep := o.hold(t, listed)
	clear(t.held)
	for name, it := range listed {
		if keep[name] == nil {
			o.put(t, it, source.EvidenceRelist)
		}
	}
	for name, kept := range keep {
		t.held[name] = listed[name].object
		o.set(kept, source.EvidenceRelist)
	}
	for ref := range o.editor.Kind(t.kind.name) {
		name := nameOf(ref)
		if _, isListed := listed[name]; !isListed && keep[name] == nil {
			o.remove(t, ref, source.EvidenceRelist)
		}
	}
	switch {
	case len(t.held) == 0:
		t.reads, t.verify = 0, time.Time{}
	case l.consistent:
		t.verify = now.Add(verifyEvery)
	default:
		t.verify = now
	}
}

// hold asks the guard what stays in force though the list does not have it, or not all of it.
func (o *objects) hold(t *table, listed map[types.NamespacedName]item) (keep map[types.NamespacedName]source.Object) {
	keep = map[types.NamespacedName]source.Object{}
	if t.kind.name == source.KindEndpointSlice {
		all := guard.Slices{}
		for name, it := range listed {
			all[name] = it.object.(*discoveryv1.EndpointSlice)
		}
		held := guard.EndpointSlices(o.editor.Peek().EndpointSlices, all, t.reads)
		t.shrinks = held.Shrinks
		for name, slice := range held.Keep {
			keep[name] = slice
		}
		return keep
	}
	gone := map[types.NamespacedName]source.Object{}
	for ref, obj := range o.editor.Kind(t.kind.name) {
		if _, there := listed[nameOf(ref)]; !there {
			gone[nameOf(ref)] = obj
		}
	}
	if guard.Objects(o.editor.Count(t.kind.name), len(gone), len(listed), t.reads) {
		return gone
	}
	return keep
}

// release takes what is held of a Service's endpoints, or of everything if service is zero, as it was
// listed. It returns how many objects that were.
func (o *objects) release(service types.NamespacedName, evidence source.Evidence) (released int) {
	for _, t := range o.tables {
		for name, listed := range t.held {
			ref := source.Ref{Kind: t.kind.name, Namespace: name.Namespace, Name: name.Name}
			if service != (types.NamespacedName{}) {
				slice, ok := o.editor.Get(ref).(*discoveryv1.EndpointSlice)
				if !ok || guard.ServiceOf(slice) != service {
					continue
				}
			}
			released++
			if listed == nil {
				o.remove(t, ref, evidence)
			} else {
				o.put(t, item{object: listed}, evidence)
			}
		}
		if len(t.held) == 0 {
			t.verify = time.Time{}
		}
	}
	return released
}

// drop takes all objects of a kind away that is not watched any more.
func (o *objects) drop(t *table) {
	for ref := range o.editor.Kind(t.kind.name) {
		o.remove(t, ref, source.EvidenceWatch)
	}
	delete(o.tables, t.kind.name)
}

// fail notes that a reading was refused, or did not get through.
func (o *objects) fail(t *table, err error) {
	switch {
	case apierrors.IsNotFound(err) && t.kind.install != "":
		t.trouble = source.NotInstalled
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		t.trouble = source.Forbidden
	default:
		t.trouble = source.LastKnownGood
		if request, ok := errors.AsType[*url.Error](err); ok {
			err = request.Err // the URL is long and says nothing that the kind does not
		}
		o.outage = cmp.Or(o.outage, fmt.Sprintf("reading %s: %v", plural(t.kind), err))
	}
	o.endOutage()
}

// recover notes that a kind is watched again.
func (o *objects) recover(t *table) {
	t.trouble = ""
	o.endOutage()
}

// endOutage forgets what was said if every kind is answered, be it with a refusal.
func (o *objects) endOutage() {
	for _, t := range o.tables {
		if t.trouble == source.LastKnownGood {
			return
		}
	}
	o.outage = ""
}

// settled tells whether all objects are known that there can be.
func (o *objects) settled() bool {
	for _, t := range o.tables {
		if !t.settled() {
			return false
		}
	}
	return len(o.tables) > 0
}

// deliver is what differs from what was delivered before, if anything does.
func (o *objects) deliver(problems []source.Problem) source.Update {
	o.editor.SetProblems(problems)
	changes := make([]source.Change, 0, len(o.changes))
	for _, c := range o.changes {
		changes = append(changes, c.Change)
	}
	slices.SortFunc(changes, func(a, b source.Change) int { return a.Object.Compare(b.Object) })
	return source.Update{Store: o.editor.Store(), Changes: changes}
}

// delivered forgets what the receiver now has.
func (o *objects) delivered() {
	o.changes = map[source.Ref]change{} // not cleared: the first were all there is
	o.first = false
}

func nameOf(ref source.Ref) types.NamespacedName {
	return types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
}
