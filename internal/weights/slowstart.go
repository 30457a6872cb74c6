package weights

import (
	"time"

	"evenkeel.io/controlplane/internal/health"
)

// applySlowStart is ss = min(1, max(0.1, age/slowStart)). An endpoint's age counts from when it became
// Ready, else from when it was first seen, and anew when its process restarts. Endpoints that were
// there when the Service was first seen and tell no Ready time are as old as any.
func applySlowStart(t *tick) {
	for i := range t.m.members {
		e := &t.m.members[i]
		age, known := e.age(t.now)
		if !known {
			continue
		}
		if ss := health.SlowStart(age, t.cfg.SlowStart); ss < 1 {
			t.ss[i], t.young[i] = ss, true
			t.scale(i, Reason{Term: "slow-start", Value: max(0, age.Seconds()), Unit: "s", Factor: ss, Text: "its age"})
		}
	}
}

func (e *member) age(now time.Time) (age time.Duration, known bool) {
	since := e.ReadySince
	if since.After(now) {
		since = time.Time{} // by another clock than ours
	}
	if since.IsZero() && !e.AtStart {
		since = e.FirstSeen
	}
	if e.Restarted.After(since) {
		since = e.Restarted
	}
	return now.Sub(since), !since.IsZero()
}
