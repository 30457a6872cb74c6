package rls

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the service; those of single rules are read from their counters (collector).
type metrics struct {
	admitted, over prometheus.Counter
	errors         *prometheus.CounterVec
	ignoredBy      map[string]prometheus.Counter
	panics         prometheus.Counter
}

func newMetrics(s *Server, r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	calls := f.NewCounterVec(prometheus.CounterOpts{
		Name: "evenkeel_rls_calls_total",
		Help: "Answers to Envoys about one request each: ok or over_limit.",
	}, []string{"code"})
	ignored := f.NewCounterVec(prometheus.CounterOpts{
		Name: "evenkeel_rls_ignored_descriptors_total",
		Help: "Descriptions of requests that no rule counts, which are allowed.",
	}, []string{"reason"})
	m := &metrics{
		admitted: calls.WithLabelValues("ok"),
		over:     calls.WithLabelValues("over_limit"),
		errors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_rls_errors_total",
			Help: "Calls and streams of access logs that were refused: identity (a fleet that is not the client's), streams (too many), calls (too many in a connection), store (the counters could not be reached).",
		}, []string{"reason"}),
		ignoredBy: map[string]prometheus.Counter{},
		panics: f.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_rls_panics_total",
			Help: "Panics that failed one call.",
		}),
	}
	for _, reason := range []string{ignoredDomain, ignoredEmpty, ignoredRule, ignoredForm, ignoredFalse, ignoredOverflow} {
		m.ignoredBy[reason] = ignored.WithLabelValues(reason)
	}
	if r != nil {
		r.MustRegister(collector{s})
	}
	return m
}

func (m *metrics) answered(over bool) {
	if over {
		m.over.Inc()
	} else {
		m.admitted.Inc()
	}
}

func (m *metrics) ignored(reason string, n int) { m.ignoredBy[reason].Add(float64(n)) }

// collector reads what is counted elsewhere. A rule that is gone leaves no series.
type collector struct{ *Server }

var (
	requestsDesc  = prometheus.NewDesc("evenkeel_rls_requests_total", "Requests that a rule was asked about, by what it said: admitted, refused or shadow_refused.", []string{"fleet", "rule", "outcome"}, nil)
	factorDesc    = prometheus.NewDesc("evenkeel_rls_factor", "What the bounds of a rule are multiplied with.", []string{"fleet", "rule"}, nil)
	floorDesc     = prometheus.NewDesc("evenkeel_rls_factor_floor", "The least that the factor of a rule that follows its backends may be.", []string{"fleet", "rule"}, nil)
	keysDesc      = prometheus.NewDesc("evenkeel_rls_keys", "Keys in memory that have a count.", []string{"fleet", "rule"}, nil)
	leasesDesc    = prometheus.NewDesc("evenkeel_rls_leases", "Requests in service under a limit of concurrency.", []string{"fleet", "rule"}, nil)
	forgottenDesc = prometheus.NewDesc("evenkeel_rls_forgotten_keys_total", "Keys that had used a part of their limit and were forgotten to make room for others.", nil, nil)
	endedDesc     = prometheus.NewDesc("evenkeel_rls_leases_ended_total", "Leases that ended: released (by a call at the request's end), logged (by an access log entry of it), expired (nobody renewed it), disconnected (its proxy is gone), refused (by another limit of the request).", []string{"reason"}, nil)
	overflowDesc  = prometheus.NewDesc("evenkeel_rls_leases_overflow_total", "Leases that were refused, and ends that were not remembered, because there are too many.", nil, nil)
	lateDesc      = prometheus.NewDesc("evenkeel_rls_leases_late_total", "Leases that were refused because their request had ended before.", nil, nil)
	rebuiltDesc   = prometheus.NewDesc("evenkeel_rls_leases_rebuilt_total", "Leases that were known from access logs only, as after a restart.", nil, nil)
	streamsDesc   = prometheus.NewDesc("evenkeel_rls_access_log_streams", "Open streams of access logs, one for each worker of an Envoy.", nil, nil)
)

func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, factorDesc, floorDesc, keysDesc, leasesDesc, forgottenDesc, endedDesc, overflowDesc, lateDesc, rebuiltDesc, streamsDesc} {
		to <- d
	}
}

func (c collector) Collect(to chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	counter(forgottenDesc, c.memory.forgotten.Load())
	counter(overflowDesc, c.leases.overflow.Load())
	counter(lateDesc, c.leases.late.Load())
	counter(rebuiltDesc, c.leases.rebuilt.Load())
	for reason := range c.leases.ended {
		counter(endedDesc, c.leases.ended[reason].Load(), endNames[reason])
	}
	gauge(streamsDesc, float64(c.streams.Load()))
	for _, d := range *c.domains.Load() {
		for id, r := range d.rules {
			refused, shadow := r.refused.Load(), r.shadowRefused.Load()
			admitted := r.requests.Load() - min(r.requests.Load(), refused+shadow)
			counter(requestsDesc, admitted, d.name, id, "admitted")
			counter(requestsDesc, refused, d.name, id, "refused")
			counter(requestsDesc, shadow, d.name, id, "shadow_refused")
			gauge(factorDesc, r.factor, d.name, id)
			if a := r.variants[0].rule.Limit.Adapt; a != nil && a.Floor != nil {
				gauge(floorDesc, *a.Floor, d.name, id)
			}
			gauge(keysDesc, float64(r.table.keys.Load()), d.name, id)
			gauge(leasesDesc, float64(r.leases.Load()), d.name, id)
		}
	}
}
