package lrs

import "github.com/prometheus/client_golang/prometheus"

// metrics are evenkeel_load_report*.
type metrics struct {
	reports    prometheus.Counter
	dropped    *prometheus.CounterVec
	superseded prometheus.Counter
	untold     prometheus.Counter
}

// The reasons of what is dropped: a report, a cluster of one, or an endpoint of one.
const (
	reasonMalformed    = "malformed"     // report: not one
	reasonTooLarge     = "too_large"     // report: past the bounds of wire.go; summary: of too many endpoints
	reasonSummary      = "summary"       // summary of another replica: of no Service here, or not usable
	reasonNotConnected = "not_connected" // report: of a node without an ADS stream in its fleet
	reasonFull         = "full"          // cluster: Options.MaxValues are remembered already
	reasonCluster      = "cluster"       // cluster: not one that the node's fleet is served and was asked of
	reasonInterval     = "interval"      // cluster: over no time, or over hours
	reasonEndpoint     = "endpoint"      // endpoint: none of the Service
	reasonValue        = "value"         // endpoint: more requests than there can be
)

func newMetrics(r prometheus.Registerer, reporters func() float64) *metrics {
	m := &metrics{
		reports: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_load_reports_total",
			Help: "Load reports that came, also those of which nothing was used.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_load_reports_dropped_total",
			Help: "Load reports, and clusters and endpoints in them, that were not used, by reason.",
		}, []string{"reason"}),
		superseded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_load_report_readings_superseded_total",
			Help: "Readings replaced by a later one of the same endpoint before they were taken.",
		}),
		untold: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_load_report_summaries_superseded_total",
			Help: "Summaries of load reports, each of one Service, that the leader did not take before the next one was made.",
		}),
	}
	if r == nil {
		return m
	}
	r.MustRegister(m.reports, m.dropped, m.superseded, m.untold, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "evenkeel_load_reporters",
		Help: "Nodes with a load report stream that were asked for reports.",
	}, reporters))
	return m
}
