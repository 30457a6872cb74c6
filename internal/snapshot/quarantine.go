package snapshot

import "evenkeel.io/controlplane/internal/translate"

type resourceID struct {
	kind translate.Type
	name string
}

// quarantined is a version of a resource that is not served, and what is served in its place.
type quarantined struct {
	version string
	instead *Resource
}

// fits says whether a version is what is to be served of s, and can be replaced: not by something that points at
// what is not served any more.
func (q quarantined) fits(s *Snapshot, id resourceID) bool {
	if r := s.Get(id.kind, id.name); r == nil || r.Version != q.version || q.instead == nil || q.instead.Version == q.version {
		return false
	}
	for t, names := range q.instead.Refs {
		for _, name := range names {
			if s.Get(t, name) == nil {
				return false
			}
		}
	}
	return true
}

// Quarantine has instead served to the key in place of this version of a resource, until another version
// of it is set. It says whether it is so: not if that version is not what is to be served, nor if instead
// points at something that is not served any more.
func (c *Cache) Quarantine(key string, kind translate.Type, name, version string, instead *Resource) bool {
	c.mu.Lock()
	wanted := c.wanted[key]
	id, q := resourceID{kind, name}, quarantined{version, instead}
	if !q.fits(wanted, id) {
		c.mu.Unlock()
		return false
	}
	c.park(key, id, q)
	wake := c.set(key, wanted)
	c.mu.Unlock()
	each(wake)
	return true
}

func (c *Cache) park(key string, id resourceID, q quarantined) {
	if c.quarantine[key] == nil {
		c.quarantine[key] = map[resourceID]quarantined{}
	}
	c.quarantine[key][id] = q
}

// Order is a Quarantine that another replica has found.
type Order struct {
	Key           string
	Type          translate.Type
	Name, Version string
	Instead       *Resource
}

// Obey puts in quarantine what these say, now or when it is set here. They replace those given before; what is in
// quarantine already stays there until it changes.
func (c *Cache) Obey(orders []Order) {
	var wake []func()
	c.mu.Lock()
	c.ordered = map[string]map[resourceID]quarantined{}
	for _, o := range orders {
		if c.ordered[o.Key] == nil {
			c.ordered[o.Key] = map[resourceID]quarantined{}
		}
		c.ordered[o.Key][resourceID{o.Type, o.Name}] = quarantined{o.Version, o.Instead}
	}
	for key := range c.ordered {
		if wanted := c.wanted[key]; wanted != nil {
			wake = append(wake, c.set(key, wanted)...)
		}
	}
	c.mu.Unlock()
	each(wake)
}

// obey parks what is ordered of s.
func (c *Cache) obey(key string, s *Snapshot) {
	for id, q := range c.ordered[key] {
		if _, parked := c.quarantine[key][id]; !parked && q.fits(s, id) {
			c.park(key, id, q)
		}
	}
}

// Wants says whether this version of a resource is what was set for the key, and whether it is in quarantine.
func (c *Cache) Wants(key string, kind translate.Type, name, version string) (wanted, parked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.wanted[key].Get(kind, name)
	_, parked = c.quarantine[key][resourceID{kind, name}]
	wanted = r != nil && r.Version == version
	return wanted, wanted && parked
}

// Quarantined are the names, by type, of what the key is served another version of than was set.
func (c *Cache) Quarantined(key string) map[translate.Type][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out map[translate.Type][]string
	for id := range c.quarantine[key] {
		if out == nil {
			out = map[translate.Type][]string{}
		}
		out[id.kind] = append(out[id.kind], id.name)
	}
	return out
}

// withoutQuarantined is s with what is in quarantine replaced. What has changed since leaves it.
func (c *Cache) withoutQuarantined(key string, s *Snapshot) *Snapshot {
	for id, q := range c.quarantine[key] {
		if r := s.Get(id.kind, id.name); r == nil || r.Version != q.version {
			delete(c.quarantine[key], id)
			continue
		}
		s = s.with(id.kind, s.Table(id.kind).with([]*Resource{q.instead}))
	}
	return s
}
