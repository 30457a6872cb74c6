package pipeline

import (
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/replica"
)

// tellFleets adds to what followers are told which generations are the newest, and which fleets are pinned:
// what is new since the last time, or everything.
func (c *core) tellFleets(told *replica.Told, all bool) {
	told.Generations, told.Pins = map[string]replica.Generation{}, map[string][]byte{}
	if addresses, _ := c.counters(); all || !slices.Equal(addresses, c.limits.toldAddresses) {
		told.RateLimits, c.limits.toldAddresses = append([]string{}, addresses...), addresses
	}
	if all || c.limits.factorNews {
		if told.Factors, c.limits.factorNews = c.limits.factors, false; told.Factors == nil {
			told.Factors = map[string]map[string]adapt.Factor{} // there are none, which is news too
		}
	}
	for name, f := range c.fleets {
		if f.newest == nil {
			continue
		}
		if old := c.hasOld(name); all || f.toldNumber != f.number || f.toldOld != old {
			told.Generations[name] = replica.Generation{Number: f.number, Content: f.newest.Content(), NoQuotas: old}
			f.toldNumber, f.toldOld = f.number, old
		}
		if f.pin == nil && (all || f.toldPin != nil) {
			told.Pins[name] = nil
		} else if f.pin != nil && (all || f.toldPin != f.pin) {
			// As it is saved: with the resources of the generation, which a follower may never have had.
			body, err := c.saved(f.pin.At, name).Encode()
			if err != nil {
				c.log.Error("a pin cannot be told", "fleet", name, "error", err)
				continue
			}
			told.Pins[name] = body
		}
		f.toldPin = f.pin
	}
}

// newsOfFleets says whether tellFleets has anything to add.
func (c *core) newsOfFleets() bool {
	if addresses, _ := c.counters(); c.limits.factorNews || !slices.Equal(addresses, c.limits.toldAddresses) {
		return true
	}
	for name, f := range c.fleets {
		if f.newest != nil && (f.toldNumber != f.number || f.toldOld != c.hasOld(name) || f.toldPin != f.pin) {
			return true
		}
	}
	return false
}

// followFleets takes over what the leader tells of fleets.
func (c *core) followFleets(now time.Time, told *replica.Told) {
	if told.RateLimits != nil {
		c.limits.told = told.RateLimits
		c.assign()
	}
	if told.Factors != nil {
		c.takeOverFactors(told.Factors)
	}
	for name, g := range told.Generations {
		c.toldGenerations[name] = g
		if delete(c.limits.oldEnvoys, name); g.NoQuotas {
			c.noteOld(name, time.Time{})
		}
		f := c.fleets[name]
		if f != nil && f.object != nil && f.noQuotas != g.NoQuotas && hasQuotas(f.object) {
			c.makeAnew(now, name, f, byLeader+": whether Envoys take bounds of limits in routes")
		}
		if f != nil && f.renumber(g) && f.pin == nil {
			f.served = f.newest
			c.hand(name, f.served, false) // who is sent something next is told the number
		}
	}
	for name, body := range told.Pins {
		if len(body) == 0 {
			delete(c.toldPins, name)
		} else if saved, err := lastgood.DecodeFleet(body); err != nil || saved.Pin == nil {
			c.log.Warn("what the leader tells of a pinned fleet is not understood", "fleet", name, "error", err)
			continue
		} else {
			c.toldPins[name] = pinOf(saved)
		}
		if f := c.fleets[name]; f != nil && f.newest != nil {
			f.pin = c.toldPins[name]
			c.publish(f, name)
		}
	}
}

// renumber gives a follower's newest generation its leader's number, if they are the same. Two replicas that
// saw the same changes in different bursts have made different numbers of generations of them.
func (f *fleet) renumber(g replica.Generation) (renumbered bool) {
	if f.newest == nil || f.number == g.Number || g.Number == 0 || f.newest.Content() != g.Content {
		return false
	}
	f.number = g.Number
	f.newest = f.newest.InGeneration(g.Number)
	history := slices.Clone(f.history) // readers may hold it
	if n := len(history); n > 0 {
		history[n-1].Number = g.Number
		for n--; n > 0 && history[n-1].Number >= history[n].Number; n-- {
		}
		history = history[n:] // what is numbered as high is of another count
	}
	f.history = history
	return true
}
