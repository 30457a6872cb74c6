package apply

import (
	"time"

	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/status"
)

// pace is how fast a schedule goes.
type pace struct {
	// apart is the least time between two writes of an object.
	apart time.Duration
	// words is the least time before other words are written for what is the same otherwise: words name
	// proxies, and those come and go.
	words time.Duration
	// grace is how long the proxies have to acknowledge a new version before it is written that they have
	// not: mostly they have by then, and one write says so.
	grace time.Duration
	// patience is how long a proxy may owe its acknowledgement of what was Programmed before that is written.
	// Each that connects does, and each that is sent new endpoints.
	patience time.Duration
	// retry doubles with every failure, up to maxRetry.
	retry, maxRetry time.Duration
}

var usual = pace{
	apart: 10 * time.Second, words: time.Minute, grace: time.Second, patience: 30 * time.Second,
	retry: 10 * time.Second, maxRetry: 5 * time.Minute,
}

// schedule decides which status is to be written, and when. It has no clock and does no I/O.
//
//	wants: what it should say ──▶ want ≠ have ──▶ next, begin ──▶ done: have = want
//	has:   what it says       ──▶      "                          or later again
//
// Nothing is to be written of an object before both are known: an empty status would be taken for what is wanted.
type schedule struct {
	pace    pace
	objects map[source.Ref]*entry
	differ  map[source.Ref]*entry // those of which have is not want, and nobody writes it
	kinds   map[string]bool       // of which has was told
	waiting int                   // objects of which a proxy owes an acknowledgement that is not told of yet
}

// entry is an object that has a status of ours, or should.
type entry struct {
	judged  *status.Judged // from which want came, nil for nothing
	told    bool           // what it should say, want; else that is not known yet
	want    status.Stanza
	have    status.Stanza
	changed time.Time // when want or have did
	pending time.Time // since when a proxy owes an acknowledgement that want does not tell of, zero if none does
	wrote   time.Time // when it was written last
	retry   time.Time // not before this
	tries   int       // that failed in a row
	busy    bool      // it is being written
	due     time.Time // if it differs
}

func newSchedule(p pace) *schedule {
	return &schedule{pace: p, objects: map[source.Ref]*entry{}, differ: map[source.Ref]*entry{}, kinds: map[string]bool{}}
}

func (s *schedule) listed(kind string) bool { return s.kinds[kind] }

func (s *schedule) listedAll() bool { return len(s.kinds) == len(resources) }

// wants takes what all objects should say. Those that it leaves out should say nothing.
func (s *schedule) wants(now time.Time, judged map[source.Ref]*status.Judged) {
	s.waiting = 0
	for ref, j := range judged {
		if !s.kinds[ref.Kind] {
			continue
		}
		e := s.objects[ref]
		if e != nil && e.judged == j && e.pending.IsZero() {
			continue
		}
		if e == nil || e.judged != nil && e.judged.UID != j.UID {
			e = &entry{}
			s.objects[ref] = e
			delete(s.differ, ref)
		}
		e.judged = j
		said := e.want
		if said.Empty() {
			said = e.have
		}
		want := j.Stanza
		switch patient := want.Patient(said); {
		case patient.Equal(want):
			e.pending = time.Time{}
		case e.pending.IsZero():
			e.pending, want = now, patient
		case now.Sub(e.pending) < s.pace.patience:
			want = patient
		default:
			e.pending = time.Time{}
		}
		if !e.pending.IsZero() {
			s.waiting++
		}
		s.want(now, ref, e, want)
	}
	for ref, e := range s.objects {
		if _, still := judged[ref]; !still {
			e.judged = nil
			s.want(now, ref, e, status.Stanza{})
			if !e.busy && e.have.Empty() && now.Sub(e.wrote) >= s.pace.apart {
				delete(s.objects, ref)
			}
		}
	}
}

func (s *schedule) want(now time.Time, ref source.Ref, e *entry, want status.Stanza) {
	e.told = true
	if !want.Equal(e.want) {
		e.want, e.changed = want, now
	}
	s.settle(ref, e)
}

// has takes what all objects of a kind say, as of a time.
func (s *schedule) has(kind string, at time.Time, statuses map[source.Ref]status.Stanza) {
	s.kinds[kind] = true
	for ref := range statuses {
		if s.objects[ref] == nil {
			s.objects[ref] = &entry{}
		}
	}
	for ref, e := range s.objects {
		if ref.Kind != kind || e.busy || e.wrote.After(at) {
			continue
		}
		if have := statuses[ref]; !have.Equal(e.have) {
			e.have, e.changed = have, at
		}
		s.settle(ref, e)
	}
}

// settle puts an entry where it belongs.
func (s *schedule) settle(ref source.Ref, e *entry) {
	if e.busy || !e.told {
		return
	}
	if e.have.Equal(e.want) {
		e.have = e.want // one copy is enough
		e.retry, e.tries = time.Time{}, 0
		delete(s.differ, ref)
		return
	}
	e.due = e.changed
	if e.want.Waits() {
		e.due = e.due.Add(s.pace.grace)
	}
	gap := s.pace.apart
	if e.have.EqualButForWords(e.want) {
		gap = s.pace.words
	}
	for _, earliest := range []time.Time{e.wrote.Add(gap), e.retry} {
		if e.due.Before(earliest) {
			e.due = earliest
		}
	}
	s.differ[ref] = e
}

// write is a status that is to be written.
type write struct {
	object source.Ref
	entry  *entry
	judged status.Judged // without a UID where nothing of ours is to be left, whichever object it is
}

// next is what is to be written next, and when.
func (s *schedule) next() (w write, at time.Time, ok bool) {
	var first *entry
	for ref, e := range s.differ {
		if first == nil || e.due.Before(first.due) {
			w.object, first = ref, e
		}
	}
	if first == nil {
		return w, at, false
	}
	w.entry, w.judged.Stanza = first, first.want
	if first.judged != nil {
		w.judged.UID = first.judged.UID
	}
	return w, first.due, true
}

// begin says that it is being written.
func (s *schedule) begin(w write) {
	w.entry.busy = true
	delete(s.differ, w.object)
}

// done says how the writing went.
func (s *schedule) done(now time.Time, w write, o outcome) {
	e := w.entry
	if s.objects[w.object] != e {
		return // another object of that name has taken its place
	}
	e.busy = false
	switch o {
	case written:
		e.have, e.wrote, e.retry, e.tries = w.judged.Stanza, now, time.Time{}, 0
	case unchanged, gone: // word that it is gone is on its way
		e.have, e.retry, e.tries = w.judged.Stanza, time.Time{}, 0
	case forbidden:
		e.retry = now.Add(s.pace.maxRetry)
	default:
		e.retry = now.Add(min(s.pace.retry<<e.tries, s.pace.maxRetry))
		e.tries = min(e.tries+1, 5)
	}
	s.settle(w.object, e)
}
