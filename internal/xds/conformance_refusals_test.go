package xds_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
)

// refusalRules are about clients that refuse what they are sent.
var refusalRules = []rule{
	{"P7 older version", "an answer that names an older version, without error_detail, is no refusal", []string{sotw}, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		m := p.next(resource.EndpointType)
		p.send(request{url: resource.EndpointType, nonce: m.nonce, version: "", subscribe: p.names[resource.EndpointType]})
		p.silent("an answer with an older version_info", resource.EndpointType)
		if r.refusals != nil && len(r.refusals()) != 0 {
			r.Errorf("taken for a refusal: %+v", r.refusals())
		}
		r.set(fleet, snapshotOf(assignment("cart", 2)))
		p.next(resource.EndpointType)
	}},
	{"P7 no words", "error_detail makes a refusal, even with no words, no code and the newest version", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		m := p.next(resource.EndpointType)
		q := request{url: resource.EndpointType, nonce: m.nonce, refusal: &statuspb.Status{}}
		if r.protocol == sotw {
			q.version, q.subscribe = m.version, p.names[resource.EndpointType]
		}
		p.send(q)
		p.silent("a refusal", resource.EndpointType)
		if r.refusals != nil && len(r.refusals()) != 1 {
			r.Errorf("%d refusals counted, expected 1", len(r.refusals()))
		}
		r.set(fleet, snapshotOf(assignment("cart", 2)))
		p.accepts("the next version", nil, func() bool { return p.holds(assignment("cart", 2)) })
	}},
	{"P8", "a hundred refusals cause at most one re-send per back-off", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		m := p.next(resource.EndpointType)
		for range 100 {
			p.nack(m, "no")
		}
		again := 0
		for again < 20 {
			if m = p.any(quietTime); m == nil {
				break
			}
			again++
			p.nack(m, "no")
		}
		if again > 2 {
			r.Errorf("re-sent %d times or more", again)
		}
		r.set(fleet, snapshotOf(assignment("cart", 2)))
		p.accepts("the version after it", nil, func() bool { return p.holds(assignment("cart", 2)) })
	}},
	{"P9 named", "a refusal that names its resource loses none of the others", both, batches("bad is wrong: cluster_name: \"bad\"")},
	{"P9 nameless", "a refusal that names no resource loses none of the others", both, batches("malformed IP address: foo.bar")},
	{"P9 changed", "the others of a refused response reach a client that had older ones, which keeps its own of the refused one", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("a", 1), assignment("bad", 1), assignment("c", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "a", "bad", "c")
		p.accepts("the first", nil, func() bool { return p.holds(assignment("a", 1), assignment("bad", 1), assignment("c", 1)) })
		p.barrier()
		r.set(fleet, snapshotOf(assignment("a", 2), assignment("bad", 2), assignment("c", 2)))
		p.accepts("a and c", refusing("bad", 2, "malformed IP address: foo.bar"), func() bool { return p.holds(assignment("a", 2), assignment("c", 2)) })
		if !p.holds(assignment("bad", 1)) {
			r.Errorf("the accepted version of the refused one is gone")
		}
		r.set(fleet, snapshotOf(assignment("a", 2), assignment("bad", 3), assignment("c", 2)))
		p.accepts("the mended one", refusing("bad", 2, "malformed IP address: foo.bar"), func() bool { return p.holds(assignment("bad", 3)) })
	}},
	{"P9 neighbour", "what one client refuses, another has, and keeps", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("a", 1), assignment("bad", 1)))
		p, q := r.peer("envoy-1", fleet), r.peer("envoy-2", fleet)
		for _, p := range []*peer{p, q} {
			p.subscribe(resource.EndpointType, "a", "bad")
			p.accepts("the first", nil, func() bool { return p.holds(assignment("a", 1), assignment("bad", 1)) })
			p.barrier()
		}
		r.set(fleet, snapshotOf(assignment("a", 1), assignment("bad", 2)))
		q.accepts("the second", nil, func() bool { return q.holds(assignment("bad", 2)) })
		p.nack(p.next(resource.EndpointType), "no")
		p.barrier()
		q.silent("another client's refusal", resource.EndpointType)
	}},
	{"P25", "a refusal of any length is heard, and kept to 4096 bytes of it", both, func(r *trial) {
		r.set(fleet, snapshotOf(assignment("cart", 1)))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, "cart")
		p.nack(p.next(resource.EndpointType), strings.Repeat("ä\n", 50_000))
		p.barrier()
		if r.refusals != nil {
			if n := r.refusals(); len(n) != 1 || len(n[0].Message) > 4096 || n[0].Message == "" {
				r.Errorf("%d refusals, or a message of none or more than 4096 bytes", len(n))
			}
		}
		r.set(fleet, snapshotOf(assignment("cart", 2)))
		p.accepts("the version after it", nil, func() bool { return p.holds(assignment("cart", 2)) })
	}},
}

// refusing refuses every message that has a load assignment at a weight, as an Envoy refuses the whole
// of a response of which one resource does not validate.
func refusing(name string, weight int, words string) func(*message) string {
	bad := string(assignment(name, weight).Bytes)
	return func(m *message) string {
		if m.url == resource.EndpointType && m.bodies[name] != nil && string(m.bodies[name].GetValue()) == bad {
			return words
		}
		return ""
	}
}

// batches has a client refuse a third of its first response, and asks for the rest.
func batches(words string) func(*trial) {
	return func(r *trial) {
		var want []served
		names := []string{"bad"}
		for i := range 8 {
			names = append(names, fmt.Sprint("good-", i))
			want = append(want, assignment(names[i+1], 1))
		}
		r.set(fleet, snapshotOf(append(slices.Clone(want), assignment("bad", 1))...))
		p := r.peer("envoy-1", fleet)
		p.subscribe(resource.EndpointType, names...)
		refused := 0
		refuse := refusing("bad", 1, words)
		p.accepts("the good ones", func(m *message) string {
			why := refuse(m)
			if why != "" {
				refused++
			}
			return why
		}, func() bool { return p.holds(want...) })
		if refused > 10 {
			r.Errorf("the refused one was sent %d times to find it", refused)
		}
	}
}
