package weights

import (
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// rttLaw weighs by response time:
//
//	w = base * (1 + alpha * ref/rtt) * health_score * multiplier
//
// rtt is the P90 (or P50) of the endpoint's window and ref the median of it over the endpoints with a
// fresh reading. It is the law that many in-house balancers begin with: easy to explain and hard to
// destabilise, but the slowest endpoint keeps more than 1/(1+alpha) of a median one's weight, so that
// it cannot express servers of very different speed.
type rttLaw struct{}

func (rttLaw) needs() signals.Terms { return signals.TermLatency }

func (rttLaw) absent() string {
	return "no-latency: half of the endpoints or more report no response time"
}

func (rttLaw) stages() []stage {
	return []stage{startFromBase, applyRTT, applyHealth, applyMultiplier}
}

// applyRTT is the factor 1 + alpha * ref/rtt. An endpoint whose rtt is not known, or is long out of
// date, counts as the median.
func applyRTT(t *tick) {
	if t.base != "" {
		for i := range t.m.members {
			t.scale(i, Reason{Term: "rtt", Factor: 1, Text: t.base})
		}
		return
	}
	rtts := t.m.scratch.sorted[:0]
	for i := range t.m.members {
		if e := &t.m.members[i]; e.Latency.fresh(t.now) && e.rtt(t.cfg) > 0 {
			rtts = append(rtts, float64(e.rtt(t.cfg)))
		}
	}
	ref := 0.0
	if len(rtts) > 0 {
		ref = lowerMedian(rtts)
	}
	for i := range t.m.members {
		e := &t.m.members[i]
		rtt := e.rtt(t.cfg)
		r := Reason{Term: "rtt", Value: rtt.Seconds() * 1e3, Unit: "ms", Factor: 1 + t.cfg.RTTAlpha, Text: "1 + alpha * median/rtt"}
		switch {
		case ref == 0 || rtt <= 0:
			r.Text = "no response time yet: counts as the median"
		case t.now.Sub(e.Latency.To) > e.Latency.freshness()+staleHold:
			r.Text = "stale: counts as the median"
		default:
			r.Factor = 1 + t.cfg.RTTAlpha*ref/float64(rtt)
		}
		t.scale(i, r)
	}
}

func (e *member) rtt(c Config) time.Duration {
	if c.RTTQuantile == 0.5 {
		return e.P50
	}
	return e.P90
}

// applyHealth is the factor health_score, at least one step of it: a weight is never 0.
func applyHealth(t *tick) {
	for i := range t.m.members {
		score := t.m.members[i].score()
		t.scale(i, Reason{Term: "health", Value: score, Factor: max(0.05, score), Text: "its health_score"})
	}
}
