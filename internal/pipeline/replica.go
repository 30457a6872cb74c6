package pipeline

import (
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/weights"
)

const (
	// turns is over how many ticks the states of all services are told of whose weights nothing was published:
	// estimates move meanwhile, and a successor should not begin with old ones.
	turns = 5
	// untold is how far a weight that is not published may move, as |d ln|, before its service is told before
	// its turn: half of what a change of leader may move it by.
	untold = 0.02
	// byLeader begins the cause of a push that the leader made.
	byLeader = "leader"
)

// settles says whether a replica knows the weights after an event as well as it will.
func settles(e replica.Event) bool {
	return e.Role != nil && e.Role.Leads || e.Told != nil && e.Told.All != nil
}

// appendEvent appends an event; what the leader tells while the worker is busy becomes one, the newest of each
// Service, so that there are no more events than changes of role.
func appendEvent(events []replica.Event, e replica.Event) []replica.Event {
	n := len(events)
	if n == 0 || e.Told == nil || events[n-1].Told == nil {
		return append(events, e)
	}
	before := events[n-1].Told
	merged := &replica.Told{
		Services: maps.Clone(before.Services), Frozen: before.Frozen, All: before.All,
		Generations: maps.Clone(before.Generations), Pins: maps.Clone(before.Pins),
		RateLimits: before.RateLimits, Factors: before.Factors,
	}
	merged.TakeFleets(e.Told)
	for _, name := range e.Told.Gone {
		delete(merged.Services, name)
	}
	if merged.Services == nil {
		merged.Services = map[string]*replica.Service{}
	}
	maps.Copy(merged.Services, e.Told.Services)
	merged.Gone = slices.DeleteFunc(slices.Concat(before.Gone, e.Told.Gone), func(name string) bool { return merged.Services[name] != nil })
	if e.Told.Frozen != nil {
		merged.Frozen = e.Told.Frozen
	}
	if e.Told.All != nil {
		merged.All = e.Told.All
	}
	events[n-1] = replica.Event{Told: merged}
	return events
}

// hear takes an event among the replicas.
func (c *core) hear(now time.Time, e replica.Event) {
	switch {
	case e.Role != nil:
		c.lead(*e.Role)
		c.assign()
	case e.Joined:
		c.tellAll = true
	case e.Told != nil && !c.role.Leads:
		c.follow(now, e.Told)
	}
}

// lead takes a role.
func (c *core) lead(role replica.Role) {
	c.role, c.tellAll = role, role.Leads
	if role.Leads {
		clear(c.told) // its machines go on from there
		clear(c.toldGenerations)
		clear(c.toldPins)
		c.hearing = false
		c.metrics.leader.Set(1)
	} else {
		clear(c.readings) // the leader has those of now
		c.readingsShown = nil
		c.metrics.leader.Set(0)
	}
}

// follow takes over what the leader tells.
func (c *core) follow(now time.Time, told *replica.Told) {
	changed := map[string]*snapshot.Resource{} // assignments by service
	for name, news := range told.Services {
		c.told[name] = news
		s := c.services[name]
		if s == nil || s.object == nil {
			continue // rebuild comes back to it
		}
		c.guard("weights of "+name, func() {
			before := s.assignment
			why := byLeader
			if news.Cause != "" {
				why += ": " + news.Cause
			}
			c.decided(s, c.members(now, s), why)
			if s.assignment != before {
				changed[name] = s.assignment
			}
		})
	}
	for _, name := range told.Gone {
		delete(c.told, name)
	}
	if told.Frozen != nil {
		c.frozen = *told.Frozen
	}
	c.followFleets(now, told)
	if told.All != nil {
		c.hearing = true
		maps.DeleteFunc(c.told, func(name string, _ *replica.Service) bool {
			_, there := slices.BinarySearch(told.All, name)
			return !there
		})
	}
	if len(changed) > 0 {
		c.patch(changed, false)
	}
	c.unsaved = true
}

// members are the decisions on a Service of which the endpoints, the configuration or the leader's word is
// new. Those of a follower are a function of what its leader told last, at the time that it told it, and of
// the objects: endpoints that the leader knew have the leader's integers, and those that it did not know yet
// their prior, until it tells. So two replicas with the same objects serve the same bytes.
func (c *core) members(now time.Time, s *service) weights.Decisions {
	name := s.object.Name
	if told := c.told[name]; told != nil {
		err := c.machineOf(name, s).Restore(told.State, told.At)
		if err == nil {
			return s.machine.Members(told.At, c.weighed(s.object))
		}
		delete(c.told, name)
		c.log.Warn("what the leader tells of a service is not understood; its weights stay as they are", "service", name, "error", err)
	}
	if s.machine == nil && !s.object.HasPolicy {
		return weights.Even(now, name, addresses(s.object))
	}
	return c.machineOf(name, s).Members(now, c.weighed(s.object))
}

// tellInTurn has the state of a Service told if it is its turn, or if its weights are not where they were
// told to be.
func (c *core) tellInTurn(name string, s *service) {
	h := fnv.New32a()
	h.Write([]byte(name))
	if _, news := c.telling[name]; !news && ((h.Sum32()+c.turn)%turns == 0 || s.strayed()) {
		c.telling[name] = ""
	}
}

// strayed says whether a weight has moved far since its service was told, if it ever was.
func (s *service) strayed() bool {
	if len(s.toldComputed) != len(s.decisions.Endpoints) {
		return s.toldComputed != nil
	}
	for i, e := range s.decisions.Endpoints {
		if math.Abs(math.Log(e.Computed/s.toldComputed[i])) > untold {
			return true
		}
	}
	return false
}

// takeTold is what followers are to be told, nil for nothing.
func (c *core) takeTold(now time.Time) *replica.Told {
	telling, all := c.telling, c.tellAll
	c.telling = map[string]string{}
	switch {
	case !c.role.Leads || c.options.Replicas == nil || c.options.Replicas.Followers() == 0:
		c.tellAll = false
		return nil
	case c.catalog == nil || !all && len(telling) == 0 && !c.newsOfFleets():
		return nil // tellAll stays until there is something
	}
	c.tellAll = false
	frozen := c.frozen
	told := &replica.Told{Services: make(map[string]*replica.Service, len(telling)), Frozen: &frozen}
	c.tellFleets(told, all)
	tell := func(name, cause string) {
		s := c.services[name]
		told.Services[name] = &replica.Service{At: now, Cause: cause, State: s.machine.State()}
		s.toldComputed = s.toldComputed[:0]
		for _, e := range s.decisions.Endpoints {
			s.toldComputed = append(s.toldComputed, e.Computed)
		}
	}
	if all {
		told.All = []string{}
		for name, s := range c.services {
			if s.machine != nil { // else its endpoints are equal, here and there
				told.All = append(told.All, name)
				tell(name, telling[name])
			}
		}
		slices.Sort(told.All)
		return told
	}
	for name, cause := range telling {
		if s := c.services[name]; s == nil {
			told.Gone = append(told.Gone, name)
		} else if s.machine != nil {
			tell(name, cause)
		}
	}
	return told
}

// measured is the catalog of what this replica is to measure: everything if it leads, else nothing, or every
// endpoint would be asked by every replica.
func (c *core) measured(by Collector) *catalog.Catalog {
	if c.role.Leads || by.Everywhere {
		return c.catalog
	}
	return &catalog.Catalog{}
}
