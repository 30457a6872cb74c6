package status

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// having is the route with these conditions, for one parent.
func having(conditions ...Condition) []Object {
	for i := range conditions {
		conditions[i].Ancestor = "Gateway shop/edge"
	}
	return []Object{{Kind: route.Kind, Namespace: route.Namespace, Name: route.Name, Conditions: conditions}}
}

var (
	refused    = Condition{Type: TypeAccepted, Status: "False", Reason: "Invalid", Field: "spec.rules[0]", Message: "no such method"}
	wellTaken  = Condition{Type: TypeAccepted, Status: "True", Reason: "Accepted"}
	rejected   = Condition{Type: TypeProgrammed, Status: "False", Reason: ReasonRejected, Message: "envoy-1 refused it: no"}
	waiting    = Condition{Type: TypeProgrammed, Status: "False", Reason: ReasonPending, Message: "0 of 1"}
	inForceNow = Condition{Type: TypeProgrammed, Status: "True", Reason: ReasonProgrammed}
)

// tell gives the news of one state after the other, each as "Warning Reason: note" or "Normal ...".
func tell(n *News, states ...[]Object) (all []string) {
	for _, objects := range states {
		var words []string
		for _, e := range n.Of(objects) {
			class := "Normal "
			if e.Warning {
				class = "Warning "
			}
			words = append(words, class+e.Reason+": "+e.Note)
		}
		all = append(all, strings.Join(words, "\n"))
	}
	return all
}

func TestNews(t *testing.T) {
	const (
		isRefused  = "Warning Refused: Invalid: spec.rules[0]: no such method (Gateway shop/edge)"
		isRejected = "Warning Rejected: envoy-1 refused it: no (Gateway shop/edge)"
	)
	missing := Condition{Type: TypeResolvedRefs, Status: "False", Reason: "BackendNotFound", Message: "Service shop/x does not exist"}
	stale := Condition{Type: TypeDegraded, Status: "True", Reason: ReasonStaleMetrics, Message: "a"}
	stale2 := stale
	stale2.Message = "b"
	for _, tc := range []struct {
		name   string
		states [][]Object
		want   []string
	}{
		{"nothing is wrong", [][]Object{having(wellTaken, inForceNow), having(wellTaken, waiting)}, []string{"", ""}},
		{"what stays is told once", [][]Object{having(refused), having(refused), having(wellTaken)}, []string{isRefused, "", "Normal Recovered: no longer: Refused (Gateway shop/edge)"}},
		{"a refusal and its recovery", [][]Object{having(rejected), having(waiting), having(inForceNow)}, []string{isRejected, "", "Normal Recovered: no longer: Rejected (Gateway shop/edge)"}},
		{"a refusal again while it waited", [][]Object{having(rejected), having(waiting), having(rejected)}, []string{isRejected, "", ""}},
		{"a reference", [][]Object{having(missing)}, []string{"Warning BackendNotFound: Service shop/x does not exist (Gateway shop/edge)"}},
		{"two of a type are one", [][]Object{having(stale, stale2), having(stale, stale2), having()}, []string{
			"Warning StaleMetrics: a (Gateway shop/edge)", "", "Normal Recovered: no longer: StaleMetrics (Gateway shop/edge)"}},
		{"what is deleted does not recover", [][]Object{having(refused), nil}, []string{isRefused, ""}},
	} {
		if got := tell(NewNews(), tc.states...); !slices.Equal(got, tc.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", tc.name, got, tc.want)
		}
	}
}

// TestNewsOfTheLeaderBefore: what the cluster's status says was told by whoever wrote it; what it does not say
// was not.
func TestNewsOfTheLeaderBefore(t *testing.T) {
	n := NewNews()
	n.Known(route, Stanza{Parents: []gatewayv1.RouteParentStatus{{Conditions: []metav1.Condition{
		{Type: TypeAccepted, Status: metav1.ConditionFalse, Reason: "Invalid"},
	}}}})
	got := tell(n, having(refused, rejected), having(wellTaken, rejected), having(refused, rejected))
	if got[0] != "Warning Rejected: envoy-1 refused it: no (Gateway shop/edge)" {
		t.Errorf("first %q", got[0])
	}
	if got[1] != "Normal Recovered: no longer: Refused (Gateway shop/edge)" || !strings.HasPrefix(got[2], "Warning Refused") {
		t.Errorf("then %q", got[1:])
	}
}

func TestNotesAreWithinTheLimit(t *testing.T) {
	long := refused
	long.Message = strings.Repeat("é", maxNote)
	e := NewNews().Of(having(long))[0]
	if len(e.Note) > maxNote || !utf8.ValidString(e.Note) {
		t.Errorf("%d bytes", len(e.Note))
	}
}
