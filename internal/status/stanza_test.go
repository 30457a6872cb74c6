package status

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/catalog"
)

// stanzas are any, with entries of ours and of others.
var stanzas = rapid.Custom(func(t *rapid.T) (s Stanza) {
	conditions := func(label string) (all []metav1.Condition) {
		for _, kind := range []string{TypeAccepted, TypeProgrammed, TypeDegraded, "example.com/Theirs"} {
			if rapid.Bool().Draw(t, label+kind) {
				all = append(all, metav1.Condition{
					Type: kind, Status: rapid.SampledFrom([]metav1.ConditionStatus{"True", "False"}).Draw(t, "status"),
					Reason:             rapid.SampledFrom([]string{ReasonPending, ReasonProgrammed}).Draw(t, "reason"),
					ObservedGeneration: rapid.Int64Range(1, 2).Draw(t, "generation"),
					LastTransitionTime: metav1.Unix(rapid.Int64Range(1, 1000).Draw(t, "since"), 0),
				})
			}
		}
		return all
	}
	s.Conditions = conditions("object ")
	for _, name := range []gatewayv1.SectionName{"a", "b"} {
		if rapid.Bool().Draw(t, "listener") {
			s.Listeners = append(s.Listeners, gatewayv1.ListenerStatus{Name: name, Conditions: conditions("listener ")})
		}
	}
	for _, controller := range []gatewayv1.GatewayController{catalog.ControllerName, "example.com/other"} {
		for _, name := range []gatewayv1.ObjectName{"a", "b"} {
			if rapid.Bool().Draw(t, "entry") {
				s.Parents = append(s.Parents, gatewayv1.RouteParentStatus{
					ControllerName: controller, ParentRef: gatewayv1.ParentReference{Name: name}, Conditions: conditions("parent "),
				})
				s.Ancestors = append(s.Ancestors, gatewayv1.PolicyAncestorStatus{
					ControllerName: controller, AncestorRef: gatewayv1.ParentReference{Name: name}, Conditions: conditions("ancestor "),
				})
			}
		}
	}
	return s
})

// since are the times of all conditions, in order.
func since(s Stanza) (all []int64) {
	s.joined(Stanza{}, func(c, _ metav1.Condition, _ bool) metav1.Condition {
		all = append(all, c.LastTransitionTime.Unix())
		return c
	})
	return all
}

func TestStanzasAreWrittenOverEachOther(t *testing.T) {
	now := metav1.Unix(5000, 0)
	rapid.Check(t, func(t *rapid.T) {
		was, want := stanzas.Draw(t, "was"), stanzas.Draw(t, "want")
		wasSince, wantSince := since(was), since(want)
		over := want.Over(was, now)
		if !over.Equal(want) {
			t.Fatalf("Over changes more than times: %+v", over)
		}
		if again := want.Over(over, metav1.Unix(6000, 0)); !slices.Equal(since(again), since(over)) {
			t.Fatalf("what did not change has other times: %v, %v", since(over), since(again))
		}
		if !slices.Equal(since(was), wasSince) || !slices.Equal(since(want), wantSince) {
			t.Fatal("what was given was changed")
		}
		if patient := want.Patient(was); !patient.Equal(want) && !patient.Patient(was).Equal(patient) {
			t.Fatalf("patience does not settle: %+v", patient)
		}
		ours := want.Ours()
		if !ours.Ours().Equal(ours) {
			t.Fatalf("what is ours is not all ours: %+v", ours)
		}
		for _, p := range ours.Parents {
			if p.ControllerName != catalog.ControllerName {
				t.Fatalf("%+v is not ours", p)
			}
		}
	})
}

func TestTimesSayWhenTheStatusChanged(t *testing.T) {
	condition := func(status metav1.ConditionStatus, reason string, since int64) Stanza {
		return Stanza{Parents: []gatewayv1.RouteParentStatus{{ControllerName: catalog.ControllerName, Conditions: []metav1.Condition{
			{Type: TypeAccepted, Status: status, Reason: reason, LastTransitionTime: metav1.Unix(since, 0)},
		}}}}
	}
	now := metav1.Time{Time: time.Unix(1000, 0)}
	if got := since(condition("True", "Other", 0).Over(condition("True", "One", 10), now)); got[0] != 10 {
		t.Errorf("another reason is no transition: %v", got)
	}
	if got := since(condition("False", "One", 0).Over(condition("True", "One", 10), now)); got[0] != 1000 {
		t.Errorf("another status is one: %v", got)
	}
}

func TestPatienceIsForWhatWasProgrammed(t *testing.T) {
	is := func(status metav1.ConditionStatus, reason string, generation int64) Stanza {
		return Stanza{Conditions: []metav1.Condition{{Type: TypeProgrammed, Status: status, Reason: reason, ObservedGeneration: generation}}}
	}
	good := is("True", ReasonProgrammed, 1)
	for _, tc := range []struct {
		name    string
		now     Stanza
		patient bool
	}{
		{"the same, sent again", is("False", ReasonPending, 1), true},
		{"another version", is("False", ReasonPending, 2), false},
		{"a refusal", is("False", ReasonRejected, 1), false},
	} {
		if got := tc.now.Patient(good).Equal(good); got != tc.patient {
			t.Errorf("%s: patient %v", tc.name, got)
		}
	}
}

func TestMessagesAreWithinTheLimits(t *testing.T) {
	long := metaCondition(Condition{Type: TypeProgrammed, Status: "False", Reason: ReasonRejected, Message: strings.Repeat("é", maxMessage) + "\xff"}, 1)
	if len(long.Message) > maxMessage || !utf8.ValidString(long.Message) || !strings.HasSuffix(long.Message, "...") {
		t.Errorf("%d bytes, ending in %q", len(long.Message), long.Message[len(long.Message)-6:])
	}
	c := Condition{Type: TypeDegraded, Status: "True", Reason: ReasonStaleMetrics, Message: strings.Repeat("a", maxMessage/2)}
	other := c
	other.Message = strings.Repeat("b", maxMessage/2)
	if all := merged([]metav1.Condition{metaCondition(c, 1), metaCondition(other, 1)}); len(all) != 1 || len(all[0].Message) > maxMessage {
		t.Errorf("%d conditions", len(all))
	}
}

func TestOfSeveralTheWorstCounts(t *testing.T) {
	all := merged([]metav1.Condition{
		{Type: TypeAccepted, Status: "True", Reason: "Accepted"}, {Type: TypeDegraded, Status: "True", Reason: "StaleMetrics", Message: "one"},
		{Type: TypeAccepted, Status: "False", Reason: "Invalid", Message: "no"}, {Type: TypeDegraded, Status: "True", Reason: "StaleMetrics", Message: "two"},
	})
	if len(all) != 2 || all[0].Reason != "Invalid" || all[0].Message != "no" || all[1].Message != "one; two" {
		t.Errorf("%+v", all)
	}
}
