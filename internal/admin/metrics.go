package admin

import (
	"github.com/prometheus/client_golang/prometheus"

	"evenkeel.io/controlplane/internal/status"
)

// Collector reports the state of weights and objects as metrics, reckoned when they are scraped. Of
// services and endpoints that are gone nothing is left.
type Collector struct{ s *server }

// NewCollector makes a Collector of what model returns at each scrape.
func NewCollector(model func() Model) *Collector {
	return &Collector{newServer(Options{Model: model})}
}

var (
	descWeight = prometheus.NewDesc("evenkeel_endpoint_weight",
		"The weight that was last published for an endpoint of a Service that a policy weighs.", []string{"service", "endpoint"}, nil)
	descHealthScore = prometheus.NewDesc("evenkeel_endpoint_health_score",
		"How healthy an endpoint is, 0 to 1.", []string{"service", "endpoint"}, nil)
	descDecay = prometheus.NewDesc("evenkeel_endpoint_qps_decay_factor",
		"The part of its configured rate, or else of the capacity it has shown, that an endpoint can take now, 0.1 to 1.", []string{"service", "endpoint"}, nil)
	descImbalance = prometheus.NewDesc("evenkeel_service_imbalance_ratio",
		"The highest CPU utilisation of a Service's endpoints over the mean of all with a fresh reading; 1 is even.", []string{"service"}, nil)
	descShed = prometheus.NewDesc("evenkeel_service_shed_ratio",
		"The part of a Service's requests that Envoys are to refuse because all of its endpoints together cannot do them, 0 to 0.9.", []string{"service"}, nil)
	descObjects = prometheus.NewDesc("evenkeel_objects",
		"Objects by kind and whether all of their Accepted conditions are true.", []string{"kind", "accepted"}, nil)
	descPinned = prometheus.NewDesc("evenkeel_fleet_pinned",
		"1 for a fleet that is pinned to an earlier generation than its newest, else 0.", []string{"fleet"}, nil)
	descLastKnownGood = prometheus.NewDesc("evenkeel_last_known_good",
		"1 while what was saved is served, because since the start the objects could not be read, or there were none, else 0.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descWeight, descHealthScore, descDecay, descImbalance, descShed, descObjects, descPinned, descLastKnownGood} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		// Addresses and names come from objects; a metric of one that is no UTF-8 is left out.
		if m, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, v, labels...); err == nil {
			ch <- m
		}
	}
	m := c.s.moment()
	for name, svc := range m.catalog().Services {
		if !svc.HasPolicy {
			continue // its endpoints are equal: three series each that never move
		}
		if ratio := m.imbalance(svc); ratio != nil {
			gauge(descImbalance, *ratio, name)
		}
		decisions, decided := m.model.Decisions(name)
		if decided {
			gauge(descShed, decisions.Shed, name)
		}
		for _, e := range decisions.Endpoints {
			gauge(descWeight, float64(e.Weight), name, e.Key.Address)
			gauge(descHealthScore, e.HealthScore, name, e.Key.Address)
			gauge(descDecay, e.QPSDecayFactor, name, e.Key.Address)
		}
	}

	lastGood := 0.0
	if !m.model.LastKnownGood().IsZero() {
		lastGood = 1
	}
	gauge(descLastKnownGood, lastGood)
	for _, fleet := range m.model.Fleets() {
		pinned := 0.0
		if m.model.Pin(fleet) != nil {
			pinned = 1
		}
		gauge(descPinned, pinned, fleet)
	}

	type class struct{ kind, accepted string }
	objects := map[class]int{}
	for _, o := range m.objects(nil) {
		accepted := "true"
		for _, condition := range o.Conditions {
			if condition.Type == status.TypeAccepted && condition.Status == "False" {
				accepted = "false"
			}
		}
		objects[class{o.Kind, accepted}]++
	}
	for c, n := range objects {
		gauge(descObjects, float64(n), c.kind, c.accepted)
	}
}
