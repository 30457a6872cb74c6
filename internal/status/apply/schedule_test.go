package apply

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/status"
)

var (
	edge = source.Ref{Kind: source.KindGateway, Namespace: "shop", Name: "edge"}
	wall = source.Ref{Kind: source.KindGateway, Namespace: "shop", Name: "wall"}
)

// simulation runs a schedule as a term does, with a clock that is set and a cluster that is a map.
type simulation struct {
	*schedule
	now     time.Time
	cluster map[source.Ref]status.Stanza
	outcome outcome // of all writes; written if ""
	wrote   map[source.Ref][]time.Time
}

func simulate() *simulation {
	return &simulation{
		schedule: newSchedule(usual), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		cluster: map[source.Ref]status.Stanza{}, wrote: map[source.Ref][]time.Time{},
	}
}

func (s *simulation) list() {
	for kind := range resources {
		statuses := map[source.Ref]status.Stanza{}
		for ref, said := range s.cluster {
			if ref.Kind == kind {
				statuses[ref] = said
			}
		}
		s.has(kind, s.now, statuses)
	}
}

func (s *simulation) judge(all map[source.Ref]*status.Judged) { s.wants(s.now, all) }

// pass lets time pass, and writes what is due meanwhile.
func (s *simulation) pass(d time.Duration) {
	end := s.now.Add(d)
	for {
		w, at, ok := s.next()
		if !ok || at.After(end) {
			s.now = end
			return
		}
		if at.After(s.now) {
			s.now = at
		}
		s.begin(w)
		o := s.outcome
		if o == "" {
			o = written
		}
		if o == written {
			s.cluster[w.object] = w.judged.Stanza
			if w.judged.Stanza.Empty() {
				delete(s.cluster, w.object)
			}
		}
		s.wrote[w.object] = append(s.wrote[w.object], s.now)
		s.done(s.now, w, o)
	}
}

// at are the times at which an object was written, in seconds since the start.
func (s *simulation) at(ref source.Ref) (seconds []float64) {
	for _, at := range s.wrote[ref] {
		seconds = append(seconds, at.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).Seconds())
	}
	return seconds
}

func (s *simulation) expect(t *testing.T, ref source.Ref, want ...float64) {
	t.Helper()
	if got := s.at(ref); !slices.Equal(got, want) {
		t.Errorf("%s was written at %v s, want %v", ref, got, want)
	}
}

// saying is the only object, accepted or not, with these words.
func saying(accepted metav1.ConditionStatus, words string) map[source.Ref]*status.Judged {
	return map[source.Ref]*status.Judged{edge: {UID: "1", Stanza: status.Stanza{Conditions: []metav1.Condition{
		{Type: "Accepted", Status: accepted, Reason: "Because", Message: words, ObservedGeneration: 1},
	}}}}
}

// programmed is the only object, programmed or waiting for a proxy.
func programmed(is metav1.ConditionStatus, generation int64) map[source.Ref]*status.Judged {
	reason := "Programmed"
	if is == metav1.ConditionFalse {
		reason = status.ReasonPending
	}
	return map[source.Ref]*status.Judged{edge: {UID: "1", Stanza: status.Stanza{Conditions: []metav1.Condition{
		{Type: "Programmed", Status: is, Reason: reason, ObservedGeneration: generation},
	}}}}
}

func TestTheFirstChangeIsWrittenAtOnceTheNextTenSecondsLater(t *testing.T) {
	s := simulate()
	s.list()
	s.judge(saying("True", ""))
	s.pass(time.Second)
	s.expect(t, edge, 0)
	for range 4 { // at 1, 2, 3 and 4 s
		s.judge(saying("False", ""))
		s.pass(500 * time.Millisecond)
		s.judge(saying("Unknown", ""))
		s.pass(500 * time.Millisecond)
	}
	s.pass(10 * time.Second)
	s.expect(t, edge, 0, 10)
	if s.cluster[edge].Conditions[0].Status != "Unknown" {
		t.Errorf("the last is %+v", s.cluster[edge])
	}
	s.pass(time.Hour)
	s.judge(saying("True", ""))
	s.pass(time.Minute)
	s.expect(t, edge, 0, 10, 15+3600)
}

func TestWhatIsBackBeforeItWasWrittenIsNot(t *testing.T) {
	s := simulate()
	s.list()
	s.judge(saying("True", ""))
	s.pass(time.Second)
	s.judge(saying("False", ""))
	s.pass(time.Second)
	s.judge(saying("True", ""))
	s.pass(time.Hour)
	s.expect(t, edge, 0)
}

func TestOtherWordsWaitAMinute(t *testing.T) {
	s := simulate()
	s.list()
	s.judge(saying("False", "waiting for envoy-1"))
	s.pass(time.Second)
	s.judge(saying("False", "waiting for envoy-2"))
	s.pass(time.Hour)
	s.expect(t, edge, 0, 60)
}

func TestAnAcknowledgementWithinASecondIsOneWrite(t *testing.T) {
	s := simulate()
	s.list()
	s.judge(programmed("False", 1))
	s.pass(900 * time.Millisecond)
	s.judge(programmed("True", 1))
	s.pass(time.Minute)
	s.expect(t, edge, 0.9)
	s.judge(programmed("False", 2)) // a new version, that nobody takes
	s.pass(time.Minute)
	s.expect(t, edge, 0.9, 61.9)
}

func TestAProxyMayOweWhatWasProgrammedForHalfAMinute(t *testing.T) {
	s := simulate()
	s.cluster = map[source.Ref]status.Stanza{edge: programmed("True", 1)[edge].Stanza} // from the leader before
	s.list()
	look := func(is metav1.ConditionStatus, seconds int) {
		for range seconds {
			s.judge(programmed(is, 1))
			s.pass(time.Second)
		}
	}
	look("False", 29)
	look("True", 10)
	s.expect(t, edge)
	look("False", 40)
	s.expect(t, edge, 29+10+30+1)
}

func TestNothingIsWrittenBeforeBothSidesAreKnown(t *testing.T) {
	s := simulate()
	s.judge(saying("True", ""))
	s.pass(time.Minute)
	s.expect(t, edge)

	s = simulate()
	s.cluster = map[source.Ref]status.Stanza{wall: saying("True", "")[edge].Stanza}
	s.list()
	s.pass(time.Minute)
	s.expect(t, wall)
	s.judge(saying("True", ""))
	s.pass(time.Minute)
	s.expect(t, wall, 60) // it is taken back what nobody answers for
	s.judge(saying("True", ""))
	if _, still := s.cluster[wall]; still || len(s.objects) != 1 {
		t.Errorf("left: %v, %d objects are remembered", s.cluster, len(s.objects))
	}
}

// TestAKindThatIsListedLate: what objects of a kind say is left alone until it is known what they should say, though
// others are known already.
func TestAKindThatIsListedLate(t *testing.T) {
	s := simulate()
	good := saying(metav1.ConditionTrue, "")
	s.judge(nil)
	s.cluster[edge] = good[edge].Stanza
	s.list()
	s.pass(time.Minute)
	s.judge(good)
	s.pass(time.Minute)
	s.expect(t, edge)
	s.judge(nil)
	s.pass(time.Minute)
	s.expect(t, edge, 120)
}

func TestWhatOthersWroteOverIsWrittenAgain(t *testing.T) {
	s := simulate()
	s.list()
	s.judge(saying("True", ""))
	s.pass(time.Minute)
	delete(s.cluster, edge)
	s.list()
	s.pass(time.Minute)
	s.expect(t, edge, 0, 60)
}

// TestAListThatIsOlderThanAWrite does not count against it.
func TestAListThatIsOlderThanAWrite(t *testing.T) {
	s := simulate()
	s.list()
	before := s.now.Add(-time.Millisecond)
	s.judge(saying("True", ""))
	s.pass(time.Minute)
	s.has(source.KindGateway, before, nil)
	s.pass(time.Minute)
	s.expect(t, edge, 0)
}

func TestFailuresAreTriedEverMoreRarely(t *testing.T) {
	s := simulate()
	s.outcome = failed
	s.list()
	s.judge(saying("True", ""))
	s.pass(1000 * time.Second)
	s.expect(t, edge, 0, 10, 30, 70, 150, 310, 610, 910)
	s.outcome = ""
	s.pass(time.Hour)
	if s.cluster[edge].Empty() {
		t.Error("it was given up")
	}

	s = simulate()
	s.outcome = forbidden
	s.list()
	s.judge(saying("True", ""))
	s.pass(700 * time.Second)
	s.expect(t, edge, 0, 300, 600)
}

func TestAnObjectThatIsGoneIsLeftAlone(t *testing.T) {
	s := simulate()
	s.outcome = gone
	s.list()
	s.judge(saying("True", ""))
	s.pass(time.Hour)
	s.expect(t, edge, 0)
}

func TestAnotherObjectOfTheNameIsAnother(t *testing.T) {
	s := simulate()
	s.list()
	s.judge(saying("True", ""))
	s.pass(time.Second)
	w := write{edge, s.objects[edge], status.Judged{}}
	next := saying("True", "")
	next[edge].UID = "2"
	s.judge(next)
	s.done(s.now, w, failed) // of the one before
	s.pass(time.Second)
	s.expect(t, edge, 0, 1)
}

// TestTheScheduleHoldsItsPace: whatever is judged, and whatever fails, an object that is written is not
// written again for ten seconds, and in the end the cluster says what it should, and nothing is remembered
// that says nothing.
func TestTheScheduleHoldsItsPace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := simulate()
		objects := []source.Ref{edge, wall, {Kind: source.KindHTTPRoute, Namespace: "shop", Name: "cart"}}
		draw := func() map[source.Ref]*status.Judged {
			all := map[source.Ref]*status.Judged{}
			for _, ref := range objects {
				if rapid.Bool().Draw(t, "judged") {
					j := status.Judged{UID: types.UID(ref.Name), Stanza: status.Stanza{Conditions: []metav1.Condition{
						{Type: "Accepted", Status: "True", Reason: "Accepted", Message: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "words")},
						rapid.SampledFrom([]metav1.Condition{programmed("True", 1)[edge].Stanza.Conditions[0], programmed("False", 1)[edge].Stanza.Conditions[0]}).Draw(t, "programmed"),
					}}}
					all[ref] = &j
				}
			}
			return all
		}
		for _, ref := range objects {
			if rapid.Bool().Draw(t, "there before") {
				s.cluster[ref] = status.Stanza{Conditions: programmed("True", 1)[edge].Stanza.Conditions}
			}
		}
		s.list()
		succeeded := map[source.Ref]time.Time{}
		last := draw()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			last = draw()
			s.judge(last)
			s.outcome = rapid.SampledFrom([]outcome{written, written, written, failed, conflict, forbidden}).Draw(t, "outcome")
			clear(s.wrote)
			s.pass(time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond)
			for ref, times := range s.wrote {
				for _, at := range times {
					if before, ok := succeeded[ref]; ok && at.Sub(before) < usual.apart {
						t.Fatalf("%s was written at %v, and before at %v", ref, at, before)
					}
					if s.outcome == written {
						succeeded[ref] = at
					}
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "list") == 0 {
				s.list()
			}
		}
		s.outcome = written
		for range 10 { // patience, words and retries have their time
			s.judge(last)
			s.pass(time.Minute)
		}
		for ref, j := range last {
			if !s.cluster[ref].Equal(j.Stanza) {
				t.Fatalf("%s says %+v in the end, want %+v", ref, s.cluster[ref], j.Stanza)
			}
		}
		if len(s.cluster) != len(last) || len(s.objects) != len(last) {
			t.Fatalf("%v says something, %v is remembered; want %v", slices.Collect(maps.Keys(s.cluster)), slices.Collect(maps.Keys(s.objects)), fmt.Sprint(last))
		}
	})
}
