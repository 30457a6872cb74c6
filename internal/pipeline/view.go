package pipeline

import (
	"errors"
	"maps"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/weights"
)

// View is everything that is known and served at one moment. Immutable.
type View struct {
	notReady error
	store    *source.Store
	catalog  *catalog.Catalog
	refusals []*snapshot.Refusal
	services map[string]*shown
	readings map[signals.Key]signals.Reading
	fleets   map[string]servedFleet
	lastGood time.Time
	limits   map[string]LimitsServed
	// reference is what reference rate limit services are served, nil for nothing.
	reference *snapshot.Snapshot
}

// shown is what readers see of a service. Immutable.
type shown struct {
	decisions weights.Decisions
	even      bool // the decisions name no endpoints: all are equal
	pushes    []snapshot.Push
}

type servedFleet struct {
	snapshot *snapshot.Snapshot
	number   uint64
	history  []snapshot.Generation
	pin      *snapshot.Pin
}

// view is what readers may see, before where nothing was built yet. What is as it was before is shared: most
// jobs change nothing that is seen, or one service of many.
func (c *core) view(before *View) *View {
	if c.catalog == nil && len(c.lastGood) == 0 {
		return before
	}
	if c.readingsShown == nil {
		c.readingsShown = maps.Clone(c.readings)
	}
	v := &View{
		store:    c.store,
		catalog:  c.catalog,
		services: c.show(before),
		readings: c.readingsShown,
		fleets:   make(map[string]servedFleet, len(c.fleets)),
		limits:   c.limits.rulesServed(),

		reference: c.limits.reference,
	}
	switch {
	case c.late:
		v.lastGood = newestOf(c.lastGood)
	case c.catalog == nil:
		v.notReady = errors.New("waiting for the first complete set of objects; what was saved is served meanwhile")
	}
	for _, key := range slices.Sorted(maps.Keys(c.refused)) {
		v.refusals = append(v.refusals, c.refused[key])
	}
	for name, f := range c.fleets {
		served := servedFleet{f.served, f.number, f.history, nil}
		if f.pin != nil {
			pin := f.pin.Pin
			served.number, served.pin = pin.Number, &pin
		}
		v.fleets[name] = served
	}
	return v
}

// show is what readers see of the services: the map of before if that is all the same.
func (c *core) show(before *View) map[string]*shown {
	same := before != nil && len(before.services) == len(c.services)
	for name, s := range c.services {
		if s.shown == nil {
			s.shown = &shown{decisions: s.decisions, even: s.decisions.Endpoints == nil, pushes: s.pushes}
		}
		same = same && before.services[name] == s.shown
	}
	if same {
		return before.services
	}
	all := make(map[string]*shown, len(c.services))
	for name, s := range c.services {
		all[name] = s.shown
	}
	return all
}

// Ready is nil once the sources were read completely and everything was built from them, or, where that
// takes too long, what was saved before the start is served.
func (v *View) Ready() error { return v.notReady }

// LastKnownGood is when what is served was saved, while the objects cannot be read since the start; zero
// where what is served is made of the objects.
func (v *View) LastKnownGood() time.Time { return v.lastGood }

// Store is nil before the objects were read.
func (v *View) Store() *source.Store { return v.store }

// Catalog is nil before the objects were read.
func (v *View) Catalog() *catalog.Catalog { return v.catalog }

// Refusals are resources that did not pass our own validation.
func (v *View) Refusals() []*snapshot.Refusal { return v.refusals }

// Decisions are the weights of a Service and their reasons.
func (v *View) Decisions(service string) (weights.Decisions, bool) {
	s, ok := v.services[service]
	if !ok {
		return weights.Decisions{}, false
	}
	if object := v.catalog.Services[service]; s.even && object != nil {
		return weights.Even(s.decisions.At, service, addresses(object)), true
	}
	return s.decisions, true
}

// Reading is the newest reading of an endpoint that was used.
func (v *View) Reading(endpoint signals.Key) (signals.Reading, bool) {
	r, ok := v.readings[endpoint]
	return r, ok
}

// Fleets are the names of the fleets, sorted, deleted ones included while their Envoys may be there.
func (v *View) Fleets() []string { return slices.Sorted(maps.Keys(v.fleets)) }

// Snapshot is what a fleet is served, and the number of its generation; of translate.RLSFleet what reference rate limit
// services are served, which has none.
func (v *View) Snapshot(fleet string) (*snapshot.Snapshot, uint64, bool) {
	if fleet == translate.RLSFleet {
		return v.reference, 0, v.reference != nil
	}
	f, ok := v.fleets[fleet]
	return f.snapshot, f.number, ok && f.snapshot != nil
}

// Pin is what a fleet is pinned to, nil if it is served its newest generation.
func (v *View) Pin(fleet string) *snapshot.Pin { return v.fleets[fleet].pin }

// Limits are the limits that a fleet is served.
func (v *View) Limits(fleet string) LimitsServed { return v.limits[fleet] }

// Generations are a fleet's last generations, the oldest first.
func (v *View) Generations(fleet string) []snapshot.Generation { return v.fleets[fleet].history }

// Pushes are the last times a Service's endpoints or weights were sent, the oldest first.
func (v *View) Pushes(service string) []snapshot.Push {
	if s := v.services[service]; s != nil {
		return s.pushes
	}
	return nil
}

// ResourceSource is the object behind a resource that a fleet, or an EDS-only client, is served.
func (v *View) ResourceSource(fleet string, t translate.Type, name string) (string, bool) {
	if s := v.fleets[fleet].snapshot; s != nil {
		if r := s.Get(t, name); r != nil {
			return r.Source, true
		}
	}
	if t == translate.EDS && v.catalog != nil && v.catalog.Services[name] != nil {
		return v.catalog.Services[name].Object.String(), true
	}
	return "", false
}
