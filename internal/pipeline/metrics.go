package pipeline

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	pushes      *prometheus.CounterVec
	jobDuration prometheus.Histogram
	panics      prometheus.Counter
	leader      prometheus.Gauge

	saveFailures prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_weight_pushes_total",
			Help: "Times a Service's endpoints or weights were sent to the fleet, by what caused it.",
		}, []string{"service", "reason"}),
		jobDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "evenkeel_pipeline_job_seconds",
			Help:    "Time to work through one change of objects or one tick of the weights.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_pipeline_panics_total",
			Help: "Bugs of this program that were contained; the object's last good state is served.",
		}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "evenkeel_leader",
			Help: "1 on the replica that computes the weights, 0 on those that follow it.",
		}),
	}
	m.saveFailures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "evenkeel_state_save_failures_total",
		Help: "Times the state directory could not be written; it is tried again.",
	})
	if registerer != nil {
		registerer.MustRegister(m.pushes, m.jobDuration, m.panics, m.leader, m.saveFailures)
	}
	return m
}
