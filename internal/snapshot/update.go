package snapshot

import "sync"

// Update is what leads a client that has all it wants of one Table to another. Clients in the same
// state share one, and it is encoded once.
type Update struct {
	// Resources are those to send, by name, and Removed the names that are no more, both sorted.
	Resources []*Resource
	Removed   []string

	once  sync.Once
	delta []byte
}

// Delta are the Resources, each as Resource.Delta. It must not be changed.
func (u *Update) Delta() []byte {
	u.once.Do(func() { u.delta = Concat(u.Resources, (*Resource).Delta) })
	return u.delta
}

// updateKey says from where and for whom.
type updateKey struct{ from, wanted uint64 }

// maxUpdates bounds the Updates that a table keeps; others are made for each client.
const maxUpdates = 256

// Update is what a client that wants the selection and has all of from in it needs to have all of t.
func (t *Table) Update(from *Table, wanted *Selection) *Update {
	if wanted == nil || t.Same(from) {
		return &Update{}
	}
	key := updateKey{from.id, wanted.key}
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.updates[key]; u != nil {
		return u
	}
	u := &Update{}
	for _, name := range t.Since(from) {
		if !wanted.Wants(name) {
			continue
		}
		was, is := from.Get(name), t.Get(name)
		switch {
		case is == nil && was != nil:
			u.Removed = append(u.Removed, name)
		case is != nil && (was == nil || was.Version != is.Version):
			u.Resources = append(u.Resources, is)
		}
	}
	if t.updates == nil {
		t.updates = map[updateKey]*Update{}
	}
	if len(t.updates) < maxUpdates {
		t.updates[key] = u
	}
	return u
}

// Concat joins the resources in one of their forms.
func Concat(resources []*Resource, form func(*Resource) []byte) []byte {
	n := 0
	for _, r := range resources {
		n += len(form(r))
	}
	out := make([]byte, 0, n)
	for _, r := range resources {
		out = append(out, form(r)...)
	}
	return out
}
