package session

import (
	"fmt"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// Request is what the requests of both protocols say.
type Request struct {
	URL   string
	Nonce string
	// Refused is error_detail: what the client did not like about the response of that nonce. Nil in an
	// acknowledgement; an answer that merely names an older version is no refusal.
	Refused *string

	// Of delta.
	Subscribe, Unsubscribe []string
	Initial                map[string]string // versions by name, of what the client had before

	// Of SotW.
	Names   []string
	Version string // of the last response that the client accepted
}

// Answer is what a request said of the response that it names.
type Answer struct {
	Type    translate.Type
	Nonce   string
	Version string // of that response
	// Refusal is nil in an acknowledgement.
	Refusal *Refusal
}

// Violation is a request that ends the stream.
type Violation struct {
	// Reason is a word for a metric. TooMuch: a bound was passed; else the request is not valid.
	Reason  string
	TooMuch bool
	Message string
}

func (v *Violation) Error() string { return v.Message }

const (
	maxURL  = 256
	maxName = 1024
	all     = "*"
)

// Receive takes a request. served is what the client's fleet is served, nil if there is no such fleet. The
// Answer is nil where the request answers nothing that is under way. An error is a *Violation.
func (s *Session) Receive(now time.Time, req Request, served *snapshot.Snapshot) (*Answer, error) {
	s.moment++
	if err := s.check(req); err != nil {
		return nil, err
	}
	sub := s.byURL(req.URL)
	first := sub == nil
	if first {
		if len(s.types) == s.opts.MaxTypes {
			return nil, &Violation{"types", true, fmt.Sprintf("type_url: %d types on one stream, expected no more", s.opts.MaxTypes)}
		}
		sub = &subscription{kind: translate.TypeOf(req.URL), url: req.URL, base: snapshot.Empty()}
		s.types = append(s.types, sub)
	}
	var answer *Answer
	current := sub.flight != nil && req.Nonce == sub.flight.nonce
	if current {
		answer = s.answered(now, sub, req)
	}
	if s.opts.Protocol == Delta {
		s.selectDelta(sub, req, first, served)
	} else if first || current || req.Nonce == sub.nonce {
		s.selectSotW(sub, req, first, served)
	}
	if n := max(sub.wanted.Len(), len(sub.held)); n > s.opts.MaxNames {
		return answer, &Violation{"names", true, fmt.Sprintf("%s: %d names in one subscription, expected at most %d", sub.label(), n, s.opts.MaxNames)}
	}
	return answer, nil
}

func (s *Session) check(req Request) error {
	switch {
	case req.URL == "":
		return &Violation{"no_type", false, "type_url: expected the type of resource on an aggregated stream"}
	case len(req.URL) > maxURL:
		return &Violation{"bad_type", false, fmt.Sprintf("type_url: %d bytes, expected at most %d", len(req.URL), maxURL)}
	case max(len(req.Names), len(req.Subscribe), len(req.Unsubscribe), len(req.Initial)) > s.opts.MaxNames:
		return &Violation{"names", true, fmt.Sprintf("resource names: %d in one request, expected at most %d",
			max(len(req.Names), len(req.Subscribe), len(req.Unsubscribe), len(req.Initial)), s.opts.MaxNames)}
	}
	long := func(name string) bool { return len(name) > maxName }
	if slices.ContainsFunc(req.Names, long) || slices.ContainsFunc(req.Subscribe, long) || slices.ContainsFunc(req.Unsubscribe, long) {
		return &Violation{"bad_name", false, fmt.Sprintf("resource names: one of more than %d bytes", maxName)}
	}
	for name, version := range req.Initial {
		if long(name) || long(version) {
			return &Violation{"bad_name", false, fmt.Sprintf("initial_resource_versions: a name or version of more than %d bytes", maxName)}
		}
	}
	return nil
}

func (sub *subscription) label() string {
	if sub.kind == "" {
		return "other"
	}
	return string(sub.kind)
}

// answered takes the answer to the response under way.
func (s *Session) answered(now time.Time, sub *subscription, req Request) *Answer {
	f := sub.flight
	sub.flight = nil
	answer := &Answer{Type: sub.kind, Nonce: f.nonce, Version: f.version}
	if req.Refused != nil {
		sub.counts.Nacked++
		answer.Refusal = s.refused(now, sub, f, *req.Refused)
		return answer
	}
	sub.counts.Acked++
	sub.accepted, sub.acceptedAt = f.version, now
	sub.settle(f)
	sub.acceptedSome()
	return answer
}

// selectDelta takes what a delta request adds to the selection and takes from it; a stale nonce voids
// neither. Names that are asked for again are answered again. A first request that names nothing asks
// for all there are (xDS protocol, "How the client specifies what resources to return").
func (s *Session) selectDelta(sub *subscription, req Request, first bool, served *snapshot.Snapshot) {
	if !first && len(req.Subscribe)+len(req.Unsubscribe) == 0 {
		return
	}
	wildcard := sub.wanted.Wildcard() || first && len(req.Subscribe) == 0
	names := slices.Collect(sub.wanted.Names())
	var asked []string
	for _, name := range req.Subscribe {
		if name == all {
			wildcard, sub.greeted = true, false
			continue
		}
		asked = append(asked, name)
	}
	names = append(names, asked...)
	var left []string
	drop := map[string]bool{}
	for _, name := range req.Unsubscribe {
		if name == all {
			if wildcard {
				wildcard = false
				left = append(left, s.known(sub)...)
			}
			continue
		}
		drop[name] = true
	}
	if len(drop) > 0 {
		names = slices.DeleteFunc(names, func(name string) bool {
			if drop[name] {
				left = append(left, name)
			}
			return drop[name]
		})
	}
	sub.wanted = s.opts.Select(wildcard, names)
	if first {
		s.resume(sub, req.Initial, served)
	}
	for _, name := range left {
		switch {
		case sub.wanted.Named(name):
		case wildcard:
			s.owe(sub, name) // it may or may not be one of all: only we know
		default:
			sub.forget(name)
		}
	}
	for _, name := range asked {
		if _, had := req.Initial[name]; first && had {
			continue // it said what it has; it is told what differs
		}
		if sub.wanted.Named(name) {
			h := held{owed: true, moment: s.moment}
			if !first {
				h = sub.has(name)
				h.owed, h.moment = true, s.moment
			}
			sub.note(name, h)
		}
	}
}

// known are the names that the client has.
func (s *Session) known(sub *subscription) []string {
	var names []string
	for name := range sub.base.All() {
		names = append(names, name)
	}
	for name := range sub.held {
		names = append(names, name)
	}
	return names
}

// forget drops a name that is wanted no longer.
func (sub *subscription) forget(name string) {
	delete(sub.held, name)
	delete(sub.parked, name)
}

// resume takes the client for having the versions that it brings.
func (s *Session) resume(sub *subscription, initial map[string]string, served *snapshot.Snapshot) {
	if len(initial) == 0 {
		return
	}
	sub.greeted = true
	sub.base = served.Table(sub.kind)
	for name, version := range initial {
		if sub.wanted.Wants(name) && versionOf(sub.want(sub.base, name)) != version {
			sub.note(name, held{version: version, moment: s.moment})
		}
	}
	if !sub.wanted.Wildcard() {
		return // the names that it asks for are answered one by one
	}
	for name := range sub.base.All() {
		if _, has := initial[name]; !has {
			sub.note(name, held{moment: s.moment})
		}
	}
}

// selectSotW takes the names of a SotW request, which are all that the client wants from now on. None in
// the first request of a type are all there are, until names were given once.
func (s *Session) selectSotW(sub *subscription, req Request, first bool, served *snapshot.Snapshot) {
	sub.unnamed = len(req.Names) == 0 && (first || sub.unnamed)
	wildcard := sub.unnamed || slices.Contains(req.Names, all)
	names := slices.DeleteFunc(slices.Clone(req.Names), func(name string) bool { return name == all })
	before := sub.wanted
	sub.wanted = s.opts.Select(wildcard, names)
	if first {
		if req.Version != "" && req.Version == s.stateVersion(sub, served.Table(sub.kind), nil) {
			sub.base, sub.greeted = served.Table(sub.kind), true
			return
		}
		for name := range sub.wanted.Names() {
			sub.note(name, held{owed: true, moment: s.moment})
		}
		return
	}
	if before == sub.wanted {
		return
	}
	for name := range before.Names() {
		if !sub.wanted.Wants(name) {
			sub.forget(name)
		}
	}
	for name := range sub.wanted.Names() {
		if !before.Named(name) {
			sub.note(name, held{owed: true, moment: s.moment})
		}
	}
	if wildcard && !before.Wildcard() {
		sub.greeted = false
		for name := range sub.base.All() {
			if !before.Named(name) {
				sub.note(name, held{moment: s.moment})
			}
		}
	}
}
