// Package scrape reads Prometheus metrics from endpoints and turns them into Readings: counters into
// counts over a sliding window, histograms into quantiles.
//
// One target is one (owner, URL). It is read once per interval and its reading given to every endpoint
// behind it. The Manager (manager.go) says when: scrapes are spread over the interval by a hash of the
// target, the slots for them are bounded, and targets that hang share half of the slots, so a bad
// target delays no other. One scrape goes through four files: fetch.go gets a bounded body, page.go
// decodes the few families that are needed, meter.go turns them into increments per series, and
// window.go adds the increments up into a Reading. A scrape that fails gives no reading, and an
// endpoint without new readings becomes stale; nothing else happens to it here.
//
// What a reading means for a weight is decided in package weights. Which endpoints have metrics, and
// at which URL, the caller says.
package scrape

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/signals"
)

// Spec is one target: what to read, how, and for whom. Two Specs may name the same target when the
// policies of two Services read different things of one Pod: it is still scraped once, at the shorter
// interval and timeout, and each Spec's endpoints get the reading that their policy describes.
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

// Options of a Manager. The zero value is usable: every field has a default.
type Options struct {
	// Slots is how many scrapes may be under way at once, 256 by default. Targets whose last scrape
	// timed out share half of them. More slots are needed when (targets / interval) * (how long a
	// scrape takes) comes near the number.
	Slots int
	// MaxBody is the size in bytes of the largest page that is read, after decompression, 1 MiB by
	// default. A larger one is a failed scrape.
	MaxBody int64
	// MaxSamples is how many samples (lines, in the text format) of the families that a policy names
	// one page may have, and how many series one family, 10,000 by default. A page with more is a
	// failed scrape.
	MaxSamples int
	// AllowLoopback lets targets have loopback and link-local addresses. They are refused at dial
	// time otherwise: in a cluster no Pod has one, and what listens there is not the user's to read.
	AllowLoopback bool
	// Dial opens connections in place of a net.Dialer; AllowLoopback is then its own business.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is the client configuration for https targets; by default they are verified against the
	// system's roots.
	TLS *tls.Config
	// Registerer gets the metrics evenkeel_scrape_*; nil registers none.
	Registerer prometheus.Registerer
	// Logger gets what no target's own error can say, slog.Default() if nil.
	Logger *slog.Logger
}
