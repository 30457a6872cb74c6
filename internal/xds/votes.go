package xds

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// Case is a version of a resource that somebody refused. Replicas that make the same of the same objects have
// the same versions.
//
//	follower ── votes on what was refused there, or asked about ──▶ leader
//	         ◀── cases that are open, verdicts ────────────────────
//
// Nothing in this waits for anybody: nodes keep what they have, and whether the others are spared a version
// that they would refuse as well may take the seconds that messages take.
type Case struct {
	Fleet   string         `json:"fleet"`
	GRPC    bool           `json:"grpc,omitempty"` // in the rendering for gRPC clients
	Type    translate.Type `json:"type"`
	Name    string         `json:"name"`
	Version string         `json:"version"`
}

func (c Case) compare(o Case) int {
	grpc := func(c Case) int {
		if c.GRPC {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(c.Fleet, o.Fleet), cmp.Compare(c.Type, o.Type), cmp.Compare(c.Name, o.Name), cmp.Compare(c.Version, o.Version),
		cmp.Compare(grpc(c), grpc(o)))
}

// Vote is what the nodes of one replica make of a Case.
type Vote struct {
	Case
	Served    bool     `json:"served,omitempty"` // or would be, were it not taken back
	Nodes     int      `json:"nodes,omitempty"`  // that are served the fleet in this rendering
	RefusedBy []string `json:"refusedBy,omitempty"`
	Taken     bool     `json:"taken,omitempty"`  // by one of them
	Parked    bool     `json:"parked,omitempty"` // it was taken back there
	Good      *Good    `json:"good,omitempty"`   // what is, or would be, served instead
}

// Verdict is a Case that was decided: Good is served instead, everywhere.
type Verdict struct {
	Case
	Good *Good `json:"good"`
}

// Good is a version of the Case's resource that was accepted.
type Good struct{ *snapshot.Resource }

// encoded is a Good in JSON.
type encoded struct {
	Type    translate.Type `json:"type"`
	Name    string         `json:"name"`
	Version string         `json:"version"`
	Source  string         `json:"source,omitempty"`
	Bytes   []byte         `json:"bytes"`
}

// MarshalJSON implements json.Marshaler.
func (g *Good) MarshalJSON() ([]byte, error) {
	return json.Marshal(encoded{g.Type, g.Name, g.Version, g.Source, g.Bytes})
}

// UnmarshalJSON implements json.Unmarshaler. What it makes is checked as if it had been made here; what is not
// valid is left out, and the rest of the message counts.
func (g *Good) UnmarshalJSON(raw []byte) error {
	var e encoded
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	g.Resource, _ = snapshot.Decode(e.Type, e.Name, e.Version, e.Source, e.Bytes)
	return nil
}

// replaces says whether a Good that came from elsewhere can be served in place of the Case's version.
func (g *Good) replaces(what Case) bool {
	return g != nil && g.Resource != nil && g.Type == what.Type && g.Name == what.Name && g.Version != what.Version
}

const (
	// maxCases bounds the cases that replicas tell each other of at a time, and what of the resources in them;
	// the others come when these are closed.
	maxCases     = 64
	maxGoodBytes = 1 << 20
)

// votes is what is known of the judgement of all replicas. Nobody who holds a lock of a stream, of the Registry
// or of a Cache waits for this one.
type votes struct {
	mu       sync.Mutex
	of       map[string]map[Case]Vote // by replica
	verdicts map[Case]*Good           // found here
	given    map[Case]*Good           // by the leader, of a replica that follows
}

// Votes are those of this replica's nodes on what they refused and what the leader asks about.
func (r *Registry) Votes(asked []Case) []Vote {
	r.prune()
	open := append(r.refusals.cases(), asked...)
	r.votes.mu.Lock()
	verdicts := maps.Clone(r.votes.verdicts)
	r.votes.mu.Unlock()
	open = slices.AppendSeq(open, maps.Keys(verdicts))
	slices.SortFunc(open, Case.compare)
	votes := []Vote{}
	bytes := 0
	for _, what := range slices.Compact(open) {
		v := r.vote(what)
		switch {
		case !v.Served && !slices.Contains(asked, what):
			continue
		case len(votes) >= maxCases:
			r.metrics.untold.Inc()
			continue
		}
		if good := verdicts[what]; good != nil {
			v.Parked, v.Good = true, good
		} else if v.Served && !v.Taken {
			v.Good = r.witnessed(&v)
		}
		if v.Good != nil {
			if bytes += len(v.Good.Bytes); bytes > maxGoodBytes {
				v.Good = nil
			}
		}
		votes = append(votes, v)
	}
	return votes
}

// vote is what is known of a Case without asking the streams, which witnessed does.
func (r *Registry) vote(what Case) Vote {
	v := Vote{Case: what}
	v.Served, _ = r.cacheFor(what.GRPC).Wants(what.Fleet, what.Type, what.Name, what.Version)
	v.RefusedBy, v.Taken = r.refusals.known(what)
	v.Nodes, _ = r.connected(what.Fleet, what.GRPC)
	return v
}

// witnessed is what a node here has accepted of the resource, nil for nothing. It finds out whether one has
// taken the version in question.
func (r *Registry) witnessed(v *Vote) (good *Good) {
	for _, s := range r.list() {
		f, version, held := s.held(v.Type, v.Name)
		switch {
		case f.fleet != v.Fleet, f.grpc() != v.GRPC:
		case version == v.Version:
			r.refusals.foundTaken(v.Case)
			v.Taken = true
			return nil
		case held != nil:
			good = &Good{held}
		}
	}
	return good
}

// Cases are those about which the leader is to know the votes of all.
func (r *Registry) Cases() []Case {
	r.prune()
	r.votes.mu.Lock()
	open := r.refusals.cases()
	for _, votes := range r.votes.of {
		for what, v := range votes {
			if v.Served && (len(v.RefusedBy) > 0 || v.Parked) {
				open = append(open, what)
			}
		}
	}
	open = slices.DeleteFunc(open, func(what Case) bool {
		v := r.vote(what)
		return r.votes.verdicts[what] != nil || v.Taken || !v.Served && !r.servedElsewhere(what)
	})
	r.votes.mu.Unlock()
	slices.SortFunc(open, Case.compare)
	open = slices.Compact(open)
	if more := len(open) - maxCases; more > 0 {
		r.metrics.untold.Add(float64(more))
		open = open[:maxCases]
	}
	return open
}

// HearVotes takes what the nodes of another replica say, in place of what they said before, and decides what
// can be decided now.
func (r *Registry) HearVotes(replica string, heard []Vote) {
	of := map[Case]Vote{}
	for _, v := range heard[:min(len(heard), maxCases)] {
		if v.Taken {
			r.refusals.foundTaken(v.Case)
		}
		if !v.Good.replaces(v.Case) {
			v.Good = nil
		}
		of[v.Case] = v
	}
	r.votes.mu.Lock()
	if r.votes.of == nil {
		r.votes.of = map[string]map[Case]Vote{}
	}
	r.votes.of[replica] = of
	r.votes.mu.Unlock()
	for _, what := range r.Cases() {
		r.rule(what)
	}
}

// ForgetVotes is called when another replica is not heard any more.
func (r *Registry) ForgetVotes(replica string) {
	r.votes.mu.Lock()
	defer r.votes.mu.Unlock()
	delete(r.votes.of, replica)
}

// votesElsewhere are the votes of other replicas, and whether these are all that have nodes of the fleet.
func (r *Registry) votesElsewhere(what Case) (votes []Vote, complete bool) {
	if r.opts.Voters == nil {
		return nil, true
	}
	voters := r.opts.Voters(what.Fleet)
	r.votes.mu.Lock()
	defer r.votes.mu.Unlock()
	for _, replica := range voters {
		if _, voted := r.votes.of[replica][what]; !voted {
			return nil, false
		}
	}
	for _, of := range r.votes.of {
		if v, voted := of[what]; voted {
			votes = append(votes, v)
		}
	}
	return votes, true
}

// servedElsewhere says whether the version is to be served by another replica. It is called with the lock.
func (r *Registry) servedElsewhere(what Case) bool {
	for _, of := range r.votes.of {
		if of[what].Served {
			return true
		}
	}
	return false
}

// elsewhereUnknown is how many nodes of a fleet other replicas have that did not vote: where none did, as many
// as this one was told of.
func (r *Registry) elsewhereUnknown(fleet string, voted int) int {
	if voted > 0 {
		return 0
	}
	_, here := r.connected(fleet, false)
	return r.opts.Elsewhere(fleet, here)
}

// takeBack gives a verdict, unless good cannot be served here in place of the version.
func (r *Registry) takeBack(what Case, good *Good, why string) {
	if r.vote(what).Served && !r.cacheFor(what.GRPC).Quarantine(what.Fleet, what.Type, what.Name, what.Version, good.Resource) {
		return
	}
	if r.opts.Voters != nil {
		r.votes.mu.Lock()
		if r.votes.verdicts == nil {
			r.votes.verdicts = map[Case]*Good{}
		}
		r.votes.verdicts[what] = good
		r.obey()
		r.votes.mu.Unlock()
	}
	r.takenBack(what, good, why)
}

// takenBack tells of a verdict.
func (r *Registry) takenBack(what Case, good *Good, why string) {
	r.opts.Log.Warn("a resource is taken back for the whole fleet", "why", why, "fleet", what.Fleet, "type", typeLabel(what.Type),
		"resource", what.Name, "source", good.Source, "version", what.Version, "instead", good.Version)
	r.changed()
}

// Verdicts are those that hold, for other replicas.
func (r *Registry) Verdicts() []Verdict {
	r.prune()
	r.votes.mu.Lock()
	defer r.votes.mu.Unlock()
	verdicts := make([]Verdict, 0, len(r.votes.verdicts))
	for what, good := range r.votes.verdicts {
		verdicts = append(verdicts, Verdict{what, good})
	}
	slices.SortFunc(verdicts, func(a, b Verdict) int { return a.Case.compare(b.Case) })
	return verdicts
}

// Rule takes over the verdicts of the leader, in place of those it gave before. What is in quarantine and not among
// them any more stays so until it changes.
func (r *Registry) Rule(verdicts []Verdict) {
	given := map[Case]*Good{}
	for _, v := range verdicts {
		if v.Good.replaces(v.Case) {
			given[v.Case] = v.Good
		}
	}
	r.votes.mu.Lock()
	before := r.votes.given
	r.votes.given = given
	r.obey()
	r.votes.mu.Unlock()
	for what, good := range given {
		if before[what] == nil {
			r.takenBack(what, good, "the leader says so")
		}
	}
}

// prune ends the verdicts about versions that are not to be served any more. Those that were given are this
// replica's own when there is no leader over it any more.
func (r *Registry) prune() {
	r.votes.mu.Lock()
	defer r.votes.mu.Unlock()
	if r.opts.Judges() && len(r.votes.given) > 0 {
		if r.votes.verdicts == nil {
			r.votes.verdicts = map[Case]*Good{}
		}
		maps.Copy(r.votes.verdicts, r.votes.given)
		r.votes.given = nil
	}
	before := len(r.votes.verdicts)
	maps.DeleteFunc(r.votes.verdicts, func(what Case, _ *Good) bool {
		wanted, parked := r.cacheFor(what.GRPC).Wants(what.Fleet, what.Type, what.Name, what.Version)
		return !parked && (wanted || !r.servedElsewhere(what))
	})
	if len(r.votes.verdicts) != before {
		r.obey()
	}
}

// obey has the caches do what the verdicts say. It is called with the lock, so that the newest are the last.
func (r *Registry) obey() {
	orders := map[bool][]snapshot.Order{false: nil, true: nil}
	for _, verdicts := range []map[Case]*Good{r.votes.verdicts, r.votes.given} {
		for what, good := range verdicts {
			orders[what.GRPC] = append(orders[what.GRPC], snapshot.Order{Key: what.Fleet, Type: what.Type, Name: what.Name, Version: what.Version, Instead: good.Resource})
		}
	}
	for grpc, of := range orders {
		r.cacheFor(grpc).Obey(of)
	}
}

// connected is how many nodes of a fleet are served a rendering, and how many any.
func (r *Registry) connected(fleet string, grpc bool) (same, all int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for node := range r.nodes {
		if node.fleet == fleet {
			all++
			if node.grpc == grpc {
				same++
			}
		}
	}
	return same, all
}
