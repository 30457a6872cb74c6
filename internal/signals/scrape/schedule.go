package scrape

import (
	"container/heap"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// schedule decides which target is scraped when. It knows nothing of HTTP and has no clock: it is
// told the time and answers with targets.
//
// A target is due at the same phase of every interval, given by the hash of its identity: targets
// spread over the interval, and a restart changes nobody's turn. A due target takes a slot, or waits
// for one in the order of its queue. Targets whose last scrape timed out ("suspects") wait in a queue
// of their own and may hold half of the slots at most, so that those which hang leave the healthy ones
// the other half. Of the two queues the one whose head has waited longer goes first, so every target
// comes round.
type schedule struct {
	slots    int
	due      dueHeap
	healthy  []*target // waiting for a slot
	suspects []*target
	running  int
	// runningSuspects of them are suspects.
	runningSuspects int
}

// turn is a target's place in the schedule.
type turn struct {
	at        time.Time // when it is due next
	position  int       // in the heap, -1: not in it
	queuedAt  time.Time // when it was due, while it waits
	waiting   bool
	running   bool
	asSuspect bool // it runs in a suspect's slot
	suspect   bool
}

// firstTurn is the next time after now at which the target's phase comes up.
func firstTurn(id identity, interval time.Duration, now time.Time) time.Time {
	return signals.NextTurn(id.owner+"\x00"+id.url, interval, now)
}

// put places a target, or places it anew when its interval has changed.
func (s *schedule) put(t *target, now time.Time) {
	t.turn.at = firstTurn(t.id, t.plan.interval, now)
	if t.turn.position >= 0 {
		heap.Fix(&s.due, t.turn.position)
		return
	}
	heap.Push(&s.due, t)
}

// remove takes a target out. A scrape of it that is under way keeps its slot until it is done.
func (s *schedule) remove(t *target) {
	if t.turn.position >= 0 {
		heap.Remove(&s.due, t.turn.position)
	}
	if t.turn.waiting {
		t.turn.waiting = false
		is := func(o *target) bool { return o == t }
		s.healthy = slices.DeleteFunc(s.healthy, is)
		s.suspects = slices.DeleteFunc(s.suspects, is)
	}
}

// start gives the targets to scrape now, and how many turns were skipped because the one before had
// not ended.
func (s *schedule) start(now time.Time) (begin []*target, skipped int) {
	for len(s.due) > 0 && !s.due[0].turn.at.After(now) {
		t := s.due[0]
		at := t.turn.at
		// After a long pause only the last of the turns that passed counts.
		passed := now.Sub(at) / t.plan.interval
		t.turn.at = at.Add((passed + 1) * t.plan.interval)
		heap.Fix(&s.due, 0)
		skipped += int(passed)
		if t.turn.waiting || t.turn.running {
			skipped++
			continue
		}
		t.turn.waiting, t.turn.queuedAt = true, at.Add(passed*t.plan.interval)
		if t.turn.suspect {
			s.suspects = append(s.suspects, t)
		} else {
			s.healthy = append(s.healthy, t)
		}
	}
	for s.running < s.slots {
		suspect := len(s.suspects) > 0 && s.runningSuspects < max(1, s.slots/2)
		healthy := len(s.healthy) > 0
		switch {
		case suspect && (!healthy || s.suspects[0].turn.queuedAt.Before(s.healthy[0].turn.queuedAt)):
			begin = append(begin, s.run(&s.suspects, true))
		case healthy:
			begin = append(begin, s.run(&s.healthy, false))
		default:
			return begin, skipped
		}
	}
	return begin, skipped
}

func (s *schedule) run(queue *[]*target, asSuspect bool) *target {
	t := (*queue)[0]
	(*queue)[0] = nil
	*queue = (*queue)[1:]
	t.turn.waiting, t.turn.running, t.turn.asSuspect = false, true, asSuspect
	s.running++
	if asSuspect {
		s.runningSuspects++
	}
	return t
}

// finish frees the slot of a scrape that has ended.
func (s *schedule) finish(t *target, timedOut bool) {
	s.running--
	if t.turn.asSuspect {
		s.runningSuspects--
	}
	t.turn.running, t.turn.asSuspect, t.turn.suspect = false, false, timedOut
}

// next is when the next target is due; false if there is none.
func (s *schedule) next() (time.Time, bool) {
	if len(s.due) == 0 {
		return time.Time{}, false
	}
	return s.due[0].turn.at, true
}

// dueHeap is a heap of targets by the time at which they are due.
type dueHeap []*target

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].turn.at.Before(h[j].turn.at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].turn.position, h[j].turn.position = i, j
}
func (h *dueHeap) Push(x any) {
	t := x.(*target)
	t.turn.position = len(*h)
	*h = append(*h, t)
}
func (h *dueHeap) Pop() any {
	old := *h
	last := len(old) - 1
	t := old[last]
	old[last] = nil
	*h = old[:last]
	t.turn.position = -1
	return t
}
