package xds

import (
	"maps"
	"slices"
	"sync"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// refusals remembers who refused which version of a resource, to tell a bad resource from a bad node.
type refusals struct {
	mu sync.Mutex
	of map[Case]*refusal
}

// refusal is what is known of a version that was refused.
type refusal struct {
	by    map[string]bool // voices
	taken bool            // somebody accepted it: it is never taken back
}

const (
	// maxRefused bounds the versions that are remembered, maxRefusers the voices of each.
	maxRefused, maxRefusers = 1024, 16
	// witnesses is how many voices must refuse a version for it to be the resource's fault.
	witnesses = 2
)

// note records a refusal.
func (r *refusals) note(what Case, voice string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	is := r.remember(what)
	if len(is.by) < maxRefusers {
		is.by[voice] = true
	}
}

// remember is what is known of a version, from now on. It is called with the lock.
func (r *refusals) remember(what Case) *refusal {
	if r.of == nil {
		r.of = map[Case]*refusal{}
	}
	is := r.of[what]
	if is == nil {
		if len(r.of) >= maxRefused {
			for any := range r.of { // which one does not matter: it is noted again when it is refused again
				delete(r.of, any)
				break
			}
		}
		is = &refusal{by: map[string]bool{}}
		r.of[what] = is
	}
	return is
}

func (r *refusals) foundTaken(what Case) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remember(what).taken = true
}

// known is by whom a version was refused, sorted, and whether somebody took it.
func (r *refusals) known(what Case) (by []string, taken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if is := r.of[what]; is != nil {
		return slices.Sorted(maps.Keys(is.by)), is.taken
	}
	return nil, false
}

// cases are the versions of which anything is known.
func (r *refusals) cases() []Case {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.of))
}

// voice is whose word a refusal of the stream's client is. A client names its nodes itself, as many as it
// likes, and shares its certificate with its fleet; what it does not choose is the address that it holds a
// connection from. So with certificates a host is one voice, and of Envoys that share a host, or are behind
// one address, two that refuse are one witness: each still parks for itself what it refuses. In plaintext,
// where nobody is anybody, a node is a voice.
func (s *adsStream) voice(node string) string {
	if s.registry.opts.Auth == nil {
		return node
	}
	return host(s.wire.Context())
}

// judge decides whose fault a refusal is. A node parks for itself what it refuses. It is the resource's
// fault if no node of the fleet has accepted this version, and two voices refused it, or the only node that
// there is: then all are served the version again that was accepted last, until the resource changes.
// Otherwise a node that is old, or hostile, or has no room for a port, would decide for its whole fleet. Here the Envoys of a fleet and its gRPC clients are two, as they are served two versions.
//
// The nodes may be connected to several replicas. The one that leads judges, when it knows the votes of all
// that have nodes of the fleet (votes.go); the others leave it to it while they hear it.
//
// All of a large fleet may refuse the same within a moment. The streams are gone through for the first few.
func (r *Registry) judge(what Case, voice string) {
	if now := r.cacheFor(what.GRPC).Current(what.Fleet).Get(what.Type, what.Name); now == nil || now.Version != what.Version {
		return // a removal, or it is not served any more
	}
	r.refusals.note(what, voice)
	if r.opts.Judges() {
		r.rule(what)
	}
}

// rule has a version taken back if that is what the votes say.
func (r *Registry) rule(what Case) {
	votes, complete := r.votesElsewhere(what)
	own := r.vote(what)
	if !complete || !convicts(append(votes, own), r.elsewhereUnknown(what.Fleet, len(votes))) {
		return
	}
	good := r.witnessed(&own) // only now are the streams gone through
	if own.Taken {
		return
	}
	for _, v := range votes {
		if good == nil {
			good = v.Good
		}
	}
	if good != nil {
		r.takeBack(what, good, "no node accepted it")
	}
}

// convicts says whether votes are those of whom a version is to be taken back: nobody took it, and it was
// refused by two voices, or by the only node that there is. unknown are nodes of which there is no vote.
func convicts(votes []Vote, unknown int) bool {
	voices, nodes, parked := map[string]bool{}, unknown, false
	for _, v := range votes {
		if v.Taken {
			return false
		}
		for _, voice := range v.RefusedBy {
			voices[voice] = true
		}
		nodes += v.Nodes
		parked = parked || v.Parked
	}
	return parked || len(voices) >= witnesses || len(voices) > 0 && nodes <= 1
}

// held is what the stream's client acknowledged of a resource.
func (s *adsStream) held(kind translate.Type, name string) (facts, string, *snapshot.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version, r := s.session.Held(kind, name)
	return s.facts, version, r
}
