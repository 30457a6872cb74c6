package snapshot

import (
	"maps"

	"evenkeel.io/controlplane/internal/translate"
)

// Phases are the Snapshots that lead from one to another without a moment in which a route names a
// cluster that is not there, each consistent in itself, the last one to:
//
//	          clusters, endpoints     listeners, filters     routes
//	make      old and new             old                    old
//	switch    old and new             new                    old and new
//	break     new                     new                    new
//
// A phase that changes nothing is left out, so most changes are one phase. The next phase may be
// served when the one before is acknowledged. There are none between Snapshots that are equal. from
// may be nil: there is nothing to break.
func Phases(from, to *Snapshot) []*Snapshot {
	if from == nil {
		return []*Snapshot{to}
	}
	if from.Equal(to) {
		return nil
	}
	if to == nil {
		to = New()
	}
	both := func(t translate.Type) *table {
		before, after := from.tables[t], to.tables[t]
		union := maps.Clone(before.resources)
		maps.Copy(union, after.resources)
		if len(union) == len(after.resources) {
			return after
		}
		return newTable(union)
	}
	create := &Snapshot{tables: maps.Clone(from.tables)}
	create.tables[translate.CDS] = both(translate.CDS)
	create.tables[translate.EDS] = both(translate.EDS)

	change := &Snapshot{tables: maps.Clone(to.tables)}
	change.tables[translate.CDS] = create.tables[translate.CDS]
	change.tables[translate.EDS] = create.tables[translate.EDS]
	change.tables[translate.RDS] = both(translate.RDS)

	var out []*Snapshot
	last := from
	for _, phase := range []*Snapshot{create, change} {
		if !phase.Equal(last) && !phase.Equal(to) {
			out = append(out, phase)
			last = phase
		}
	}
	return append(out, to)
}
