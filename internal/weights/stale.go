package weights

import (
	"fmt"
	"math"
	"time"
)

const (
	// staleHold is how long an estimate is held after its readings stopped being fresh.
	staleHold = 15 * time.Second
	// staleHalfLife is how fast it goes to the prior then.
	staleHalfLife = 30 * time.Second
)

// forgetStale lets the estimate of an endpoint whose readings stopped go to the prior: x is held for
// 15 s, then x - x0 halves every 30 s. Nothing is forgotten while too few endpoints are fresh: then it
// is not the endpoint that fell silent but the metrics.
func forgetStale(t *tick) {
	keep := math.Exp2(-float64(Tick) / float64(staleHalfLife))
	for i := range t.m.members {
		if e := &t.m.members[i]; e.Measured && t.fading(e) {
			prior := math.Log(e.Base) + t.m.priorOffset(t.now)
			e.X = prior + (e.X-prior)*keep
		}
	}
}

func (t *tick) fading(e *member) bool {
	return t.frozen == "" && t.now.Sub(e.Load.To) > e.Load.freshness()+staleHold
}

// judge decides from who is fresh whether the weights can be computed: they are held while someone
// froze them, or while fewer than half of the endpoints are fresh; they are the bases while half of the
// endpoints or more do not carry what the strategy needs.
func (t *tick) judge() {
	t.frozen, t.base = t.m.frozen, ""
	if t.law.needs() == 0 {
		return
	}
	n, fresh, lacking, seen := len(t.m.members), 0, 0, false
	for i := range t.m.members {
		e := &t.m.members[i]
		if t.fresh(e) {
			fresh++
		}
		if t.lacking(e) {
			lacking++
		}
		seen = seen || !e.lastOf(t.law.needs()).To.IsZero()
	}
	switch {
	case lacking > 0 && 2*lacking >= n:
		t.base = t.law.absent()
	case t.frozen == "" && seen && 2*fresh < n:
		t.frozen = fmt.Sprintf("%d of %d endpoints have fresh readings", fresh, n)
	}
}
