package xds

import (
	"fmt"
	"slices"
	"sync"

	"evenkeel.io/controlplane/internal/xds/session"
)

const (
	maxNackMessage = 4096
	maxNacks       = 256
)

// instead says what a node has in place of what it refused.
func instead(kind string, r *session.Refusal) string {
	switch {
	case r.Suspect == nil:
		return fmt.Sprintf("the %d resources of the response are sent again in parts, until the one that is refused is found", r.Resources)
	case r.Keeps == "":
		return fmt.Sprintf("nothing: the node has accepted no %s on this stream; the refused version is sent again when it changes, or after a while", kind)
	}
	return fmt.Sprintf("the node keeps version %s, which it accepted, and gets what else there is; the refused one is sent again when it changes, or after a while", r.Keeps)
}

// nackRing keeps the last refusals; the oldest makes room.
type nackRing struct {
	mu    sync.Mutex
	nacks []Nack // oldest first
}

// add records a refusal and returns it with its Count: a node that refuses the same version again
// does not push others out.
func (r *nackRing) add(n Nack) Nack {
	r.mu.Lock()
	defer r.mu.Unlock()
	n.Count = 1
	same := slices.IndexFunc(r.nacks, func(o Nack) bool {
		return o.Node == n.Node && o.Fleet == n.Fleet && o.Type == n.Type && o.Version == n.Version && o.Resource == n.Resource
	})
	if same >= 0 {
		n.Count += r.nacks[same].Count
		r.nacks = slices.Delete(r.nacks, same, same+1)
	} else if len(r.nacks) == maxNacks {
		r.nacks = slices.Delete(r.nacks, 0, 1)
	}
	r.nacks = append(r.nacks, n)
	return n
}

// now is the refusal with what is served instead by now, which is not the node's to decide alone: others may
// have refused the version as well, and what it was refused for may have changed.
func (r *Registry) now(n Nack) Nack {
	if n.of.Name == "" {
		return n
	}
	cache := r.cacheFor(n.of.GRPC)
	wanted, parked := cache.Wants(n.of.Fleet, n.of.Type, n.of.Name, n.of.Version)
	served := cache.Current(n.of.Fleet).Get(n.of.Type, n.of.Name)
	switch {
	case served == nil:
		n.Instead = "nothing: it is not served any more"
	case parked:
		n.Instead = fmt.Sprintf("the whole fleet is served version %.12s of it again, which was accepted; none of its nodes took this one", served.Version)
	case !wanted:
		n.Instead = "another version: it has changed since"
	}
	return n
}

func (r *nackRing) newestFirst() []Nack {
	r.mu.Lock()
	defer r.mu.Unlock()
	nacks := slices.Clone(r.nacks)
	slices.Reverse(nacks)
	return nacks
}
