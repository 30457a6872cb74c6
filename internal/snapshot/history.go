package snapshot

import "time"

// Generation is one entry of a fleet's history: something other than endpoints changed.
type Generation struct {
	Number   uint64 // rises by one per change of the fleet, from 1
	At       time.Time
	Why      string // which objects changed: "HTTPRoute shop/web changed (File edit)"
	Snapshot *Snapshot
}

// Push is one entry of a Service's history: its weights or endpoints were sent anew.
type Push struct {
	At      time.Time
	Why     string            // weights.Decisions.Cause, or the change of endpoints
	Weights map[string]uint32 // by address, after
}
