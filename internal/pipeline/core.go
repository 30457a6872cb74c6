package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/audit"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/weights"
)

// core is what the worker owns: everything that is decided and served. It has no clock and does no
// I/O; rebuild and step move it, takeOutgoing says what the cache is to be given.
type core struct {
	options Options
	metrics *metrics
	log     *slog.Logger

	store    *source.Store
	catalog  *catalog.Catalog
	services map[string]*service
	fleets   map[string]*fleet
	edsOnly  map[string]*snapshot.Snapshot // by "eds:<namespace>"
	restored lastgood.State
	// lastGood is when each key was saved of which only that is known, until the objects are read; late
	// says that this takes longer than it should.
	lastGood map[string]time.Time
	late     bool
	// refused are the resources that did not pass validation, by type and name; the last good one of
	// each is served in its place.
	refused  map[string]*snapshot.Refusal
	readings map[signals.Key]signals.Reading
	// readingsShown is the copy of readings that readers have; nil if something is new.
	readingsShown map[signals.Key]signals.Reading
	workers       map[string]int // by fleet, as of the last tick
	frozen        bool           // services to come are frozen too

	role replica.Role
	// told and what follows are, of a follower, what its leader said last; telling, of a leader, what is new to
	// its followers, by Service with the cause, and tellAll that everything is; turn counts ticks.
	told            map[string]*replica.Service
	toldGenerations map[string]replica.Generation
	toldPins        map[string]*pin
	hearing         bool // a follower was told everything
	telling         map[string]string
	tellAll         bool
	turn            uint32

	outgoing []outgoing
	// made are the generations of the rebuild under way.
	made []made
	// unsaved says that what a restart must go on from has changed; savedAt is when state was last taken.
	unsaved bool
	savedAt time.Time
	// limits are who counts requests, by which rules and with what factors; answers are the metrics that these
	// follow.
	limits  limits
	answers *answers
	// saves says of each key whether what it is served is to be saved.
	saves map[string]*save
}

// service is a catalog.Service with its weights and its resources.
type service struct {
	object *catalog.Service
	// machine is nil while there is nothing to remember: no policy weighs the Service, or ever did.
	machine    *weights.Machine
	decisions  weights.Decisions // without a machine: when its endpoints changed, and nothing of them
	cluster    *snapshot.Resource
	assignment *snapshot.Resource
	pushes     []snapshot.Push
	// sources of each endpoint's readings, by address.
	sources map[string]*signals.Sources
	// toldComputed is Decision.Computed of each endpoint when followers were last told.
	toldComputed []float64
	shown        *shown // to readers; nil if something is new
}

type outgoing struct {
	key      string
	snapshot *snapshot.Snapshot // nil: the key is served nothing any more, and its clients keep what they have
}

func newCore(options Options, metrics *metrics, restored lastgood.State) *core {
	c := &core{
		options:  options,
		metrics:  metrics,
		log:      options.Log,
		services: map[string]*service{},
		fleets:   map[string]*fleet{},
		edsOnly:  map[string]*snapshot.Snapshot{},
		refused:  map[string]*snapshot.Refusal{},
		readings: map[signals.Key]signals.Reading{},
		workers:  map[string]int{},
		lastGood: map[string]time.Time{},
		saves:    map[string]*save{},
		restored: restored,
		answers:  newAnswers(options.Limits.Ask),
		frozen:   restored.Frozen,
		told:     map[string]*replica.Service{},
		telling:  map[string]string{},

		toldGenerations: map[string]replica.Generation{},
		toldPins:        map[string]*pin{},
	}
	c.limits.of, c.limits.oldEnvoys = map[string]*limited{}, oldEnvoys{}
	for name, g := range restored.Generations {
		if g.NoQuotas {
			c.limits.oldEnvoys[name] = time.Time{}
		}
	}
	c.lead(replica.Role{Leads: options.Replicas == nil})
	c.assign()
	c.takeOverFactors(restored.Factors)
	return c
}

// rebuild makes everything follow a new Store.
func (c *core) rebuild(now time.Time, update source.Update) {
	before, first := c.store, c.catalog == nil
	var verdicts []catalog.Verdict
	if !first {
		verdicts = c.catalog.Verdicts
	}
	if first && len(c.lastGood) > 0 && update.Store.Len() == 0 {
		// Nobody has deleted everything while we were away; what was saved knows better.
		c.store = update.Store
		complain(c.log, before, update.Store, nil, nil)
		c.overdue()
		return
	}
	c.guard("resolving the objects", func() {
		next := catalog.Build(c.catalog, update.Store, c.options.Catalog)
		complain(c.log, before, update.Store, verdicts, next.Verdicts)
		c.catalog, c.store = next, update.Store
	})
	if c.catalog == nil {
		return
	}
	cause := causeOf(before, update, first)
	why := cause.why
	c.log.Info("objects changed", "objects", why)
	changed, whole := c.followServices(now, why)
	c.assign()
	if first || whole || c.fleetsDiffer() {
		c.rebuildFleets(now, cause)
	} else {
		c.patch(changed, true)
	}
	c.takeOver()
	c.audit(now, before, update, first)
}

// followServices makes the services those of the catalog. It returns the assignments that changed, by
// service, and whether more than these may differ in what is served.
func (c *core) followServices(now time.Time, why string) (changed map[string]*snapshot.Resource, whole bool) {
	changed = map[string]*snapshot.Resource{}
	for name, object := range c.catalog.Services {
		s := c.services[name]
		if s != nil && s.object == object {
			continue
		}
		if s == nil {
			s = &service{cluster: c.savedCluster(name)}
			if state, ok := c.restored.Services[name]; ok {
				if err := c.machineOf(name, s).Restore(state, now); err != nil {
					c.log.Warn("a service's saved weights are ignored", "service", name, "error", err)
				}
				if c.frozen {
					s.machine.Freeze(byOperator)
				}
				delete(c.restored.Services, name)
			}
			c.services[name] = s
		}
		was := *s
		c.guard("service "+name, func() {
			c.forgetLeft(s.object, object)
			s.object = object
			s.sources = sourcesOf(object, s.sources)
			s.cluster = c.encode(translate.Cluster(object), s.cluster)
			c.decided(s, c.members(now, s), why)
			if !object.HasPolicy && s.machine != nil {
				s.machine.Rest() // it is not stepped
			}
		})
		switch {
		case was.object == nil, was.assignment == nil, s.assignment == nil, s.cluster != was.cluster, !slices.Equal(was.object.Readers, object.Readers):
			whole = true
		case s.assignment != was.assignment:
			changed[name] = s.assignment
		}
	}
	for name, s := range c.services {
		if c.catalog.Services[name] == nil {
			c.forgetLeft(s.object, nil)
			delete(c.services, name)
			whole = true
			c.telling[name] = ""
		}
	}
	return changed, whole
}

// machineOf is a service's machine, from now on if there was none.
func (c *core) machineOf(name string, s *service) *weights.Machine {
	if s.machine == nil {
		s.machine = weights.NewMachine(name)
		if c.frozen {
			s.machine.Freeze(byOperator)
		}
	}
	return s.machine
}

// fleetsDiffer says whether any fleet is not the catalog's of now, or was not made whole.
func (c *core) fleetsDiffer() bool {
	for name, object := range c.catalog.Fleets {
		if f := c.fleets[name]; f == nil || f.object != object || f.newest == nil {
			return true
		}
	}
	for name, f := range c.fleets {
		if c.catalog.Fleets[name] == nil && f.object != nil {
			return true
		}
	}
	return false
}

// rebuildFleets makes of everything anew what is served.
func (c *core) rebuildFleets(now time.Time, cause cause) {
	if !c.hearing && slices.ContainsFunc(slices.Collect(maps.Values(c.catalog.Fleets)), hasQuotas) {
		c.look(now) // a follower has its leader's word
	}
	for name, object := range c.catalog.Fleets {
		f := c.fleets[name]
		if f == nil {
			f = &fleet{}
			c.fleets[name] = f
		}
		c.guard("fleet "+name, func() { c.rebuildFleet(now, f, object, cause) })
	}
	for name, f := range c.fleets {
		if c.catalog.Fleets[name] == nil && f.object != nil {
			// Its Envoys lose their listeners first, then the rest.
			f.object, f.resources = nil, nil
			c.endPin(f, name, "its Gateway is gone")
			c.serve(now, f, name, snapshot.New(), cause)
		}
	}
	c.rebuildEDSOnly()
}

// rebuildEDSOnly makes the snapshots of clients that bring listeners and clusters of their own: the
// assignments of a namespace and those that a ReferenceGrant opens to it.
func (c *core) rebuildEDSOnly() {
	readable := map[string][]*snapshot.Resource{}
	for key := range c.edsOnly {
		readable[key] = nil // a namespace that lost its services is served nothing
	}
	for _, name := range slices.Sorted(maps.Keys(c.services)) {
		s := c.services[name]
		if s.assignment == nil {
			continue
		}
		for _, key := range edsOnlyKeys(s.object) {
			readable[key] = append(readable[key], s.assignment)
		}
	}
	for key, assignments := range readable {
		next := snapshot.New(assignments...)
		if before := c.edsOnly[key]; before == nil || !before.Equal(next) {
			c.edsOnly[key] = next
			c.hand(key, next, true)
		}
	}
}

// edsOnlyPrefix begins the keys of clients that have listeners and clusters of their own.
const edsOnlyPrefix = "eds:"

func edsOnlyKeys(s *catalog.Service) []string {
	keys := []string{edsOnlyPrefix + s.Namespace}
	for _, namespace := range s.Readers {
		keys = append(keys, edsOnlyPrefix+namespace)
	}
	return keys
}

// step moves every Service's weights by one tick.
func (c *core) step(now time.Time, readings []signals.Reading) {
	c.contract(now)
	if !c.role.Leads {
		return
	}
	c.assign()
	c.quotas(now)
	clear(c.workers)
	c.turn++
	byService := c.merge(now, readings)
	changed := map[string]*snapshot.Resource{} // assignments by service
	for name, s := range c.services {
		if s.object == nil || !s.object.HasPolicy {
			continue // equal endpoints need no ticks
		}
		c.guard("weights of "+name, func() {
			before := s.assignment
			c.decided(s, s.machine.Step(now, c.weighed(s.object), byService[name]), "")
			if s.assignment != before {
				changed[name] = s.assignment
			} else {
				c.tellInTurn(name, s)
			}
		})
	}
	if len(changed) > 0 {
		c.patch(changed, false)
	}
	c.adapt(now)
	// Estimates move between publications; a restart should not begin with old ones.
	c.unsaved = c.unsaved || now.Sub(c.savedAt) >= saveAtLeastEvery
}

const saveAtLeastEvery = 10 * time.Second

// merge is one reading of each endpoint of which there is news, by service.
func (c *core) merge(now time.Time, news []signals.Reading) map[string][]signals.Reading {
	told := map[signals.Key]*signals.Sources{}
	for _, r := range news {
		if s := c.services[r.Endpoint.Service]; s != nil && s.sources[r.Endpoint.Address] != nil {
			told[r.Endpoint] = s.sources[r.Endpoint.Address]
			told[r.Endpoint].Add(r)
		}
	}
	merged := map[string][]signals.Reading{}
	for key, sources := range told {
		if r, ok := sources.Merged(now); ok {
			merged[key.Service] = append(merged[key.Service], r)
			c.readings[key], c.readingsShown = r, nil
		}
	}
	return merged
}

// sourcesOf are those of a service's endpoints; what is known of those that stay is kept. Without a
// policy nothing is read of them.
func sourcesOf(s *catalog.Service, before map[string]*signals.Sources) map[string]*signals.Sources {
	if !s.HasPolicy {
		return nil
	}
	sources := make(map[string]*signals.Sources, len(s.Endpoints))
	for _, e := range s.Endpoints {
		sources[e.Address] = cmp.Or(before[e.Address], &signals.Sources{})
	}
	return sources
}

// decided takes a Service's new decisions and, if they or its endpoints are to be sent, its new
// assignment. why is what happened, where it was not a tick.
func (c *core) decided(s *service, decisions weights.Decisions, why string) {
	s.decisions, s.shown = decisions, nil
	if s.machine == nil {
		s.decisions.Endpoints = nil
	}
	if !decisions.Publish && why == "" && s.assignment != nil {
		return
	}
	next := c.encode(translate.Assignment(s.object, &decisions), s.assignment)
	if next == s.assignment {
		return
	}
	s.assignment = next
	cause := cmp.Or(decisions.Cause, why)
	s.pushes = appendBounded(s.pushes, snapshot.Push{At: decisions.At, Why: cause, Weights: published(decisions)})
	c.unsaved = true
	c.telling[s.object.Name] = cause
	reason, _, _ := strings.Cut(cause, ":")
	if why != "" && reason != byLeader {
		reason = "objects"
	}
	c.metrics.pushes.WithLabelValues(decisions.Service, reason).Inc()
}

// patch puts changed assignments into everything that serves them. objects says that objects changed them.
func (c *core) patch(changed map[string]*snapshot.Resource, objects bool) {
	for name, f := range c.fleets {
		if f.newest == nil && f.served != nil && changed[translate.RLSCluster] != nil { // it was restored
			if next := patched(f.served, changed); next != f.served {
				f.served = next
				c.hand(name, next, objects)
			}
		}
		if f.object == nil || f.newest == nil {
			continue
		}
		f.newest = patched(f.newest, changed)
		served := f.newest
		if f.pin != nil {
			served = patched(f.served, changed)
		}
		if served != f.served {
			f.served = served
			c.hand(name, served, objects)
		}
	}
	byKey := map[string][]*snapshot.Resource{}
	for name, r := range changed {
		if name == translate.RLSCluster {
			continue // they bring listeners of their own, and no limits
		}
		for _, key := range edsOnlyKeys(c.services[name].object) {
			byKey[key] = append(byKey[key], r)
		}
	}
	for key, mine := range byKey {
		c.edsOnly[key] = c.edsOnly[key].WithEndpoints(mine...)
		c.hand(key, c.edsOnly[key], objects)
	}
}

// patched is s with what changed of the assignments that it has.
func patched(s *snapshot.Snapshot, changed map[string]*snapshot.Resource) *snapshot.Snapshot {
	var mine []*snapshot.Resource
	for name, r := range changed {
		if s.Get(translate.EDS, name) != nil {
			mine = append(mine, r)
		}
	}
	return s.WithEndpoints(mine...)
}

// encode validates and encodes a resource; one that is refused is replaced by before, which may be nil.
func (c *core) encode(r translate.Resource, before *snapshot.Resource) *snapshot.Resource {
	encoded, err := snapshot.EncodeAfter(before, r)
	key := resourceKey(r.Type, r.Name)
	if refusal, ok := errors.AsType[*snapshot.Refusal](err); ok {
		c.log.Error("a resource did not pass validation; the one before is kept", "error", err, "served", before != nil)
		c.refused[key] = refusal
		return before
	}
	delete(c.refused, key)
	return encoded
}

func resourceKey(t translate.Type, name string) string { return string(t) + " " + name }

const byOperator = "frozen by an operator"

// freeze holds or releases the weights of one service, or of all, those to come included.
func (c *core) freeze(by, name string, frozen bool) error {
	if err := c.role.MayAct(); err != nil {
		return err
	}
	if name != "" && c.services[name] == nil {
		return fmt.Errorf("no service %q; a service is named <namespace>/<name>:<port>", name)
	}
	if name == "" {
		c.frozen = frozen
	}
	for n, s := range c.services {
		switch {
		case name != "" && n != name:
		case name == "" && s.machine == nil: // there is nothing to hold
		case frozen:
			c.machineOf(n, s).Freeze(byOperator)
		default:
			c.machineOf(n, s).Unfreeze()
		}
		if name == "" || n == name {
			c.telling[n] = ""
		}
	}
	c.unsaved = true
	record := audit.Record{By: by, Op: "freeze", Object: cmp.Or(name, "all services"), Result: audit.Accepted}
	if !frozen {
		record.Op = "unfreeze"
	}
	audit.Log(c.log, []audit.Record{record})
	return nil
}

// takeState is what a restart goes on from, if it has to be saved.
func (c *core) takeState(now time.Time) (lastgood.State, bool) {
	if !c.unsaved || c.catalog == nil { // what was restored would be overwritten with nothing
		return lastgood.State{}, false
	}
	c.unsaved, c.savedAt = false, now
	state := lastgood.State{
		SavedAt:     now,
		Frozen:      c.frozen,
		Factors:     c.limits.factors,
		Services:    map[string]weights.MachineState{},
		Generations: make(map[string]lastgood.Generation, len(c.fleets)),
	}
	for name, s := range c.services {
		if s.machine != nil {
			state.Services[name] = s.machine.State()
		}
	}
	for name, f := range c.fleets {
		if f.newest == nil {
			continue
		}
		state.Generations[name] = lastgood.Generation{Number: f.number, Content: f.newest.Content(), NoQuotas: c.hasOld(name)}
	}
	return state, true
}

// takeOutgoing is what the cache is to be given since the last call, in order.
func (c *core) takeOutgoing() []outgoing {
	out := c.outgoing
	c.outgoing = nil
	return out
}

// forgetLeft drops the readings of endpoints that are in before and not in after.
func (c *core) forgetLeft(before, after *catalog.Service) {
	if before == nil {
		return
	}
	for _, e := range before.Endpoints {
		if after == nil || !slices.ContainsFunc(after.Endpoints, func(a catalog.Endpoint) bool { return a.Address == e.Address }) {
			delete(c.readings, signals.Key{Service: before.Name, Address: e.Address})
			c.readingsShown = nil
		}
	}
}

// guard keeps a panic in one object's work from the others'. What was served for it stays.
func (c *core) guard(what string, do func()) {
	defer func() {
		if p := recover(); p != nil {
			c.metrics.panics.Inc()
			c.log.Error("a bug in this program: the work was abandoned, what was served before stays", "work", what, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	do()
}

// appendBounded appends to a slice that readers may still hold: it copies.
func appendBounded[T any](s []T, v T) []T {
	s = append(slices.Clone(s), v)
	return s[max(0, len(s)-historyLength):]
}

func published(d weights.Decisions) []snapshot.EndpointWeight {
	sent := make([]snapshot.EndpointWeight, len(d.Endpoints))
	for i, e := range d.Endpoints {
		sent[i] = snapshot.EndpointWeight{Address: e.Key.Address, Weight: e.Weight}
	}
	return sent
}
