package xds

import (
	"fmt"
	"regexp"
	"slices"
	"sync"
)

const (
	maxNackMessage = 4096
	maxNacks       = 256
)

// namePatterns find resource names in Envoy's words, the most telling first. Envoy names the
// resource outright where it applied a batch one by one; where protoc-gen-validate refused the
// message, the whole resource follows as prototext. That dump begins with a randomised prefix, so
// only its fields can be matched, never the text.
var namePatterns = []*regexp.Regexp{
	regexp.MustCompile(`(?:cluster|listener)\(s\) (\S+): `),
	regexp.MustCompile(`\bcluster_name: ?"([^"]+)"`),
	regexp.MustCompile(`\bname: ?"([^"]+)"`),
	regexp.MustCompile(`\broute_config_name: ?"([^"]+)"`),
	regexp.MustCompile(`\): (\S+)$`),
}

// suspect names the resource that a refusal is about: one that the message mentions and that the
// response carried, or the only one it carried. It is "" where neither says; Envoy gives no name
// for what protoc-gen-validate lets through and EDS itself refuses.
func suspect(message string, carried func(name string) bool, only string) string {
	for _, pattern := range namePatterns {
		for _, match := range pattern.FindAllStringSubmatch(message, 16) {
			if carried(match[1]) {
				return match[1]
			}
		}
	}
	return only
}

// instead says what a node has in place of a version that it refused.
func instead(kind, accepted string) string {
	if accepted == "" {
		return fmt.Sprintf("nothing: the node has accepted no %s on this stream; the refused version is sent again only when it changes", kind)
	}
	return fmt.Sprintf("the node keeps version %s, which it accepted; the refused one is sent again only when it changes", accepted)
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

func (r *nackRing) newestFirst() []Nack {
	r.mu.Lock()
	defer r.mu.Unlock()
	nacks := slices.Clone(r.nacks)
	slices.Reverse(nacks)
	return nacks
}
