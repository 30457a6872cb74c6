package status

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/catalog"
)

// Stanza is what the status of an object in a cluster says, as its kind has it there: a GatewayClass has
// Conditions, a Gateway also Addresses and Listeners, an HTTPRoute Parents, a policy Ancestors.
type Stanza struct {
	Conditions []metav1.Condition               `json:"conditions,omitempty"`
	Addresses  []gatewayv1.GatewayStatusAddress `json:"addresses,omitempty"`
	Listeners  []gatewayv1.ListenerStatus       `json:"listeners,omitempty"`
	Parents    []gatewayv1.RouteParentStatus    `json:"parents,omitempty"`
	Ancestors  []gatewayv1.PolicyAncestorStatus `json:"ancestors,omitempty"`
}

// Empty tells whether it says nothing.
func (s Stanza) Empty() bool { return equality.Semantic.DeepEqual(s, Stanza{}) }

// Equal tells whether two say the same, whenever it came to be so.
func (s Stanza) Equal(other Stanza) bool {
	return equality.Semantic.DeepEqual(s.timeless(), other.timeless())
}

// EqualButForWords tells whether two differ in messages at most.
func (s Stanza) EqualButForWords(other Stanza) bool { return s.wordless().Equal(other.wordless()) }

// Ours is the part that we answer for, without its times: not what other controllers say as parents or
// ancestors, nor conditions of types that we do not have.
func (s Stanza) Ours() Stanza {
	s = s.timeless()
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c metav1.Condition) bool {
		return !slices.Contains([]string{TypeAccepted, TypeProgrammed, TypeDegraded}, c.Type)
	})
	s.Parents = slices.DeleteFunc(slices.Clone(s.Parents), func(p gatewayv1.RouteParentStatus) bool {
		return p.ControllerName != catalog.ControllerName
	})
	s.Ancestors = slices.DeleteFunc(slices.Clone(s.Ancestors), func(a gatewayv1.PolicyAncestorStatus) bool {
		return a.ControllerName != catalog.ControllerName
	})
	return s
}

// Over is s with its times: those of was for the conditions whose status is the same there, and now.
func (s Stanza) Over(was Stanza, now metav1.Time) Stanza {
	return s.joined(was, func(c, before metav1.Condition, known bool) metav1.Condition {
		c.LastTransitionTime = now
		if known && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		return c
	})
}

// Patient is s with the Programmed of was where all that differs is that a proxy has yet to acknowledge what
// was Programmed: the same generation, sent again to a proxy that connects, or with new endpoints.
func (s Stanza) Patient(was Stanza) Stanza {
	return s.joined(was, func(c, before metav1.Condition, known bool) metav1.Condition {
		if c.Type == TypeProgrammed && c.Reason == ReasonPending && known && before.Status == metav1.ConditionTrue &&
			before.ObservedGeneration == c.ObservedGeneration {
			return before
		}
		return c
	})
}

// Waits tells whether it says of anything that a proxy has yet to acknowledge it.
func (s Stanza) Waits() (waits bool) {
	s.joined(Stanza{}, func(c, _ metav1.Condition, _ bool) metav1.Condition {
		waits = waits || c.Type == TypeProgrammed && c.Reason == ReasonPending
		return c
	})
	return waits
}

func (s Stanza) timeless() Stanza {
	return s.joined(Stanza{}, func(c, _ metav1.Condition, _ bool) metav1.Condition {
		c.LastTransitionTime = metav1.Time{}
		return c
	})
}

func (s Stanza) wordless() Stanza {
	return s.joined(Stanza{}, func(c, _ metav1.Condition, _ bool) metav1.Condition {
		c.Message = ""
		return c
	})
}

// joined is s with every condition replaced by what of makes of it and of the one that stands in its
// place in was, if one does.
func (s Stanza) joined(was Stanza, of func(c, before metav1.Condition, known bool) metav1.Condition) Stanza {
	join := func(conditions, before []metav1.Condition) []metav1.Condition {
		conditions = slices.Clone(conditions)
		for i, c := range conditions {
			if at := slices.IndexFunc(before, func(b metav1.Condition) bool { return b.Type == c.Type }); at >= 0 {
				conditions[i] = of(c, before[at], true)
			} else {
				conditions[i] = of(c, metav1.Condition{}, false)
			}
		}
		return conditions
	}
	s.Conditions = join(s.Conditions, was.Conditions)
	s.Listeners = slices.Clone(s.Listeners)
	for i, l := range s.Listeners {
		var before []metav1.Condition
		if at := slices.IndexFunc(was.Listeners, func(b gatewayv1.ListenerStatus) bool { return b.Name == l.Name }); at >= 0 {
			before = was.Listeners[at].Conditions
		}
		s.Listeners[i].Conditions = join(l.Conditions, before)
	}
	s.Parents = slices.Clone(s.Parents)
	for i, p := range s.Parents {
		var before []metav1.Condition
		if at := slices.IndexFunc(was.Parents, func(b gatewayv1.RouteParentStatus) bool {
			return b.ControllerName == p.ControllerName && equality.Semantic.DeepEqual(b.ParentRef, p.ParentRef)
		}); at >= 0 {
			before = was.Parents[at].Conditions
		}
		s.Parents[i].Conditions = join(p.Conditions, before)
	}
	s.Ancestors = slices.Clone(s.Ancestors)
	for i, a := range s.Ancestors {
		var before []metav1.Condition
		if at := slices.IndexFunc(was.Ancestors, func(b gatewayv1.PolicyAncestorStatus) bool {
			return b.ControllerName == a.ControllerName && equality.Semantic.DeepEqual(b.AncestorRef, a.AncestorRef)
		}); at >= 0 {
			before = was.Ancestors[at].Conditions
		}
		s.Ancestors[i].Conditions = join(a.Conditions, before)
	}
	return s
}

// maxMessage is the longest message of a condition that an API server takes.
const maxMessage = 32768

// metaCondition is c for the version of that generation.
func metaCondition(c Condition, generation int64) metav1.Condition {
	message := strings.ToValidUTF8(c.Message, "\uFFFD")
	if c.Field != "" {
		message = c.Field + ": " + message
	}
	if c.Type == TypeProgrammed && c.Status == "True" && c.Message != nothingToProgram {
		message = "acknowledged by every connected proxy that it concerns" // how many changes with every one that comes or goes
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage-3], "") + "..."
	}
	return metav1.Condition{
		Type: c.Type, Status: metav1.ConditionStatus(c.Status), Reason: c.Reason, Message: message,
		ObservedGeneration: cmp.Or(c.Generation, generation),
	}
}

// merged are conditions with one of each type, by type: of several the worst, with the messages of those
// that share its reason.
func merged(conditions []metav1.Condition) []metav1.Condition {
	badFirst := func(c metav1.Condition) int {
		if (c.Status == metav1.ConditionTrue) == (c.Type == TypeDegraded) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(conditions, func(a, b metav1.Condition) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), badFirst(a)-badFirst(b))
	})
	var out []metav1.Condition
	for _, c := range conditions {
		last := len(out) - 1
		switch {
		case last < 0 || out[last].Type != c.Type:
			out = append(out, c)
		case out[last].Status == c.Status && out[last].Reason == c.Reason && c.Message != "" && !strings.Contains(out[last].Message, c.Message) &&
			len(out[last].Message)+len(c.Message)+2 <= maxMessage:
			out[last].Message += "; " + c.Message
		}
	}
	return out
}
