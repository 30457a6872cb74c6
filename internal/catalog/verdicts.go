package catalog

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"evenkeel.io/controlplane/internal/source"
)

// The reasons of conditions. Those of Gateway API keep its spelling.
const (
	ReasonAccepted                   = "Accepted"
	ReasonResolvedRefs               = "ResolvedRefs"
	ReasonInvalid                    = "Invalid"
	ReasonConflicted                 = "Conflicted"
	ReasonTargetNotFound             = "TargetNotFound"
	ReasonUnsupportedValue           = "UnsupportedValue"
	ReasonUnsupportedProtocol        = "UnsupportedProtocol"
	ReasonUnsupportedAddress         = "UnsupportedAddress"
	ReasonIncompatibleFilters        = "IncompatibleFilters"
	ReasonInvalidParameters          = "InvalidParameters"
	ReasonInvalidRouteKinds          = "InvalidRouteKinds"
	ReasonHostnameConflict           = "HostnameConflict"
	ReasonListenersNotValid          = "ListenersNotValid"
	ReasonPending                    = "Pending"
	ReasonNoMatchingParent           = "NoMatchingParent"
	ReasonNotAllowedByListeners      = "NotAllowedByListeners"
	ReasonNoMatchingListenerHostname = "NoMatchingListenerHostname"
	ReasonInvalidKind                = "InvalidKind"
	ReasonBackendNotFound            = "BackendNotFound"
	ReasonRefNotPermitted            = "RefNotPermitted"
)

// refusal is why an object, or a part of it, is not taken.
type refusal struct {
	Reason  string
	Field   string
	Message string
}

func refuse(reason, field, format string, args ...any) *refusal {
	return &refusal{Reason: reason, Field: field, Message: fmt.Sprintf(format, args...)}
}

func (r *refusal) condition() Condition {
	return Condition{Reason: r.Reason, Field: r.Field, Message: r.Message}
}

// conditionKept says of a refused object what is in force in its place.
func (r *refusal) conditionKept(kept bool, otherwise string) Condition {
	c := r.condition()
	c.Kept = kept
	if kept {
		otherwise = "the last accepted version stays in force"
	}
	c.Message += "; " + otherwise
	return c
}

// noEffect is said of a refused object of which no version was ever accepted.
const noEffect = "it has no effect, for no version of it was accepted before"

func accepted() Condition { return Condition{OK: true, Reason: ReasonAccepted} }

func resolved() Condition { return Condition{OK: true, Reason: ReasonResolvedRefs} }

func compareRefs(a, b source.Ref) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// compareVerdicts orders verdicts by object, then parent. Of one object with two verdicts on the same
// (listeners of one name, say) the field decides, so that the order is the same every time.
func compareVerdicts(a, b Verdict) int {
	if c := compareRefs(a.Object, b.Object); c != 0 {
		return c
	}
	return cmp.Or(compareRefs(a.Parent, b.Parent), strings.Compare(a.Section, b.Section), cmp.Compare(a.Port, b.Port),
		strings.Compare(a.Accepted.Field, b.Accepted.Field), strings.Compare(a.Accepted.Message, b.Accepted.Message))
}

// joinVerdicts collects the verdicts of all stages. Most changes alter none of them, so the first thing
// to find out is whether prev's list can be taken as it is.
func joinVerdicts(prev *Catalog, now memory) []Verdict {
	was := prev.memory
	if prev.Verdicts != nil &&
		sameVerdicts(was.grants.verdicts, now.grants.verdicts) &&
		sameVerdicts(was.routing.verdicts, now.routing.verdicts) &&
		sameVerdicts(was.balance.verdicts, now.balance.verdicts) &&
		sameVerdicts(was.limits.verdicts, now.limits.verdicts) &&
		now.services.sameVerdicts(was.services) {
		return prev.Verdicts
	}
	all := slices.Concat(now.grants.verdicts, now.routing.verdicts, now.balance.verdicts, now.limits.verdicts, now.services.orphans)
	for _, s := range now.services.byObject {
		all = append(all, s.verdicts...)
	}
	slices.SortFunc(all, compareVerdicts)
	return mergeAnnotated(all)
}

// mergeAnnotated leaves one verdict of a Pod that several Services list.
func mergeAnnotated(sorted []Verdict) []Verdict {
	return slices.CompactFunc(sorted, func(a, b Verdict) bool {
		return a.Object.Kind == source.KindPod && a.Object == b.Object
	})
}

func sameVerdicts(a, b []Verdict) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || reflect.DeepEqual(a, b)
}
