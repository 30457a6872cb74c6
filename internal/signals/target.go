package signals

import "time"

// Health of a target, as Prometheus names it.
type Health string

// The states of a target.
const (
	Unknown Health = "unknown" // not read yet
	Up      Health = "up"
	Down    Health = "down"
)

// Target is what a collector reads, as /targets shows it: a metrics page, a query, or the load reports of a
// Service.
type Target struct {
	URL string
	// Query is the PromQL that the server at URL is asked, "" for a page that is scraped.
	Query string
	// Owner is the Pod or the address of a page, "<service> <term>" for a query, "<service>" for load reports.
	Owner        string
	Services     []string
	Health       Health
	LastScrape   time.Time // or query, or the latest report
	LastDuration time.Duration
	LastError    string // never holds any of the answer
	// Missing are the terms that the policy names and the target does not have.
	Missing []string
	// Rejected are the terms that it has in a way that cannot be used, with the reason
	// ("latency: decreasing").
	Rejected []string
	Samples  int // read the last time, of what the policy names
}
