package pipeline

import (
	"strconv"
	"time"

	"evenkeel.io/controlplane/internal/audit"
	"evenkeel.io/controlplane/internal/source"
)

// audit leaves the records of an update.
func (c *core) audit(now time.Time, before *source.Store, update source.Update, first bool) {
	context := audit.Context{At: now, Before: before, After: update.Store, Refused: map[source.Ref]string{}, HeldBack: len(c.made) > 0}
	if first {
		context.Before = nil
	}
	for _, v := range c.catalog.Verdicts {
		if !v.Accepted.OK {
			context.Refused[v.Object] = v.Accepted.Message
		}
	}
	for _, m := range c.made {
		context.Generations = append(context.Generations, m.fleet+" "+strconv.FormatUint(m.number, 10))
		context.HeldBack = context.HeldBack && m.held
	}
	c.made = nil
	if !c.role.Leads {
		return // the leader leaves them
	}
	audit.Log(c.log, audit.Of(update.Changes, context))
}

// acted audits what an operator did.
func (c *core) acted(now time.Time, by, op, fleet string, number uint64, err error) {
	r := audit.Record{At: now, By: by, Op: op, Object: "fleet " + fleet, Result: audit.Accepted}
	if number > 0 {
		r.Generations = []string{fleet + " " + strconv.FormatUint(number, 10)}
	}
	if err != nil {
		r.Result, r.Reason = audit.Refused, err.Error()
	}
	audit.Log(c.log, []audit.Record{r})
}
