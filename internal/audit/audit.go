// Package audit says who changed what, which fields, and what came of it: the lines that are asked for
// after an incident. It is pure: it makes the records, and others write them.
//
// A record names fields by their paths and never has their values, so that nothing secret can be in one.
// What controllers do to endpoints all day (EndpointSlices and Pods of a cluster) has no records: nobody
// decided it, and there may be hundreds a second.
package audit

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/source"
)

// Message is the message of every line of the log that is a record.
const Message = "audit"

// The results of a Record.
const (
	Accepted = "accepted"  // it is in force
	Refused  = "refused"   // it is not, for Reason
	HeldBack = "held back" // it is right, but a fleet that it changes is pinned to an earlier generation
)

// Record is one line: a change of an object, or an act of an operator.
type Record struct {
	At time.Time
	By string // "kubectl", "file routes.yaml", "admin port from 127.0.0.1"; "unknown"
	Op string // "added", "changed" or "removed", "freeze", "rollback" ...
	// Object is what was changed or acted on: "HTTPRoute shop/web", "fleet shop/edge", "all services".
	Object string
	// Fields are the paths that differ, the first few and how many more there are.
	Fields []string
	Result string
	Reason string // of a refusal
	// Generations are those that the change made, "shop/edge 7", or that an operator chose.
	Generations []string
}

// LogValue is the record as a group of attributes, each there in every record.
func (r Record) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("by", r.By),
		slog.String("op", r.Op),
		slog.String("object", r.Object),
		slog.String("fields", strings.Join(r.Fields, " ")),
		slog.String("result", r.Result),
		slog.String("reason", r.Reason),
		slog.String("generations", strings.Join(r.Generations, ", ")),
	)
}

// Log writes the records, one line each.
func Log(log *slog.Logger, records []Record) {
	for _, r := range records {
		log.Info(Message, Message, r)
	}
}

// maxRecords bounds the records of one update; a line says how many more changes there were.
const maxRecords = 1000

// Context is what is known of an update besides its changes. Before may be nil.
type Context struct {
	At            time.Time
	Before, After *source.Store
	// Refused says why an object is not in force as it is.
	Refused map[source.Ref]string
	// Generations that the update made, "shop/edge 7". HeldBack: all of them wait behind a pin.
	Generations []string
	HeldBack    bool
}

// Of makes the records of an update's changes. The first set of objects is one record.
func Of(changes []source.Change, c Context) []Record {
	var records []Record
	omitted := 0
	for _, change := range changes {
		switch {
		case change.Evidence == source.EvidenceFirst:
			continue
		case !recorded(change):
			continue
		case len(records) == maxRecords:
			omitted++
			continue
		}
		records = append(records, c.record(change))
	}
	for _, p := range c.newProblems() {
		if len(records) == maxRecords {
			omitted++
			continue
		}
		records = append(records, p)
	}
	if c.Before == nil {
		records = append(records, Record{
			At: c.At, By: "start", Op: "read", Object: fmt.Sprintf("%d objects", c.After.Len()), Result: Accepted, Generations: c.Generations,
		})
	}
	if omitted > 0 {
		records = append(records, Record{At: c.At, By: "several", Op: string(source.Changed), Object: fmt.Sprintf("%d more objects", omitted), Result: c.result("")})
	}
	return records
}

// newProblems are the objects and files that the source refused, which are no changes of the Store.
func (c Context) newProblems() []Record {
	if c.Before == nil {
		return nil // who refused what before the start is not known
	}
	known := map[source.Problem]bool{}
	for _, p := range c.Before.Problems {
		known[p] = true
	}
	var records []Record
	for _, p := range c.After.Problems {
		if known[p] {
			continue
		}
		r := Record{At: c.At, By: "unknown", Op: string(source.Changed), Object: p.Object.String(), Result: Refused, Reason: p.Message}
		if p.File != "" {
			r.By = "file " + p.File
		}
		if p.Object == (source.Ref{}) {
			r.Object = r.By
		}
		if p.Field != "" {
			r.Fields = []string{p.Field}
		}
		records = append(records, r)
	}
	return records
}

func recorded(change source.Change) bool {
	switch change.Object.Kind {
	case source.KindEndpointSlice, source.KindPod:
		return change.Evidence == source.EvidenceFile // a person wrote it
	}
	return true
}

func (c Context) record(change source.Change) Record {
	before, after := get(c.Before, change.Object), c.After.Get(change.Object)
	r := Record{
		At: c.At, By: By(c.Before, c.After, change.Object), Op: string(change.Op), Object: change.Object.String(),
		Reason: c.Refused[change.Object], Generations: c.Generations,
	}
	if before != nil && after != nil {
		r.Fields = Fields(before, after)
	}
	r.Result = c.result(r.Reason)
	return r
}

func (c Context) result(reason string) string {
	switch {
	case reason != "":
		return Refused
	case c.HeldBack:
		return HeldBack
	}
	return Accepted
}

func get(s *source.Store, ref source.Ref) source.Object {
	if s == nil {
		return nil
	}
	return s.Get(ref)
}

// By is who last changed an object, as far as is known: the file that it is in, or the manager of its newest
// managedFields (the user agent of who wrote it, or the name given to server-side apply). Of one that is gone
// it is known only of a file.
func By(before, after *source.Store, ref source.Ref) string {
	for _, s := range []*source.Store{after, before} {
		if s == nil {
			continue
		}
		if origin := s.Origins[ref]; origin != nil {
			return "file " + origin.File
		}
	}
	by, newest := "unknown", time.Time{}
	obj := after.Get(ref)
	if obj == nil {
		return by
	}
	for _, m := range obj.GetManagedFields() {
		if m.Subresource != "" || m.Manager == "" || m.Time != nil && m.Time.Time.Before(newest) {
			continue
		}
		by = m.Manager
		if m.Time != nil {
			newest = m.Time.Time
		}
	}
	return by
}

// Who joins who changed the objects, each once.
func Who(before, after *source.Store, changes []source.Change) string {
	var names []string
	seen := map[string]bool{}
	for _, change := range changes {
		if by := By(before, after, change.Object); by != "unknown" && !seen[by] {
			if seen[by] = true; len(names) == 3 {
				return strings.Join(names, ", ") + " and others"
			}
			names = append(names, by)
		}
	}
	return strings.Join(names, ", ")
}
