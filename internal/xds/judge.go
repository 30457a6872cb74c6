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
	by map[refused]map[string]bool // ids of nodes
}

// refused is a version of a resource that somebody did not take.
type refused struct {
	fleet         string
	kind          translate.Type
	name, version string
}

const (
	// maxRefused bounds the versions that are remembered, maxRefusers the nodes of each.
	maxRefused, maxRefusers = 1024, 16
	// witnesses is how many nodes must refuse a version for it to be the resource's fault.
	witnesses = 2
)

// note records a refusal and says by how many nodes the version was refused.
func (r *refusals) note(what refused, node string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[refused]map[string]bool{}
	}
	nodes := r.by[what]
	if nodes == nil {
		if len(r.by) >= maxRefused {
			for any := range r.by { // which one does not matter: it is noted again when it is refused again
				delete(r.by, any)
				break
			}
		}
		nodes = map[string]bool{}
		r.by[what] = nodes
	}
	if len(nodes) < maxRefusers {
		nodes[node] = true
	}
	return len(nodes)
}

// judge decides whose fault a refusal is. A node parks for itself what it refuses. It is the resource's
// fault if no node of the fleet has accepted this version, and two refused it, or the only one that there
// is: then all are served the version again that was accepted last, which judge returns, until the
// resource changes. Otherwise a node that is old, or hostile, or has no room for a port, would decide for
// its whole fleet.
func (r *Registry) judge(by facts, kind translate.Type, suspect session.Suspect) *snapshot.Resource {
	if suspect.Version == "" {
		return nil
	}
	what := refused{by.fleet, kind, suspect.Name, suspect.Version}
	count := r.refusals.note(what, by.id)
	nodes := map[string]bool{}
	var good *snapshot.Resource
	for _, s := range r.list() {
		f, version, held := s.held(kind, suspect.Name)
		if f.fleet != by.fleet {
			continue
		}
		nodes[f.id] = true
		if version == suspect.Version {
			return nil // somebody took it
		}
		if held != nil {
			good = held
		}
	}
	if good == nil || count < witnesses && len(nodes) > 1 {
		return nil
	}
	if !r.cache.Quarantine(by.fleet, kind, suspect.Name, suspect.Version, good) {
		return nil
	}
	r.opts.Log.Warn("a resource is taken back for the whole fleet: no node accepted it", "fleet", by.fleet, "type", typeLabel(kind),
		"resource", suspect.Name, "source", suspect.Source, "version", suspect.Version, "instead", good.Version)
	return good
}

// held is what the stream's client acknowledged of a resource.
func (s *adsStream) held(kind translate.Type, name string) (facts, string, *snapshot.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version, r := s.session.Held(kind, name)
	return s.facts, version, r
}
