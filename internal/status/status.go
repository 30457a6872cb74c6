// Package status compares what was decided of each object (catalog verdicts, source problems) with
// what the fleet acknowledged and says it as conditions. It is a pure function of both.
//
//	Accepted      is the object right, and ours to act on?
//	ResolvedRefs  does everything it names exist, and may it name it?
//	Programmed    did every connected Envoy that it concerns acknowledge it?
//	Degraded      only when true: something older than the object is in force
//
// It reads no clock and writes nothing: who shows or stores the conditions is not its business.
package status

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/xds"
)

// The types of a Condition.
const (
	TypeAccepted     = "Accepted"
	TypeResolvedRefs = "ResolvedRefs"
	TypeProgrammed   = "Programmed"
	TypeDegraded     = "Degraded"
)

// The reasons that this package gives. Those of Accepted and ResolvedRefs are the catalog's own;
// ReasonInvalid is also Accepted's where the source refused the object.
const (
	ReasonInvalid       = "Invalid"
	ReasonProgrammed    = "Programmed"
	ReasonPending       = "Pending"
	ReasonRejected      = "Rejected"
	ReasonLastKnownGood = "LastKnownGood"
	ReasonStaleMetrics  = "StaleMetrics"
	ReasonRolledBack    = "RolledBack"
)

// KindFile is the Kind of an Object that stands for a file in which no object could be read.
const KindFile = "File"

// Condition is one statement about an object, in the terms of the Kubernetes API.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"` // "True" or "False"
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Ancestor is the parent or target the condition speaks for, "Gateway shop/edge" or, of one
	// listener, "Gateway shop/edge http", or of a port, "Gateway shop/edge:80"; "" where the object
	// stands for itself.
	Ancestor string `json:"ancestor,omitempty"`
	// Field is the path of the field at fault, "" where it is not one field's.
	Field string `json:"field,omitempty"`
	// Generation of the version that was judged, 0 for the one in the Store.
	Generation int64 `json:"-"`
}

// Bad reports whether a condition should not be. What merely waits for proxies is not bad, and what is
// not programmed because it is not accepted is said once.
func (c Condition) Bad() bool {
	switch c.Type {
	case TypeDegraded:
		return c.Status == "True"
	case TypeProgrammed:
		return c.Status == "False" && c.Reason != ReasonPending && c.Reason != ReasonInvalid
	}
	return c.Status == "False"
}

// Object is an object, or a file that could not be read as one, with its conditions.
type Object struct {
	Kind       string      `json:"kind"`
	Namespace  string      `json:"namespace"`
	Name       string      `json:"name"`
	File       string      `json:"file,omitempty"` // relative to the configuration directory
	Line       int         `json:"line,omitempty"` // from 1: of the field at fault, else of the object
	Conditions []Condition `json:"conditions"`
}

// Input is all that Conditions looks at. Store and Catalog may be nil.
type Input struct {
	Store   *source.Store
	Catalog *catalog.Catalog
	// Proxies are the nodes connected now.
	Proxies []xds.Proxy
	// Stale says, by Service name ("<namespace>/<service>:<port>"), why weights are held for want of
	// fresh readings. Weights that an operator froze do not belong here.
	Stale map[string]string
	// Refused says, by object ("Service shop/cart"), why what was made of it did not pass validation.
	Refused map[string]string
	// Restored says, by fleet, since when its Gateway's objects are not known and what was saved is served.
	Restored map[string]string
	// RolledBack are the fleets that are pinned to an earlier generation.
	RolledBack map[string]RolledBack
}

// RolledBack says of a fleet that it is served an earlier generation than its newest.
type RolledBack struct {
	// Text says which, by whom and since when.
	Text string
	// Objects are those whose present version is therefore not served, "HTTPRoute shop/web"; All: it is not
	// known which, so it is said of every one that the fleet concerns.
	Objects []string
	All     bool
}

// Conditions says how every object fares: one Object per object that has a verdict or a problem,
// sorted by kind, namespace and name; in each the conditions per ancestor.
func Conditions(in Input) []Object {
	if in.Store == nil {
		in.Store = &source.Store{}
	}
	if in.Catalog == nil {
		in.Catalog = &catalog.Catalog{}
	}
	objects := map[source.Ref]*Object{}
	object := func(ref source.Ref) *Object {
		if o, ok := objects[ref]; ok {
			return o
		}
		o := &Object{Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
		if origin := in.Store.Origins[ref]; origin != nil {
			o.File, o.Line = origin.File, origin.Line
		}
		objects[ref] = o
		return o
	}

	refused := map[source.Ref]bool{}
	for _, p := range in.Store.Problems {
		ref := p.Object
		if ref.Kind == "" {
			ref = source.Ref{Kind: KindFile, Name: p.File}
		}
		o := object(ref)
		if p.Degraded != "" {
			o.Conditions = append(o.Conditions, degraded(string(p.Degraded), p.Message+"; "+p.Kept))
			continue
		}
		refused[ref] = true
		o.File, o.Line = cmp.Or(p.File, o.File), cmp.Or(p.Line, o.Line)
		o.Conditions = append(o.Conditions, Condition{
			Type: TypeAccepted, Status: "False", Reason: ReasonInvalid, Message: p.Message, Field: p.Field, Generation: p.Generation,
		})
		if inForce(in.Store, p) {
			o.Conditions = append(o.Conditions, degraded(ReasonLastKnownGood, p.Kept))
		}
	}

	fleets := newIndex(in)
	for _, v := range in.Catalog.Verdicts {
		o := object(v.Object)
		ancestor := ancestorOf(v)
		if !refused[v.Object] { // else the verdict is on the version before
			o.Conditions = append(o.Conditions, fromVerdict(TypeAccepted, v.Accepted, ancestor))
			if v.Accepted.Kept {
				c := degraded(ReasonLastKnownGood, "the last accepted version stays in force")
				c.Ancestor = ancestor
				o.Conditions = append(o.Conditions, c)
			}
		}
		o.Conditions = append(o.Conditions, fromVerdict(TypeResolvedRefs, v.ResolvedRefs, ancestor))
		if c, ok := fleets.programmed(v); ok {
			c.Ancestor = ancestor
			o.Conditions = append(o.Conditions, c)
		}
		for _, c := range []catalog.Condition{v.Accepted, v.ResolvedRefs} {
			// The newest trouble decides the line; one the source saw is newer than the verdict.
			if origin := in.Store.Origins[v.Object]; origin != nil && !c.OK && c.Field != "" && !refused[v.Object] {
				o.Line = origin.LineOf(c.Field)
				break
			}
		}
	}

	stale := slices.DeleteFunc(slices.Sorted(maps.Keys(in.Stale)), func(name string) bool { return in.Catalog.Services[name] == nil })
	for _, name := range stale {
		o := object(in.Catalog.Services[name].Object)
		o.Conditions = append(o.Conditions, degraded(ReasonStaleMetrics, name+": "+in.Stale[name]))
	}
	for _, v := range in.Catalog.Verdicts {
		if c, ok := staleBehind(in, stale, v); ok {
			o := object(v.Object)
			o.Conditions = append(o.Conditions, c)
		}
	}

	for name, text := range in.Restored {
		if namespace, gateway, ok := strings.Cut(name, "/"); ok {
			o := object(source.Ref{Kind: source.KindGateway, Namespace: namespace, Name: gateway})
			o.Conditions = append(o.Conditions, degraded(ReasonLastKnownGood, text))
		}
	}

	for ref, o := range objects {
		if reason, ok := in.Refused[ref.String()]; ok {
			o.Conditions = append(o.Conditions, degraded(ReasonLastKnownGood, "what was made of it is not valid and is not served: "+reason))
		}
	}

	all := make([]Object, 0, len(objects))
	for _, o := range objects {
		all = append(all, *o)
	}
	slices.SortFunc(all, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// staleBehind says on a policy, for the target that v speaks for, whose weights are held.
func staleBehind(in Input, stale []string, v catalog.Verdict) (Condition, bool) {
	if len(stale) == 0 || v.Object.Kind != source.KindBalancePolicy || !v.Accepted.OK {
		return Condition{}, false
	}
	var behind []string
	for _, name := range stale {
		s := in.Catalog.Services[name]
		fleet := in.Catalog.Fleets[v.Parent.Namespace+"/"+v.Parent.Name]
		reached := s.Object == v.Parent || fleet != nil && fleet.Object == v.Parent && slices.Contains(fleet.Services, name)
		if reached && slices.Contains(s.Policies, v.Object) {
			behind = append(behind, name)
		}
	}
	if len(behind) == 0 {
		return Condition{}, false
	}
	c := degraded(ReasonStaleMetrics, behind[0]+": "+in.Stale[behind[0]])
	if others := len(behind) - 1; others > 0 {
		c.Message += fmt.Sprintf("; and so for %s", count(others, "other service", "other services"))
	}
	c.Ancestor = ancestorOf(v)
	return c, true
}

// inForce reports whether an older version of what p refused is still being served.
func inForce(store *source.Store, p source.Problem) bool {
	if p.Object.Kind != "" {
		_, ok := store.Origins[p.Object]
		return ok || store.Get(p.Object) != nil // objects of a cluster have no origin
	}
	for _, origin := range store.Origins {
		if origin.File == p.File {
			return true
		}
	}
	return false
}

func degraded(reason, message string) Condition {
	return Condition{Type: TypeDegraded, Status: "True", Reason: reason, Message: message}
}

func fromVerdict(kind string, c catalog.Condition, ancestor string) Condition {
	return Condition{
		Type: kind, Status: status(c.OK), Reason: c.Reason, Message: c.Message, Ancestor: ancestor, Field: c.Field,
	}
}

func ancestorOf(v catalog.Verdict) string {
	switch {
	case v.Parent != (source.Ref{}):
		return ancestor(v.Parent, v.Section, v.Port)
	case v.Section != "":
		return ancestor(v.Object, v.Section, v.Port)
	}
	return ""
}

// ancestor is how a parent or target, one listener of it, or a port are written.
func ancestor(of source.Ref, section string, port uint32) string {
	text := of.String()
	if section != "" {
		text += " " + section
	}
	if port != 0 {
		text += ":" + strconv.Itoa(int(port))
	}
	return text
}

func status(ok bool) string {
	if ok {
		return "True"
	}
	return "False"
}
