// Package session is one client's ADS stream as a machine: what the client wants, has, was sent and
// refused, and from that what it is to be sent next. It is pure. Receive takes a request, Next gives the
// response that is due for a Snapshot; neither has a clock, waits, or does I/O. Both protocols, delta and
// state-of-the-world, are the same machine with two ways to say the same.
//
//	requests ─▶ Receive ─▶ wanted, acknowledged, refused ─▶ Next(now, snapshot) ─▶ at most one response
//
// Its promises, for every type of resource:
//
//   - What a client has is what it acknowledged, never what it was sent.
//   - One response is under way at a time; what changes meanwhile is in the next one, in its newest form.
//   - Clusters come before the routes that name them, their endpoints with them, and leave after them.
//   - A refused resource is found, by name or by halving, and left out: the others of its response arrive.
//     It comes again when it changes, or alone, after a back-off.
//
// A client that has all of a Table costs a pointer to it: only what differs from there is kept.
//
// Streams, nodes and who is told of refusals are package xds.
package session

import (
	"time"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// Protocol is a variant of the xDS transport protocol.
type Protocol string

// The protocols, as envoyproxy.io/docs names them.
const (
	Delta Protocol = "delta"
	SotW  Protocol = "sotw"
)

// Options of a Session. All fields are to be set.
type Options struct {
	Protocol Protocol
	// Identifier begins the control_plane.identifier of every response; "/" and the number of the
	// Snapshot's generation follow, if it has one.
	Identifier string
	// MaxTypes bounds the types that are asked for, MaxNames the names of one of them.
	MaxTypes, MaxNames int
	// Wait is how long what comes later in make-before-break order waits for an acknowledgement.
	Wait time.Duration
	// Retry is after what time a refused resource is sent again, twice that the next time, and MaxRetry
	// the longest such time.
	Retry, MaxRetry time.Duration
	// Select gives the Selection of names; equal ones may be one.
	Select func(wildcard bool, names []string) *snapshot.Selection
}

// Session is the machine. It belongs to one goroutine at a time.
type Session struct {
	opts  *Options
	types []*subscription // in the order in which they were first asked for
	// moment counts requests and responses, to tell what came first.
	moment uint64
}

// New makes the Session of a client that has just connected. Sessions may share their Options.
func New(opts *Options) *Session { return &Session{opts: opts} }

// Counts are the messages of one type.
type Counts struct{ Sent, Acked, Nacked uint64 }

// subscription is what the client wants of one type, and has.
type subscription struct {
	kind translate.Type // "" for a type that we do not make
	url  string

	wanted *snapshot.Selection
	// base is a Table of which the client has, of the names that it wants, everything but what is in
	// held: there it is said by name.
	base *snapshot.Table
	held map[string]held

	flight *flight
	nonce  string // of the last response

	// unnamed: a SotW client never gave a name, not even "*".
	unnamed bool

	// greeted: a client that wants all there are knows what that is, even if it is nothing.
	greeted bool

	refusals

	accepted   string // version of the last response that was acknowledged
	acceptedAt time.Time
	sent       string // version of the last response
	sentAt     time.Time
	counts     Counts
}

// held is what the client has of one name. Of what it had before it connected only the version is known.
type held struct {
	version  string // "" for nothing
	resource *snapshot.Resource
	// owed: it is to be told of the resource, or that there is none, whatever it has.
	owed   bool
	moment uint64 // when this was noted
}

// flight is a response that is not answered.
type flight struct {
	nonce, version string
	at             time.Time
	to             *snapshot.Table
	moment         uint64
	content
}

// of is the subscription to a type, nil if the client never asked for it.
func (s *Session) of(kind translate.Type) *subscription {
	for _, sub := range s.types {
		if sub.kind == kind {
			return sub
		}
	}
	return nil
}

func (s *Session) byURL(url string) *subscription {
	for _, sub := range s.types {
		if sub.url == url {
			return sub
		}
	}
	return nil
}

// want is what the client should have of a name: the resource of the table, or, of the types whose
// absence a client does not understand, an empty one. Nil is nothing.
func (sub *subscription) want(to *snapshot.Table, name string) *snapshot.Resource {
	if r := to.Get(name); r != nil {
		return r
	}
	if sub.wanted.Named(name) {
		return placeholder(sub.kind, name)
	}
	return nil
}

// placeholder stands for a resource that does not exist, of the types that have one. An Envoy whose
// listener names a route configuration that is removed would wait for it for ever; an empty one answers
// 404. An empty runtime layer is no layer.
func placeholder(kind translate.Type, name string) *snapshot.Resource {
	r, ok := translate.Empty(kind, name)
	if !ok {
		return nil
	}
	encoded, err := snapshot.Encode(r)
	if err != nil {
		return nil // a name that nobody can have
	}
	return encoded
}

// has is what the client has of a name.
func (sub *subscription) has(name string) held {
	if h, ok := sub.held[name]; ok {
		return h
	}
	if r := sub.want(sub.base, name); r != nil {
		return held{version: r.Version, resource: r}
	}
	return held{}
}

func versionOf(r *snapshot.Resource) string {
	if r == nil {
		return ""
	}
	return r.Version
}

// note says what the client has of a name from now on, where it is not what base says.
func (sub *subscription) note(name string, h held) {
	if sub.held == nil {
		sub.held = map[string]held{}
	}
	sub.held[name] = h
}

// owe has the client told of a name in the next response, whatever it has.
func (s *Session) owe(sub *subscription, name string) {
	h := sub.has(name)
	h.owed, h.moment = true, s.moment
	sub.note(name, h)
}

// settle takes the told into what the client has, and moves base to f.to.
func (sub *subscription) settle(f *flight) {
	if f.whole && len(sub.held) == 0 {
		sub.base = f.to
		return
	}
	next := map[string]held{}
	keep := func(name string) {
		if !sub.wanted.Wants(name) {
			return
		}
		h := sub.has(name)
		if h.moment <= f.moment {
			if r, told := f.told[name]; told {
				h = held{version: versionOf(r), resource: r}
			} else if f.whole {
				return
			}
		}
		if h.owed || h.version != versionOf(sub.want(f.to, name)) {
			next[name] = h
		}
	}
	if !f.whole {
		for _, name := range f.to.Since(sub.base) {
			keep(name)
		}
	}
	for name := range sub.held {
		keep(name)
	}
	for name := range f.told {
		keep(name)
	}
	sub.base, sub.held = f.to, nil
	if len(next) > 0 {
		sub.held = next
	}
}
