package scrape

import (
	"github.com/prometheus/client_golang/prometheus"

	"evenkeel.io/controlplane/internal/signals"
)

// metrics are the scraper's own, evenkeel_scrape_*.
type metrics struct {
	duration   prometheus.Histogram
	lateness   prometheus.Histogram
	failures   *prometheus.CounterVec
	rejected   *prometheus.CounterVec
	skipped    prometheus.Counter
	superseded prometheus.Counter
}

func newMetrics(r prometheus.Registerer, targets func(signals.Health) float64) *metrics {
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "evenkeel_scrape_duration_seconds",
			Help:    "How long scrapes take, decoding included, failed ones too.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 13),
		}),
		lateness: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "evenkeel_scrape_lateness_seconds",
			Help:    "How long after its time a scrape began, because all slots were taken.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 13),
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_scrape_failures_total",
			Help: "Scrapes that gave no reading, by reason.",
		}, []string{"reason"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_scrape_rejected_samples_total",
			Help: "Families of a good scrape that were not used, by reason.",
		}, []string{"reason"}),
		skipped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_scrape_skipped_total",
			Help: "Scrapes left out because the one before was still under way or waiting for a slot.",
		}),
		superseded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_scrape_readings_superseded_total",
			Help: "Readings replaced by a later one of the same endpoint before they were taken.",
		}),
	}
	if r == nil {
		return m
	}
	r.MustRegister(m.duration, m.lateness, m.failures, m.rejected, m.skipped, m.superseded)
	for _, health := range []signals.Health{signals.Unknown, signals.Up, signals.Down} {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "evenkeel_scrape_targets",
			Help:        "Scrape targets by health.",
			ConstLabels: prometheus.Labels{"health": string(health)},
		}, func() float64 { return targets(health) }))
	}
	return m
}
