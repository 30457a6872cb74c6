package source

import "iter"

// Editor makes Stores that differ little from each other, at the cost of what differs: a map in which
// nothing was changed since the last Store is the same map in the next. Not for concurrent use.
type Editor struct {
	store  *Store
	tables map[string]table // of store, by kind
	shared map[string]bool  // the kinds whose maps a Store that was handed out has
}

// NewEditor begins with an empty Store.
func NewEditor() *Editor {
	e := &Editor{store: NewStore(), tables: map[string]table{}, shared: map[string]bool{}}
	for _, t := range e.store.tables() {
		e.tables[t.kind] = t
	}
	return e
}

// Get is the object of that name, nil if there is none.
func (e *Editor) Get(ref Ref) Object { return e.tables[ref.Kind].get(ref.name()) }

// Count is the number of objects of a kind.
func (e *Editor) Count(kind string) int { return e.tables[kind].len() }

// Kind yields the objects that there are of a kind as it is called, by namespace and name. They may be
// removed meanwhile.
func (e *Editor) Kind(kind string) iter.Seq2[Ref, Object] {
	t := e.tables[kind]
	refs := t.refs()
	return func(yield func(Ref, Object) bool) {
		for _, ref := range refs {
			if obj := t.get(ref.name()); obj != nil && !yield(ref, obj) {
				return
			}
		}
	}
}

// Put adds obj, or replaces the one of its name.
func (e *Editor) Put(obj Object) {
	e.own(kindOf(obj))
	e.store.Add(obj)
}

// Remove takes an object away, if it is there.
func (e *Editor) Remove(ref Ref) {
	e.own(ref.Kind)
	e.tables[ref.Kind].remove(ref.name())
}

// SetProblems replaces the Problems; the Editor does not copy them.
func (e *Editor) SetProblems(problems []Problem) { e.store.Problems = problems }

// Peek is the Store as it is, to be read before the next edit and not to be kept.
func (e *Editor) Peek() *Store { return e.store }

// Store is the Store as it is. Later edits do not show in it.
func (e *Editor) Store() *Store {
	for kind := range e.tables {
		e.shared[kind] = true
	}
	store := *e.store
	return &store
}

// own makes sure that no Store that was handed out has the kind's map.
func (e *Editor) own(kind string) {
	if e.shared[kind] {
		e.shared[kind] = false
		e.tables[kind].clone()
	}
}
