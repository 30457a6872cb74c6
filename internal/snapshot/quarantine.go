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

// Quarantine has instead served to the key in place of this version of a resource, until another version
// of it is set. It says whether it is so: not if that version is not what is to be served, nor if instead
// points at something that is not served any more.
func (c *Cache) Quarantine(key string, kind translate.Type, name, version string, instead *Resource) bool {
	c.mu.Lock()
	wanted := c.wanted[key]
	if r := wanted.Get(kind, name); r == nil || r.Version != version || instead == nil || instead.Version == version {
		c.mu.Unlock()
		return false
	}
	for t, names := range instead.Refs {
		for _, name := range names {
			if wanted.Get(t, name) == nil {
				c.mu.Unlock()
				return false
			}
		}
	}
	if c.quarantine[key] == nil {
		c.quarantine[key] = map[resourceID]quarantined{}
	}
	c.quarantine[key][resourceID{kind, name}] = quarantined{version, instead}
	wake := c.set(key, wanted)
	c.mu.Unlock()
	each(wake)
	return true
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
