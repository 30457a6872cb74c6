package xds

import (
	"sync"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds/session"
)

// refusals remembers who refused which version of a resource, to tell a bad resource from a bad node.
type refusals struct {
	mu sync.Mutex
	of map[refused]*refusal
}

// refusal is what is known of a version that was refused.
type refusal struct {
	by    map[string]bool // voices
	taken bool            // somebody accepted it: it is never taken back
}

// refused is a version of a resource that somebody did not take.
type refused struct {
	fleet         string
	grpc          bool // in the rendering for gRPC clients
	kind          translate.Type
	name, version string
}

const (
	// maxRefused bounds the versions that are remembered, maxRefusers the voices of each.
	maxRefused, maxRefusers = 1024, 16
	// witnesses is how many voices must refuse a version for it to be the resource's fault.
	witnesses = 2
)

// note records a refusal. It says by how many voices the version was refused, and whether it was found to
// be taken by another.
func (r *refusals) note(what refused, voice string) (count int, taken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[refused]*refusal{}
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
	if len(is.by) < maxRefusers {
		is.by[voice] = true
	}
	return len(is.by), is.taken
}

func (r *refusals) foundTaken(what refused) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if is := r.of[what]; is != nil {
		is.taken = true
	}
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
// there is: then all are served the version again that was accepted last, which judge returns, until the
// resource changes. Otherwise a node that is old, or hostile, or has no room for a port, would decide for
// its whole fleet. Here the Envoys of a fleet and its gRPC clients are two, as they are served two versions.
//
// A replica asks its own clients, and what it decides is for them: another one whose clients took the version
// has no reason to take it back. Only that a node is not alone it has to know of those elsewhere.
//
// All of a large fleet may refuse the same within a moment. The streams are gone through for the first few.
func (r *Registry) judge(by facts, voice string, kind translate.Type, suspect session.Suspect) *snapshot.Resource {
	if now := r.cacheOf(by).Current(by.fleet).Get(kind, suspect.Name); now == nil || now.Version != suspect.Version {
		return nil // a removal, or it is not served any more
	}
	what := refused{by.fleet, by.grpc(), kind, suspect.Name, suspect.Version}
	count, taken := r.refusals.note(what, voice)
	if taken || count < witnesses && !r.alone(by) {
		return nil
	}
	var good *snapshot.Resource
	for _, s := range r.list() {
		f, version, held := s.held(kind, suspect.Name)
		switch {
		case f.fleet != by.fleet, f.grpc() != by.grpc():
		case version == suspect.Version:
			r.refusals.foundTaken(what)
			return nil
		case held != nil:
			good = held
		}
	}
	if good == nil || !r.cacheOf(by).Quarantine(by.fleet, kind, suspect.Name, suspect.Version, good) {
		return nil
	}
	r.opts.Log.Warn("a resource is taken back for the whole fleet: no node accepted it", "fleet", by.fleet, "type", typeLabel(kind),
		"resource", suspect.Name, "source", suspect.Source, "version", suspect.Version, "instead", good.Version)
	return good
}

// alone says whether no other node is connected that is served the same as this one, here or to another replica.
func (r *Registry) alone(by facts) bool {
	r.mu.Lock()
	same, here := 0, 0
	for node := range r.nodes {
		if node.fleet == by.fleet {
			here++
			if node.grpc == by.grpc() {
				same++
			}
		}
	}
	r.mu.Unlock()
	return same <= 1 && r.opts.Elsewhere(by.fleet, here) == 0
}

// held is what the stream's client acknowledged of a resource.
func (s *adsStream) held(kind translate.Type, name string) (facts, string, *snapshot.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version, r := s.session.Held(kind, name)
	return s.facts, version, r
}
