package session

import (
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// Response is a discovery response to be sent.
type Response struct {
	Type    translate.Type
	Nonce   string
	Version string // of the type, system_version_info or version_info
	// Generation of the fleet that the resources belong to, 0 if there is none.
	Generation uint64
	Resources  int // how many it carries
	// Wire is the encoded message in parts. They are shared with other clients' and must not be changed.
	Wire [][]byte
}

// content is what a response will say.
type content struct {
	update *snapshot.Update              // said whole, of a client that lacked nothing else
	told   map[string]*snapshot.Resource // said by name; nil: that there is none
	whole  bool                          // with it the client has all that it wants
}

func (c content) empty() bool { return c.update == nil && len(c.told) == 0 }

// turn says which part of what is due may be sent.
type turn int

const (
	arrivals   turn = 1 << iota // new and changed resources, and answers to names that were asked for
	departures                  // resources that are no more
	both       = arrivals | departures
)

// order is make before break. Clusters that leave wait until nothing is left to say to routes. A listener
// that leaves goes with the one that comes, which may want its address.
var order = []struct {
	kind translate.Type
	turn turn
}{
	{translate.CDS, arrivals}, {translate.EDS, arrivals},
	{translate.LDS, both}, {translate.RDS, both}, {translate.ECDS, both}, {translate.RTDS, both}, {translate.RLS, both},
	{translate.CDS, departures}, {translate.EDS, departures},
}

// Next is the response to send now, nil if none is due. If only the passing of time can make one due,
// it is after wait; 0 otherwise. served is what the fleet is to be served, nil if there is no such fleet.
func (s *Session) Next(now time.Time, served *snapshot.Snapshot) (_ *Response, wait time.Duration) {
	if served == nil {
		return nil, 0
	}
	later := func(d time.Duration) {
		if wait == 0 || d < wait {
			wait = d
		}
	}
	for _, o := range order {
		sub := s.of(o.kind)
		if sub == nil || sub.flight != nil {
			continue
		}
		if held, d := s.waits(now, o.kind, o.turn); held {
			if d > 0 {
				later(d)
			}
			continue
		}
		if left := sub.probeAt.Sub(now); left > 0 && sub.refusesAll() {
			later(left)
			continue
		}
		if o.turn&arrivals != 0 {
			if d := sub.reconsider(now); d > 0 {
				later(d)
			}
		}
		var only func(string) bool
		if o.kind == translate.EDS {
			var left time.Duration
			if only, left = s.warming(now); only != nil {
				later(left)
			}
		}
		to := served.Table(o.kind)
		c := s.due(sub, to, o.turn, only)
		if c.empty() && (o.turn == departures || sub.greeted || !sub.wanted.Wildcard()) {
			continue
		}
		if c.empty() {
			c.told = map[string]*snapshot.Resource{} // what the client has, and no more
		}
		return s.send(now, sub, served, c), 0
	}
	return nil, wait
}

// warming says which load assignments may be sent while clusters are not acknowledged: those of these
// clusters; nil for all. An Envoy that refuses one assignment ends the wait of every cluster that is
// warming, without hosts, and answers 503 for it until it gets them again: what might be refused waits.
func (s *Session) warming(now time.Time) (only func(name string) bool, left time.Duration) {
	clusters := s.of(translate.CDS)
	if clusters == nil || clusters.flight == nil {
		return nil, 0
	}
	if left = clusters.flight.at.Add(s.opts.Wait).Sub(now); left <= 0 {
		return nil, 0
	}
	names := map[string]bool{}
	for cluster := range clusters.flight.resources() {
		for _, name := range cluster.Refs[translate.EDS] {
			names[name] = true
		}
	}
	return func(name string) bool { return names[name] }, left
}

// waits says whether this turn has to wait for an acknowledgement of another type, and for how long at
// most: listeners and routes for the clusters that they may name, clusters that leave for the routes, and
// clusters that change for load assignments, which might be refused while they warm.
// A client that does not answer waits no longer than Options.Wait; one that refused the routes keeps
// the clusters for as long as it does.
func (s *Session) waits(now time.Time, kind translate.Type, t turn) (bool, time.Duration) {
	var before []translate.Type
	switch {
	case kind == translate.CDS && t == arrivals:
		before = []translate.Type{translate.EDS}
	case kind == translate.LDS, kind == translate.RDS:
		before = []translate.Type{translate.CDS}
	case t == departures && (kind == translate.CDS || kind == translate.EDS):
		before = []translate.Type{translate.LDS, translate.RDS}
	}
	for _, other := range before {
		sub := s.of(other)
		if sub == nil {
			continue
		}
		if t == departures && len(sub.parked) > 0 && (kind == translate.CDS || kind == translate.EDS) {
			return true, 0
		}
		if sub.flight == nil {
			continue
		}
		if left := sub.flight.at.Add(s.opts.Wait).Sub(now); left > 0 {
			return true, left
		}
	}
	return false, 0
}

// due is what there is to say to the client in this turn, of the names in only, nil for all.
func (s *Session) due(sub *subscription, to *snapshot.Table, t turn, only func(string) bool) content {
	for {
		c := s.dueNow(sub, to, t, only)
		if len(sub.groups) == 0 || !c.empty() || t&arrivals == 0 || only != nil {
			return c
		}
		sub.groups = sub.groups[1:] // of these nothing is due any more
	}
}

func (s *Session) dueNow(sub *subscription, to *snapshot.Table, t turn, only func(string) bool) content {
	if sub.refusesAll() {
		return s.probe(sub, to, t, only)
	}
	if only == nil && len(sub.held) == 0 && len(sub.parked) == 0 && len(sub.groups) == 0 && s.opts.Protocol == Delta {
		u := to.Update(sub.base, sub.wanted)
		switch {
		case len(u.Resources)+len(u.Removed) == 0:
			sub.base = to // nothing that this client wants differs
			return content{}
		case len(u.Removed) == 0 && t&arrivals != 0:
			return content{update: u, whole: true}
		}
	}
	c := content{told: map[string]*snapshot.Resource{}, whole: true}
	consider := func(name string) {
		if _, done := c.told[name]; done {
			return
		}
		want, now, ever := s.dueOf(sub, to, t, only, name)
		if now {
			c.told[name] = want
		}
		c.whole = c.whole && (now || !ever)
	}
	for _, name := range to.Since(sub.base) {
		consider(name)
	}
	for name := range sub.held {
		consider(name)
	}
	if len(c.told) == 0 && c.whole && !sub.base.Same(to) {
		sub.settle(&flight{to: to, moment: s.moment}) // it has what it wants, or cannot be told better
	}
	return c
}

// dueOf says whether the client is to be told of a name in this turn, or else in another.
func (s *Session) dueOf(sub *subscription, to *snapshot.Table, t turn, only func(string) bool, name string) (want *snapshot.Resource, now, ever bool) {
	if !sub.wanted.Wants(name) {
		return nil, false, false
	}
	has, want := sub.has(name), sub.want(to, name)
	switch {
	case !has.owed && has.version == versionOf(want):
		return nil, false, false
	case only != nil && !only(name), sub.withheld(name, versionOf(want)):
		return nil, false, true
	case t == arrivals && want == nil && !has.owed, t == departures && (want != nil || has.owed):
		return nil, false, true
	case want == nil && s.opts.Protocol == SotW && !fullState(sub.kind):
		return nil, false, false // the protocol has no way to say that there is none
	}
	return want, true, true
}

// probe is what is due for a client that refuses everything: one resource, not always the same.
func (s *Session) probe(sub *subscription, to *snapshot.Table, t turn, only func(string) bool) content {
	for name := range sub.candidates(to) {
		if want, now, _ := s.dueOf(sub, to, t, only, name); now {
			return content{told: map[string]*snapshot.Resource{name: want}}
		}
	}
	return content{}
}

// candidates are the names of which something may be due, some twice.
func (sub *subscription) candidates(to *snapshot.Table) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range sub.held {
			if !yield(name) {
				return
			}
		}
		if sub.wanted.Wildcard() {
			for name := range to.All() {
				if !yield(name) {
					return
				}
			}
		}
		named := slices.Collect(sub.wanted.Names())
		for i := range named {
			if !yield(named[(i+int(sub.counts.Sent))%len(named)]) {
				return
			}
		}
	}
}

// fullState says whether SotW responses of the type hold all that there is, and what they do not hold
// is gone.
func fullState(kind translate.Type) bool {
	return kind == translate.CDS || kind == translate.LDS || kind == translate.RLS
}

// send makes the response, and remembers it until it is answered.
func (s *Session) send(now time.Time, sub *subscription, served *snapshot.Snapshot, c content) *Response {
	to := served.Table(sub.kind)
	s.moment++
	sub.counts.Sent++
	nonce := strconv.FormatUint(sub.counts.Sent, 10)
	f := &flight{nonce: nonce, at: now, to: to, moment: s.moment, content: c}
	if len(sub.groups) > 0 {
		sub.groups = sub.groups[1:]
	}
	r := &Response{Type: sub.kind, Nonce: nonce, Generation: served.Generation()}
	sub.greeted = true
	if c.update != nil && s.opts.Protocol == Delta {
		r.Resources = len(c.update.Resources)
		r.Version = to.Version()
		r.Wire = [][]byte{s.header(sub, r, nil), c.update.Delta()}
	} else if s.opts.Protocol == Delta {
		resources, removed := split(c.told)
		r.Resources = len(resources)
		r.Version = to.Version()
		r.Wire = parts(s.header(sub, r, removed), resources, (*snapshot.Resource).Delta)
	} else {
		resources := s.state(sub, to, c.told)
		r.Resources = len(resources)
		r.Version = s.stateVersion(sub, to, c.told)
		r.Wire = parts(s.header(sub, r, nil), resources, (*snapshot.Resource).SotW)
	}
	f.version = r.Version
	sub.flight, sub.nonce = f, nonce
	sub.sent, sub.sentAt = r.Version, now
	if sub.kind == translate.CDS {
		s.followWithEndpoints(sub, f, c)
	}
	return r
}

// parts are the header and the resources, each in the bytes that all streams share: a fleet that connects at once
// does not have a copy of everything for each of its nodes.
func parts(header []byte, resources []*snapshot.Resource, form func(*snapshot.Resource) []byte) [][]byte {
	wire := make([][]byte, 0, 1+len(resources))
	wire = append(wire, header)
	for _, r := range resources {
		wire = append(wire, form(r))
	}
	return wire
}

// followWithEndpoints has the load assignments of changed clusters sent again after them. An Envoy takes
// a changed cluster for a new one, which waits for an assignment that it has and does not ask for.
func (s *Session) followWithEndpoints(clusters *subscription, f *flight, c content) {
	endpoints := s.of(translate.EDS)
	if endpoints == nil {
		return
	}
	for cluster := range c.resources() {
		if clusters.has(cluster.Name).version == "" {
			continue // a new one; the client will ask
		}
		for _, name := range cluster.Refs[translate.EDS] {
			if endpoints.wanted.Wants(name) {
				s.owe(endpoints, name)
			}
		}
	}
}

// resources are those that the response carries.
func (c content) resources() iter.Seq[*snapshot.Resource] {
	return func(yield func(*snapshot.Resource) bool) {
		if c.update != nil {
			for _, r := range c.update.Resources {
				if !yield(r) {
					return
				}
			}
		}
		for _, r := range c.told {
			if r != nil && !yield(r) {
				return
			}
		}
	}
}

// split parts what is told into resources and names of none, both sorted by name.
func split(told map[string]*snapshot.Resource) (resources []*snapshot.Resource, removed []string) {
	for _, name := range slices.Sorted(maps.Keys(told)) {
		if r := told[name]; r != nil {
			resources = append(resources, r)
		} else {
			removed = append(removed, name)
		}
	}
	return resources, removed
}

// state is what a SotW response carries: of full-state types all that the client has with what it is
// told in its place, of others what it is told.
func (s *Session) state(sub *subscription, to *snapshot.Table, told map[string]*snapshot.Resource) []*snapshot.Resource {
	if !fullState(sub.kind) {
		resources, _ := split(told)
		return resources
	}
	after := map[string]*snapshot.Resource{}
	s.eachAfter(sub, to, told, func(name string, h held) {
		if h.resource != nil {
			after[name] = h.resource
		}
	})
	resources, _ := split(after)
	return resources
}

// stateVersion is the version of what a SotW client has after it was told this: that of its table if that
// is all of it, and in any case the same for the same names and versions, so that a client that comes
// back with it can be known.
func (s *Session) stateVersion(sub *subscription, to *snapshot.Table, told map[string]*snapshot.Resource) string {
	var versions snapshot.Sum
	s.eachAfter(sub, to, told, func(name string, h held) {
		if h.version != "" {
			versions.Add(name, h.version)
		}
	})
	return versions.String()
}

// eachAfter visits what the client has of each name once it was told. Without told it is taken to have
// all that it wants of to.
func (s *Session) eachAfter(sub *subscription, to *snapshot.Table, told map[string]*snapshot.Resource, visit func(string, held)) {
	names := map[string]bool{}
	for name := range sub.wanted.Names() {
		names[name] = true
	}
	if sub.wanted.Wildcard() {
		for _, table := range []*snapshot.Table{sub.base, to} {
			for name := range table.All() {
				names[name] = true
			}
		}
		for name := range sub.held {
			names[name] = true
		}
	}
	for name := range names {
		h := sub.has(name)
		if r, is := told[name]; is || told == nil {
			if told == nil {
				r = sub.want(to, name)
			}
			h = held{version: versionOf(r), resource: r}
		}
		visit(name, h)
	}
}

// Numbers of fields, as in envoy/service/discovery/v3/discovery.proto, and of config/core/v3/base.proto.
const (
	planeIdentifier                                                     = 1
	deltaVersion, deltaURL, deltaNonce, deltaRemoved, deltaControlPlane = 1, 4, 5, 6, 7
	sotwVersion, sotwURL, sotwNonce, sotwControlPlane                   = 1, 4, 5, 6
)

// header is all of the message but its resources.
func (s *Session) header(sub *subscription, r *Response, removed []string) []byte {
	version, url, nonce, plane := protowire.Number(deltaVersion), protowire.Number(deltaURL), protowire.Number(deltaNonce), protowire.Number(deltaControlPlane)
	if s.opts.Protocol == SotW {
		version, url, nonce, plane = sotwVersion, sotwURL, sotwNonce, sotwControlPlane
	}
	identifier := s.opts.Identifier
	if r.Generation > 0 {
		identifier += "/" + strconv.FormatUint(r.Generation, 10)
	}
	b := make([]byte, 0, 24+len(r.Version)+len(sub.url)+len(r.Nonce)+len(identifier))
	b = appendString(b, version, r.Version)
	b = appendString(b, url, sub.url)
	b = appendString(b, nonce, r.Nonce)
	b = protowire.AppendTag(b, plane, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(protowire.SizeTag(planeIdentifier)+protowire.SizeBytes(len(identifier))))
	b = appendString(b, planeIdentifier, identifier)
	for _, name := range removed {
		b = appendString(b, deltaRemoved, name)
	}
	return b
}

func appendString(b []byte, number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), s)
}
