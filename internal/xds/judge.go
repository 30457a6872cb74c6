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
	by    map[string]bool // ids of nodes
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
	// maxRefused bounds the versions that are remembered, maxRefusers the nodes of each.
	maxRefused, maxRefusers = 1024, 16
	// witnesses is how many nodes must refuse a version for it to be the resource's fault.
	witnesses = 2
)

// note records a refusal. It says by how many nodes the version was refused, and whether it was found to
// be taken by another.
func (r *refusals) note(what refused, node string) (count int, taken bool) {
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
		is.by[node] = true
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

// judge decides whose fault a refusal is. A node parks for itself what it refuses. It is the resource's
// fault if no node of the fleet has accepted this version, and two refused it, or the only one that there
// is: then all are served the version again that was accepted last, which judge returns, until the
// resource changes. Otherwise a node that is old, or hostile, or has no room for a port, would decide for
// its whole fleet. Here the Envoys of a fleet and its gRPC clients are two, as they are served two versions.
//
// All of a large fleet may refuse the same within a moment. The streams are gone through for the first few.
func (r *Registry) judge(by facts, kind translate.Type, suspect session.Suspect) *snapshot.Resource {
	if now := r.cacheOf(by).Current(by.fleet).Get(kind, suspect.Name); now == nil || now.Version != suspect.Version {
		return nil // a removal, or it is not served any more
	}
	what := refused{by.fleet, by.grpc(), kind, suspect.Name, suspect.Version}
	count, taken := r.refusals.note(what, by.id)
	if taken || count < witnesses && r.nodesLike(by) > 1 {
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

// nodesLike is how many nodes are connected that are served the same as this one.
func (r *Registry) nodesLike(by facts) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for node := range r.nodes {
		if node.fleet == by.fleet && node.grpc == by.grpc() {
			n++
		}
	}
	return n
}

// held is what the stream's client acknowledged of a resource.
func (s *adsStream) held(kind translate.Type, name string) (facts, string, *snapshot.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version, r := s.session.Held(kind, name)
	return s.facts, version, r
}
