package promapi

import (
	"github.com/prometheus/client_golang/prometheus"

	"evenkeel.io/controlplane/internal/signals"
)

// metrics are those of the queries, evenkeel_prometheus_*.
type metrics struct {
	duration   prometheus.Histogram
	failures   *prometheus.CounterVec
	dropped    *prometheus.CounterVec
	warnings   prometheus.Counter
	superseded prometheus.Counter
}

func newMetrics(r prometheus.Registerer, queries func(signals.Health) float64) *metrics {
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "evenkeel_prometheus_query_duration_seconds",
			Help:    "How long queries to Prometheus servers take, the wait for a slot included, failed ones too.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_prometheus_query_failures_total",
			Help: "Queries that gave no answer, by reason.",
		}, []string{"reason"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_prometheus_results_dropped_total",
			Help: "Results that were not used, by reason: about no endpoint of the Service, ambiguous, or no usable value.",
		}, []string{"reason"}),
		warnings: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_prometheus_query_warnings_total",
			Help: "Answers that were used although the server warned about them.",
		}),
		superseded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_prometheus_readings_superseded_total",
			Help: "Readings replaced by a later one of the same endpoint before they were taken.",
		}),
	}
	if r == nil {
		return m
	}
	r.MustRegister(m.duration, m.failures, m.dropped, m.warnings, m.superseded)
	for _, health := range []signals.Health{signals.Unknown, signals.Up, signals.Down} {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "evenkeel_prometheus_queries",
			Help:        "Queries that policies ask of Prometheus servers, by health.",
			ConstLabels: prometheus.Labels{"health": string(health)},
		}, func() float64 { return queries(health) }))
	}
	return m
}
