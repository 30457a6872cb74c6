package pipeline

import (
	"log/slog"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
)

// complain logs what is newly wrong with objects, once; the status shows it for as long as it lasts.
func complain(log *slog.Logger, before, after *source.Store, verdictsBefore, verdicts []catalog.Verdict) {
	known := map[source.Problem]bool{}
	if before != nil {
		for _, p := range before.Problems {
			known[p] = true
		}
	}
	for _, p := range after.Problems {
		switch {
		case known[p]:
		case p.Degraded != "":
			log.Warn("degraded: "+p.String(), "reason", p.Degraded, "kept", p.Kept)
		default:
			log.Warn("refused: "+p.String(), "kept", p.Kept)
		}
	}
	if len(verdicts) > 0 && len(verdictsBefore) > 0 && &verdicts[0] == &verdictsBefore[0] {
		return // shared, so equal
	}
	said := map[catalog.Verdict]bool{}
	for _, v := range verdictsBefore {
		said[v] = true
	}
	for _, v := range verdicts {
		if said[v] {
			continue
		}
		for _, c := range []catalog.Condition{v.Accepted, v.ResolvedRefs} {
			if !c.OK {
				log.Warn("not in force as written: "+v.Object.String(), "reason", c.Reason, "field", c.Field, "message", c.Message, "parent", v.Parent.String())
			}
		}
	}
}
