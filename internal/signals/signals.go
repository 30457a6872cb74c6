// Package signals says what an endpoint did: a Reading is one endpoint in one window. It is a leaf;
// the packages below it (scrape, promapi, lrs) collect Readings, Sources merges those of one endpoint,
// package weights consumes them. What all collectors need is here too: what they read (Target), when
// (NextTurn), and what nobody took yet (Outbox).
package signals

import "time"

// Key names an endpoint of a Service.
type Key struct {
	// Service is the cluster name, "<namespace>/<service>:<port>".
	Service string
	// Address is "<ip>:<port>", IPv6 in brackets.
	Address string
}

// Terms is the set of quantities that a Reading carries. A zero value and an absent one differ: an
// idle endpoint has CPU 0, one without a CPU metric has no CPU term.
type Terms uint8

// The terms of a Reading.
const (
	// TermRequests: Done and Failed are present.
	TermRequests Terms = 1 << iota
	// TermErrors: the source tells failed requests from others; without it Failed is 0 and means nothing.
	TermErrors
	// TermCPU: CPU is present.
	TermCPU
	// TermInFlight: InFlight is present.
	TermInFlight
	// TermLatency: P50 and P90 are present.
	TermLatency
)

// Has reports whether all terms of want are in t.
func (t Terms) Has(want Terms) bool { return t&want == want }

// Reading is what one endpoint did in one window (From, To].
type Reading struct {
	Endpoint Key
	// From and To bound the window of all terms, by the clock of the reader. A new reading of an
	// endpoint has a later To.
	From, To time.Time
	// SourceInterval is how often the source is read; a reading is fresh for 2.5 of them.
	SourceInterval time.Duration
	// Terms says which of the fields below are present.
	Terms Terms
	// Done and Failed count the requests that finished in the window: Done without an error, Failed
	// with one. Not rates; not integers where a source extrapolates.
	Done, Failed float64
	// CPU is the mean use of the CPU limit in the window, 0 to 1; more is possible for a moment where
	// the limit is not enforced.
	CPU float64
	// InFlight is the number of requests being served at To.
	InFlight float64
	// P50 and P90 are quantiles of the response time in the window.
	P50, P90 time.Duration
	// Instance is the incarnation of the process behind the address as the source knows it ("" if
	// it does not). A change is a restart: nothing measured before says anything.
	Instance string
	// Reported is what Envoys say of the endpoint, in a window of its own. A Reading with no Terms is
	// this alone.
	Reported Reported
}
