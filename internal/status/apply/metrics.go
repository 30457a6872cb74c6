package apply

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	writes *prometheus.CounterVec
	events *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_status_writes_total",
			Help: "Writes of the status of an object in the cluster, by kind and result: written, unchanged, gone, conflict, forbidden or failed.",
		}, []string{"kind", "result"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_events_total",
			Help: "Events about objects of the cluster, by result: written, forbidden, failed, or dropped because there were too many.",
		}, []string{"result"}),
	}
	registerer.MustRegister(m.writes, m.events)
	return m
}
