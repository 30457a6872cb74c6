package session

import (
	"maps"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// refusals is what the client does not take, of one type.
//
// A refused response left nothing with the client, or the protocol does not say what. It is taken back as
// a whole, and what it carried is sent again: without the resource that the client's words name; where
// they name none, in two halves, and the half that is refused in two again. What is refused alone is
// parked: it is sent again when it is another version, or after a back-off, alone.
//
// A client that refuses some of these in a row is taken to refuse everything. Until it takes something again
// it is sent one resource at a time, and not often: what it costs is not to grow with what changes.
type refusals struct {
	parked map[string]string // the version that was refused, by name; "" is a removal
	// groups are what is sent before anything else, one group after the other.
	groups [][]string
	// alone counts the resources that were refused alone in a row, named the refusals in a row that blamed
	// one of several.
	alone, named int
	probeAt      time.Time // from when a client that refuses everything may be sent something
	retryAt      time.Time // from when what is parked may be sent again
	backoff      time.Duration
}

// Refusal is what a client did not take.
type Refusal struct {
	Message string
	// Suspect is the resource that is left out from now on, nil while it is looked for.
	Suspect *Suspect
	// Keeps is the version of the type that the client accepted last, "" for none.
	Keeps string
	// Resources are how many the response carried.
	Resources int
}

// Suspect is the resource that a refusal is taken to be about, in the version that was refused.
type Suspect struct {
	Name, Version string
	Source        string // the object behind it
}

const (
	// giveUp is how many resources in a row are refused alone before the client is taken to refuse
	// everything.
	giveUp = 4
	// probeEvery is how often such a client is sent one that it has not seen.
	probeEvery = time.Second
	// retries is how many parked resources are tried again at a time.
	retries = 8
)

// refusesAll says whether the client is taken to refuse everything.
func (sub *subscription) refusesAll() bool { return sub.alone >= giveUp }

// refused takes a refusal of f.
func (s *Session) refused(now time.Time, sub *subscription, f *flight, message string) *Refusal {
	sent := map[string]*snapshot.Resource{}
	for name, r := range f.told {
		sent[name] = r
	}
	if f.update != nil {
		for _, r := range f.update.Resources {
			sent[r.Name] = r
		}
	}
	out := &Refusal{Message: message, Keeps: sub.accepted, Resources: len(sent)}
	culprit, found := suspect(message, sent)
	switch {
	case len(sent) == 1:
		for culprit = range sent {
			found = true
		}
		sub.alone++
	case found:
		sub.named++
		found = sub.named <= giveUp // then halving costs less, if there is anything that it takes
	}
	if found {
		out.Suspect = &Suspect{Name: culprit, Version: versionOf(sent[culprit])}
		if r := sent[culprit]; r != nil {
			out.Suspect.Source = r.Source
		}
		sub.park(culprit, out.Suspect.Version)
		sub.backoff = min(s.opts.MaxRetry, max(s.opts.Retry, 2*sub.backoff))
		sub.retryAt = now.Add(sub.backoff)
		if sub.refusesAll() {
			sub.parkGroups(f.to)
			sub.probeAt = now.Add(probeEvery)
		}
	} else {
		names := slices.Sorted(maps.Keys(sent))
		half := len(names) / 2
		sub.groups = append([][]string{names[:half], names[half:]}, sub.groups...)
	}
	switch sub.kind {
	case translate.EDS:
		s.rescue()
	case translate.RLS:
		s.confirm(sub)
	}
	return out
}

func (sub *subscription) park(name, version string) {
	if sub.parked == nil {
		sub.parked = map[string]string{}
	}
	sub.parked[name] = version
}

// parkGroups parks what is left of the groups: a client that refuses everything is not asked for each.
func (sub *subscription) parkGroups(to *snapshot.Table) {
	for _, group := range sub.groups {
		for _, name := range group {
			sub.park(name, versionOf(sub.want(to, name)))
		}
	}
	sub.groups = nil
}

// refusing are the names of which the client refused what it is to have of to.
func (sub *subscription) refusing(to *snapshot.Table) []string {
	var names []string
	for name, version := range sub.parked {
		if version == versionOf(sub.want(to, name)) {
			names = append(names, name)
		}
	}
	return names
}

// acceptedSome follows an acknowledgement: the client takes something.
func (sub *subscription) acceptedSome() {
	sub.alone, sub.named = 0, 0
	if len(sub.parked) == 0 && len(sub.groups) == 0 {
		sub.backoff = 0
	}
}

// rescue has load assignments sent again that an Envoy lost with a refused one: a refusal of EDS reaches
// all of its EDS watches, and a cluster that is still warming then begins without hosts. Those of
// clusters that it has not acknowledged may be.
func (s *Session) rescue() {
	clusters, endpoints := s.of(translate.CDS), s.of(translate.EDS)
	if clusters == nil || clusters.flight == nil {
		return
	}
	for cluster := range clusters.flight.resources() {
		for _, name := range cluster.Refs[translate.EDS] {
			if endpoints.wanted.Wants(name) {
				s.owe(endpoints, name)
			}
		}
	}
}

// confirm has a reference rate limit service told again what it has, unless something else is due. When it
// connects anew it says that it has the version that it was sent last, accepted or not: that is to be one that
// it accepts. A service that has nothing is told nothing: it would take that for the answer that there are
// no limits.
func (s *Session) confirm(sub *subscription) {
	s.eachAfter(sub, sub.base, map[string]*snapshot.Resource{}, func(_ string, h held) {
		if h.version != "" {
			sub.greeted = false
		}
	})
}

// reconsider lets parked resources be tried again when their time has come, and returns after what time
// it has, 0 for never.
func (sub *subscription) reconsider(now time.Time) time.Duration {
	if len(sub.parked) == 0 || len(sub.groups) > 0 {
		return 0
	}
	if left := sub.retryAt.Sub(now); left > 0 {
		return left
	}
	most := retries
	if sub.refusesAll() {
		most = 1
	} else {
		sub.alone = 0
	}
	for name := range sub.parked {
		sub.groups = append(sub.groups, []string{name})
	}
	slices.SortFunc(sub.groups, func(a, b []string) int { return slices.Compare(a, b) })
	sub.groups = sub.groups[:min(most, len(sub.groups))]
	for _, group := range sub.groups {
		delete(sub.parked, group[0])
	}
	return 0
}

// withheld says whether this version of a name is not to be sent now.
func (sub *subscription) withheld(name, version string) bool {
	if refused, is := sub.parked[name]; is {
		if refused == version {
			return true
		}
		delete(sub.parked, name) // it changed
	}
	if len(sub.groups) == 0 {
		return false
	}
	_, now := slices.BinarySearch(sub.groups[0], name)
	return !now
}
