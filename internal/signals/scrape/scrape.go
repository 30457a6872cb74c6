// Package scrape reads Prometheus metrics from endpoints and turns them into Readings: counters into
// counts over a sliding window, histograms into quantiles. One target is one (Pod or address, URL); it
// is read once and its reading given to every endpoint behind it. Scrapes are spread over the interval
// by a hash of the target; workers, time and size are bounded; one bad target delays no other.
package scrape

import (
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/signals"
)

// Spec is one target: what to read, how, and for whom.
type Spec struct {
	// URL to GET.
	URL string
	// Owner is the Pod ("<namespace>/<name>") or the address; with URL it is the target's identity.
	Owner string
	// Endpoints that get the reading.
	Endpoints []signals.Key
	// Instance as the catalog knows it, "" if it does not; then process_start_time_seconds serves.
	Instance string
	// CPULimit in cores; 0: an exported GOMAXPROCS (go_sched_gomaxprocs_threads) if there is one,
	// else no CPU term.
	CPULimit float64
	// Scrape is complete (api defaults are filled); Window is the sliding window of rates.
	Scrape v1alpha1.Scrape
	Window time.Duration
}

// Health of a target, as Prometheus names it.
type Health string

// The states of a target.
const (
	Unknown Health = "unknown" // not scraped yet
	Up      Health = "up"
	Down    Health = "down"
)

// Target is a target as /targets shows it.
type Target struct {
	URL          string
	Owner        string
	Services     []string
	Health       Health
	LastScrape   time.Time
	LastDuration time.Duration
	LastError    string // never holds any of the body
	// Missing are the terms that the policy names and the target does not export.
	Missing []string
	Samples int // series read in the last scrape
}
