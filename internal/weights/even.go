package weights

import (
	"iter"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// Even decides on endpoints that nobody weighs: each weighs the same as the others, whatever it does. It is
// what a Machine of mode Equal publishes, and needs nothing to be remembered.
func Even(now time.Time, service string, addresses iter.Seq[string]) Decisions {
	d := Decisions{Service: service, At: now, Publish: true}
	for address := range addresses {
		d.Endpoints = append(d.Endpoints, Decision{
			Key: signals.Key{Service: service, Address: address}, State: Prior,
			Weight: unit, Computed: 1, HealthScore: 1, QPSDecayFactor: 1,
			Reasons: evenly,
		})
	}
	slices.SortFunc(d.Endpoints, func(a, b Decision) int { return strings.Compare(a.Key.Address, b.Key.Address) })
	return d
}

// evenly is shared by all that Even decides on.
var evenly = []Reason{{Term: "base", Value: 1, Factor: 1, Text: "no policy weighs the endpoints of this Service"}}
