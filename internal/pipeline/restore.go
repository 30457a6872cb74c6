package pipeline

import (
	"maps"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

const (
	// patience is how long a source may take for the first complete set of objects before what was saved
	// counts as what is served: until then nobody is told that anything is amiss.
	patience = 500 * time.Millisecond
	// saveServedEvery bounds how often what a key is served is saved while only its weights change.
	saveServedEvery = 10 * time.Second
)

// save says of a key that what it is served is to be saved: at once, or when its time comes.
type save struct {
	due, soon bool
	at        time.Time // of the last save
}

// hand has the cache given what a key is served, and that saved: now if the objects changed it.
func (c *core) hand(key string, s *snapshot.Snapshot, objects bool) {
	c.outgoing = append(c.outgoing, outgoing{key, s})
	if c.saves[key] == nil {
		c.saves[key] = &save{}
	}
	c.saves[key].due = true
	c.saves[key].soon = c.saves[key].soon || objects
}

// restore has served what was saved, byte for byte, until the objects are read.
func (c *core) restore(saved []lastgood.Fleet) {
	for _, s := range saved {
		s.Snapshot = s.Snapshot.InGeneration(s.Number)
		c.lastGood[s.Key] = s.SavedAt
		c.outgoing = append(c.outgoing, outgoing{s.Key, s.Snapshot})
		if strings.HasPrefix(s.Key, edsOnlyPrefix) {
			c.edsOnly[s.Key] = s.Snapshot
			continue
		}
		config := s.Snapshot.WithoutEndpoints(nil)
		f := &fleet{served: s.Snapshot, number: s.Number, history: []snapshot.Generation{
			{Number: s.Number, At: s.At, Why: s.Why, By: s.By, Snapshot: config},
		}}
		if s.Pin != nil {
			f.pin = pinOf(s)
		}
		c.fleets[s.Key] = f
	}
}

// pinOf is the pin of a fleet that was saved pinned.
func pinOf(s lastgood.Fleet) *pin {
	return &pin{
		Pin: snapshot.Pin{
			Number: s.Number, At: s.Pin.At, By: s.Pin.By, AllObjects: s.Pin.AllObjects, Held: s.Pin.Held,
			Objects: slices.Sorted(maps.Keys(s.Pin.Objects)),
		},
		config: s.Snapshot.WithoutEndpoints(nil), fingerprints: s.Pin.Objects,
	}
}

// overdue says that the objects should have been read by now, or that there are none at all.
func (c *core) overdue() {
	if c.catalog == nil && len(c.lastGood) > 0 && !c.late {
		c.late = true
		c.log.Warn("the objects cannot be read, or there are none: what was saved is served until there are", "fleets", len(c.lastGood), "saved", newestOf(c.lastGood))
	}
}

func newestOf(saved map[string]time.Time) time.Time {
	return slices.MaxFunc(slices.Collect(maps.Values(saved)), time.Time.Compare)
}

// takeOver ends what restore began. What the objects do not have any more is not taken away from its clients,
// for nobody saw it go; they are told nothing new.
func (c *core) takeOver() {
	if len(c.lastGood) == 0 {
		return
	}
	if c.late {
		c.log.Info("the objects were read and have taken over from what was saved")
	}
	for key := range c.lastGood {
		gone := false
		if _, ok := c.edsOnly[key]; ok {
			gone = len(c.edsOnly[key].Resources(translate.EDS)) == 0
			if gone {
				delete(c.edsOnly, key)
			}
		} else if gone = c.catalog.Fleets[key] == nil; gone {
			delete(c.fleets, key)
		}
		if gone {
			c.log.Warn("what was saved is of a Gateway or namespace that is gone; its clients keep what they have", "fleet", key)
			c.outgoing = slices.DeleteFunc(c.outgoing, func(o outgoing) bool { return o.key == key })
			c.hand(key, nil, true)
		}
	}
	clear(c.lastGood)
	c.late = false
}

// savedCluster is the cluster of a Service in what was saved, nil if there is none.
func (c *core) savedCluster(name string) *snapshot.Resource {
	for key := range c.lastGood {
		if f := c.fleets[key]; f != nil && f.pin == nil && f.newest == nil {
			if r := f.served.Get(translate.CDS, name); r != nil {
				return r
			}
		}
	}
	return nil
}

// takeServed is what has to be saved of what is served, by key; nil for a key that is served nothing any more.
// all: also what would wait for its time.
func (c *core) takeServed(now time.Time, all bool) map[string]*lastgood.Fleet {
	out := map[string]*lastgood.Fleet{}
	for key, s := range c.saves {
		if !s.due || !s.soon && !all && now.Sub(s.at) < saveServedEvery {
			continue
		}
		out[key] = c.saved(now, key)
		*s = save{at: now}
		if out[key] == nil {
			delete(c.saves, key)
		}
	}
	return out
}

// saved is what is to be saved of a key.
func (c *core) saved(now time.Time, key string) *lastgood.Fleet {
	if s := c.edsOnly[key]; s != nil {
		return &lastgood.Fleet{Key: key, SavedAt: now, Snapshot: s}
	}
	f := c.fleets[key]
	if f == nil || f.object == nil && f.newest != nil { // its Gateway is gone
		return nil
	}
	if restored, ok := c.lastGood[key]; ok {
		now = restored // the objects are as old as they were
	}
	out := &lastgood.Fleet{Key: key, SavedAt: now, Number: f.number, Snapshot: f.served}
	if f.pin != nil {
		out.Number = f.pin.Number
		out.Pin = &lastgood.Pin{At: f.pin.At, By: f.pin.By, Objects: f.pin.fingerprints, AllObjects: f.pin.AllObjects, Held: f.pin.Held}
	}
	for _, g := range f.history {
		if g.Number == out.Number {
			out.At, out.Why, out.By = g.At, g.Why, g.By
		}
	}
	return out
}
