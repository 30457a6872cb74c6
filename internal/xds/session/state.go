package session

import (
	"time"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// State says how far the client is with a type.
type State int

// The states of a type.
const (
	Unasked State = iota // the client never asked for it
	Pending              // something is under way or due
	Refused              // it has all but what it refused
	Synced               // it acknowledged all that it wants of what there is
)

// Status is State with what was sent and answered.
type Status struct {
	State State
	// Accepted is the version last acknowledged: of the Table, where the client has all of it.
	Accepted, Sent     string
	AcceptedAt, SentAt time.Time
	Counts             Counts
	Refused            []string // names
}

// Status tells how far the client is with a type of what it is to be served.
func (s *Session) Status(kind translate.Type, served *snapshot.Snapshot) Status {
	sub := s.of(kind)
	if sub == nil {
		return Status{}
	}
	st := Status{
		State: s.progress(sub, served), Accepted: sub.accepted, AcceptedAt: sub.acceptedAt, Sent: sub.sent, SentAt: sub.sentAt,
		Counts: sub.counts, Refused: sub.refusing(served.Table(kind)),
	}
	if st.State == Synced && (s.opts.Protocol == Delta || st.Accepted == "") {
		st.Accepted = served.Version(kind)
	}
	return st
}

func (s *Session) progress(sub *subscription, served *snapshot.Snapshot) State {
	to := served.Table(sub.kind)
	switch {
	case sub.flight != nil, served == nil:
		return Pending
	case sub.refusesAll():
		return Refused
	case s.pending(sub, to):
		return Pending
	case len(sub.refusing(to)) > 0:
		return Refused
	case !sub.greeted && sub.wanted.Wildcard():
		return Pending
	}
	return Synced
}

// pending says whether anything is due, in whichever turn.
func (s *Session) pending(sub *subscription, to *snapshot.Table) bool {
	switch {
	case len(sub.groups) > 0:
		return true
	case sub.base.Same(to) && len(sub.held) == 0:
		return false
	}
	return !s.dueNow(sub, to, both, nil).empty()
}

// Settled says whether the client acknowledged all that it asked for of what it is to be served; not so
// one that asked for nothing.
func (s *Session) Settled(served *snapshot.Snapshot) bool {
	for _, sub := range s.types {
		if sub.kind != "" && s.progress(sub, served) != Synced {
			return false
		}
	}
	return served != nil && len(s.types) > 0
}

// Waiting is since when the oldest response under way has had no answer, zero if none is.
func (s *Session) Waiting() time.Time {
	var oldest time.Time
	for _, sub := range s.types {
		if sub.flight != nil && (oldest.IsZero() || sub.flight.at.Before(oldest)) {
			oldest = sub.flight.at
		}
	}
	return oldest
}

// Wants says whether the client wants the resource of that type and name.
func (s *Session) Wants(kind translate.Type, name string) bool {
	sub := s.of(kind)
	return sub != nil && sub.wanted.Wants(name)
}

// Held is the version that the client acknowledged of a resource, and the resource itself where it is
// known; "" and nil for none.
func (s *Session) Held(kind translate.Type, name string) (version string, r *snapshot.Resource) {
	sub := s.of(kind)
	if sub == nil || !sub.wanted.Wants(name) {
		return "", nil
	}
	h := sub.has(name)
	return h.version, h.resource
}
