package xds

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"evenkeel.io/controlplane/internal/translate"
)

// metrics have labels of bounded cardinality only: types we make or "other", fleets that exist or
// "unknown", and reasons from a fixed list.
type metrics struct {
	streams   *prometheus.GaugeVec
	responses *prometheus.CounterVec
	resources *prometheus.CounterVec
	acks      *prometheus.CounterVec
	nacks     *prometheus.CounterVec
	refused   *prometheus.CounterVec
	panics    prometheus.Counter

	untold      prometheus.Counter
	convergence *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) metrics {
	f := promauto.With(r)
	return metrics{
		streams: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "evenkeel_xds_streams",
			Help: "Open streams: delta and sotw are ADS, lrs are load reports.",
		}, []string{"protocol"}),
		responses: f.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_xds_responses_total",
			Help: "Discovery responses sent.",
		}, []string{"type", "protocol"}),
		resources: f.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_xds_resources_total",
			Help: "Resources in the discovery responses sent; a node that returns with what it had is sent none.",
		}, []string{"type", "protocol"}),
		acks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_xds_acks_total",
			Help: "Discovery responses that a node accepted.",
		}, []string{"type", "protocol"}),
		nacks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_xds_nacks_total",
			Help: "Refusals by nodes, repeated ones included.",
		}, []string{"fleet", "type"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_xds_refused_streams_total",
			Help: "Streams that were closed because they broke the protocol, went past a bound, or asked for a fleet that is not their client's.",
		}, []string{"reason"}),
		panics: f.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_xds_panics_total",
			Help: "Panics that ended a stream.",
		}),
		untold: f.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_xds_cases_untold_total",
			Help: "Refused versions that one replica did not tell another of in time, because too many were open.",
		}),
		convergence: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "evenkeel_xds_convergence_seconds",
			Help:    "From a change being seen until that share of its fleet has acknowledged all it subscribed to.",
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60},
		}, []string{"share"}),
	}
}

func typeLabel(t translate.Type) string {
	if t == "" {
		return "other"
	}
	return string(t)
}
