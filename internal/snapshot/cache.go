package snapshot

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"

	"evenkeel.io/controlplane/internal/translate"
)

// Cache holds the Snapshot that each fleet is to be served, by the fleet's key, and tells those who
// serve it when it changes. Fleets have it, not nodes: all nodes of one are sent the same bytes.
//
// It is a cache.SnapshotCache, so that go-control-plane's own server, and what is built on it, works on
// it too; package xds reads it by Current and Watch.
type Cache struct {
	hash cache.NodeHash

	mu sync.Mutex
	// wanted is what was set, current the same without what is quarantined.
	wanted, current map[string]*Snapshot
	quarantine      map[string]map[resourceID]quarantined
	ordered         map[string]map[resourceID]quarantined // by another replica: it may be set here later
	nextID          uint64
	wakers          map[string]map[uint64]func()
	watches         map[string]map[uint64]*watch

	following *following // nil for a Cache that is set
}

var _ cache.SnapshotCache = (*Cache)(nil)

// NewCache makes an empty Cache. hash gives the key of the Snapshot that a node is served, for those who
// come with a node (CreateWatch, CreateDeltaWatch, Fetch).
func NewCache(hash cache.NodeHash) *Cache {
	return &Cache{
		hash:    hash,
		wanted:  map[string]*Snapshot{},
		current: map[string]*Snapshot{},

		quarantine: map[string]map[resourceID]quarantined{},
		wakers:     map[string]map[uint64]func(){},
		watches:    map[string]map[uint64]*watch{},
	}
}

// Current is what the key is to be served, nil if there is nothing, which is not the same as a Snapshot
// that is empty.
func (c *Cache) Current(key string) *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current[key]
}

// Watch has wake called after each change of what the key is to be served, until stop. wake must not wait,
// and may still be called once while stop returns.
func (c *Cache) Watch(key string, wake func()) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextID++
	id := c.nextID
	if c.wakers[key] == nil {
		c.wakers[key] = map[uint64]func(){}
		if c.following != nil {
			c.follow(key)
		}
	}
	c.wakers[key][id] = wake
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.wakers[key], id); c.wakers[key] != nil && len(c.wakers[key]) == 0 {
			delete(c.wakers, key)
			if c.following != nil {
				c.unfollow(key)
			}
		}
	}
}

// SetSnapshot has the key served s from now on. One that is no *Snapshot is made one: its messages are
// encoded and not validated.
func (c *Cache) SetSnapshot(_ context.Context, key string, s cache.ResourceSnapshot) error {
	next, ok := s.(*Snapshot)
	if !ok {
		var err error
		if next, err = adopt(s); err != nil {
			return err
		}
	}
	c.mu.Lock()
	wake := c.set(key, next)
	c.mu.Unlock()
	each(wake)
	return nil
}

// PatchEndpoints puts load assignments in place of those of the same names, wherever these are served:
// SetSnapshot of Snapshot.WithEndpoints for every key concerned.
func (c *Cache) PatchEndpoints(changed ...*Resource) {
	var wake []func()
	c.mu.Lock()
	for key, s := range c.wanted {
		served := s.Table(translate.EDS)
		mine := slices.DeleteFunc(slices.Clone(changed), func(r *Resource) bool { return served.Get(r.Name) == nil })
		if next := s.WithEndpoints(mine...); next != s {
			wake = append(wake, c.set(key, next)...)
		}
	}
	c.mu.Unlock()
	each(wake)
}

func each(calls []func()) {
	for _, call := range calls {
		call()
	}
}

// ClearSnapshot forgets what the key is served. Clients keep what they have.
func (c *Cache) ClearSnapshot(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear(key)
}

// clear is ClearSnapshot within the lock.
func (c *Cache) clear(key string) {
	delete(c.wanted, key)
	delete(c.current, key)
	delete(c.quarantine, key)
}

// set is SetSnapshot within the lock. Whom it returns is to be called without it.
func (c *Cache) set(key string, next *Snapshot) (wake []func()) {
	before := c.current[key]
	c.wanted[key] = next
	c.obey(key, next)
	next = c.withoutQuarantined(key, next).after(before)
	c.current[key] = next
	if len(c.quarantine[key]) == 0 {
		c.wanted[key] = next // which knows how it came about
	}
	if before != nil && before.sameTables(next) {
		return nil
	}
	for id, w := range c.watches[key] {
		if w.answer(next) {
			c.unwatch(key, id)
		}
	}
	return slices.Collect(maps.Values(c.wakers[key]))
}

func (s *Snapshot) sameTables(o *Snapshot) bool {
	for t, table := range s.tables {
		if !table.Same(o.Table(t)) {
			return false
		}
	}
	return true
}

// GetSnapshot is Current with an error in place of nil.
func (c *Cache) GetSnapshot(key string) (cache.ResourceSnapshot, error) {
	if s := c.Current(key); s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("no snapshot of %q", key)
}

// adopt makes a Snapshot of one that somebody else made.
func adopt(s cache.ResourceSnapshot) (*Snapshot, error) {
	if s == nil {
		return New(), nil
	}
	var all []*Resource
	for _, t := range translate.Types {
		for name, message := range s.GetResources(t.URL()) {
			r, err := EncodeUnchecked(translate.Resource{Type: t, Name: name, Message: message})
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
	}
	return New(all...), nil
}
