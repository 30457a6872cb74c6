package status

import (
	"cmp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/internal/source"
)

// The reasons of Events that are not those of a condition.
const (
	EventRefused   = "Refused"   // the object is not accepted
	EventRejected  = "Rejected"  // a proxy did not take it
	EventRecovered = "Recovered" // what was said before is over
)

// maxNote is the longest note of an Event that an API server takes.
const maxNote = 1024

// Event is what has come to pass with an object.
type Event struct {
	Object  source.Ref
	Warning bool // else it is good news
	Reason  string
	Note    string // at most 1024 bytes
}

// News tells of conditions that should not be when they come, and when they have gone. What stays is told
// once.
type News struct {
	told map[topic]Event
	// known is what the cluster was told before us, and is taken as told when it is seen first.
	known map[known]bool
}

type topic struct {
	object         source.Ref
	ancestor, kind string
}

type known struct {
	object       source.Ref
	kind, reason string
}

// NewNews is the News of one who has told nothing.
func NewNews() *News {
	return &News{told: map[topic]Event{}, known: map[known]bool{}}
}

// Known takes what the status of an object says as told.
func (n *News) Known(object source.Ref, s Stanza) {
	know := func(conditions []metav1.Condition) {
		for _, c := range conditions {
			if (Condition{Type: c.Type, Status: string(c.Status), Reason: c.Reason}).Bad() {
				n.known[known{object, c.Type, c.Reason}] = true
			}
		}
	}
	know(s.Conditions)
	for _, l := range s.Listeners {
		know(l.Conditions)
	}
	for _, p := range s.Parents {
		know(p.Conditions)
	}
	for _, a := range s.Ancestors {
		know(a.Conditions)
	}
}

// Of is the news of the objects as they are now, by object.
func (n *News) Of(objects []Object) (events []Event) {
	now := map[topic]Event{}
	there := map[source.Ref]bool{}
	said := map[Event]bool{}
	say := func(e Event) {
		if !said[e] { // several listeners or parents may say the same
			said[e] = true
			events = append(events, e)
		}
	}
	for _, o := range objects {
		ref := source.Ref{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
		there[ref] = true
		for _, c := range o.Conditions {
			t := topic{ref, c.Ancestor, c.Type}
			if _, twice := now[t]; twice {
				continue
			}
			before, told := n.told[t]
			switch {
			case c.Bad():
				now[t] = Event{Object: ref, Warning: true, Reason: eventReason(c), Note: note(c)}
				if before != now[t] && !n.known[known{ref, c.Type, c.Reason}] {
					say(now[t])
				}
			case told && (c.Reason == ReasonPending || c.Reason == ReasonInvalid):
				now[t] = before // whether it is over is not known yet
			}
		}
	}
	for t, before := range n.told {
		if _, still := now[t]; !still && there[t.object] {
			say(Event{Object: t.object, Reason: EventRecovered, Note: note(Condition{Message: "no longer: " + before.Reason, Ancestor: t.ancestor})})
		}
	}
	clear(n.known)
	n.told = now
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Or(a.Object.Compare(b.Object), cmp.Compare(a.Note, b.Note)) })
	return events
}

func eventReason(c Condition) string {
	switch c.Type {
	case TypeAccepted:
		return EventRefused
	case TypeProgrammed:
		if c.Reason == ReasonRejected {
			return EventRejected
		}
	}
	return c.Reason
}

// note is the condition in words, its reason first where the Event has another.
func note(c Condition) string {
	words := []string{}
	if c.Reason != "" && c.Reason != eventReason(c) {
		words = append(words, c.Reason)
	}
	if c.Field != "" {
		words = append(words, c.Field)
	}
	text := strings.ToValidUTF8(strings.Join(append(words, c.Message), ": "), "\uFFFD")
	if c.Ancestor != "" {
		text += " (" + c.Ancestor + ")"
	}
	if len(text) > maxNote {
		text = strings.ToValidUTF8(text[:maxNote-3], "") + "..."
	}
	return text
}
