package snapshot

import (
	"fmt"
	"runtime/debug"
)

// following makes a Cache the rendering, for gRPC clients, of another one.
//
//	origin ── wake ──▶ follower of a key ── ForGRPC ──▶ Cache ── wake ──▶ clients
//
// A key has a follower while somebody watches it, and costs nothing otherwise. Its rendering is made by a
// goroutine that exists while there is something to render, so that neither who sets a Snapshot nor who
// is served one waits for it; what is set meanwhile is rendered next, in its newest form.
type following struct {
	origin    *Cache
	refused   func(error)
	followers map[string]*follower // under the Cache's lock
}

type follower struct {
	unwatch      func()
	due, running bool // under the Cache's lock

	from, to *Snapshot // of the goroutine
}

// ForGRPC makes a Cache that serves gRPC clients what c serves Envoys, in their rendering (see package
// translate). It follows what is set, not what is quarantined: a refusal counts among those who are
// served the same. A key has nothing to serve while nobody watches it, and for a moment after. refused
// is told of what is not valid in this rendering and so not served; it must be safe for concurrent use.
//
// Nobody else may set what it serves.
func (c *Cache) ForGRPC(refused func(error)) *Cache {
	rendered := NewCache(c.hash)
	rendered.following = &following{origin: c, refused: refused, followers: map[string]*follower{}}
	return rendered
}

// follow is called, with the lock, when the first one watches the key.
func (c *Cache) follow(key string) {
	f := &follower{}
	c.following.followers[key] = f
	f.unwatch = c.following.origin.Watch(key, func() { c.originChanged(key, f) })
	c.renderSoon(key, f)
}

// unfollow is called, with the lock, when nobody watches the key any more.
func (c *Cache) unfollow(key string) {
	c.following.followers[key].unwatch()
	delete(c.following.followers, key)
	c.clear(key)
}

func (c *Cache) originChanged(key string, f *follower) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renderSoon(key, f)
}

func (c *Cache) renderSoon(key string, f *follower) {
	f.due = true
	if !f.running {
		f.running = true
		go c.keepRendering(key, f)
	}
}

// keepRendering renders until nothing is due, or the follower is none any more.
func (c *Cache) keepRendering(key string, f *follower) {
	for c.takeDue(key, f) {
		next := c.render(key, f)
		if next == nil {
			continue
		}
		var wake []func()
		c.mu.Lock()
		if c.following.followers[key] == f {
			wake = c.set(key, next)
		}
		c.mu.Unlock()
		each(wake)
	}
}

func (c *Cache) takeDue(key string, f *follower) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.running = f.due && c.following.followers[key] == f
	f.due = false
	return f.running
}

// render is what the key is to be served now, nil for nothing new.
func (c *Cache) render(key string, f *follower) (next *Snapshot) {
	defer func() {
		if p := recover(); p != nil {
			c.following.refused(fmt.Errorf("rendering %q for gRPC clients: a bug in this program: %v\n%s", key, p, debug.Stack()))
			next = nil
		}
	}()
	wanted := c.following.origin.asSet(key)
	if wanted == nil || wanted == f.from {
		return nil
	}
	next = wanted.forGRPC(f.from, f.to, c.following.refused)
	f.from, f.to = wanted, next
	return next
}

// asSet is what the key is to be served, quarantine or not.
func (c *Cache) asSet(key string) *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wanted[key]
}
