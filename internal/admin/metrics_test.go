package admin

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"evenkeel.io/controlplane/internal/snapshot"
)

func TestCollector(t *testing.T) {
	w := small()
	w.pin = &snapshot.Pin{Number: 6}
	c := NewCollector(func() Model { return w })
	c.s.Now = func() time.Time { return now }
	want := `
# HELP evenkeel_endpoint_health_score How healthy an endpoint is, 0 to 1.
# TYPE evenkeel_endpoint_health_score gauge
evenkeel_endpoint_health_score{endpoint="10.0.0.7:8080",service="shop/cart:8080"} 0.95
evenkeel_endpoint_health_score{endpoint="10.0.0.8:8080",service="shop/cart:8080"} 1
evenkeel_endpoint_health_score{endpoint="10.0.0.9:8080",service="shop/cart:8080"} 1
# HELP evenkeel_endpoint_qps_decay_factor The part of its configured rate, or else of the capacity it has shown, that an endpoint can take now, 0.1 to 1.
# TYPE evenkeel_endpoint_qps_decay_factor gauge
evenkeel_endpoint_qps_decay_factor{endpoint="10.0.0.7:8080",service="shop/cart:8080"} 0.8
evenkeel_endpoint_qps_decay_factor{endpoint="10.0.0.8:8080",service="shop/cart:8080"} 1
evenkeel_endpoint_qps_decay_factor{endpoint="10.0.0.9:8080",service="shop/cart:8080"} 1
# HELP evenkeel_endpoint_weight The weight that was last published for an endpoint of a Service that a policy weighs.
# TYPE evenkeel_endpoint_weight gauge
evenkeel_endpoint_weight{endpoint="10.0.0.7:8080",service="shop/cart:8080"} 500
evenkeel_endpoint_weight{endpoint="10.0.0.8:8080",service="shop/cart:8080"} 1000
evenkeel_endpoint_weight{endpoint="10.0.0.9:8080",service="shop/cart:8080"} 500
# HELP evenkeel_fleet_pinned 1 for a fleet that is pinned to an earlier generation than its newest, else 0.
# TYPE evenkeel_fleet_pinned gauge
evenkeel_fleet_pinned{fleet="shop/edge"} 1
# HELP evenkeel_last_known_good 1 while what was saved is served, because since the start the objects could not be read, or there were none, else 0.
# TYPE evenkeel_last_known_good gauge
evenkeel_last_known_good 0
# HELP evenkeel_objects Objects by kind and whether all of their Accepted conditions are true.
# TYPE evenkeel_objects gauge
evenkeel_objects{accepted="false",kind="BalancePolicy"} 1
evenkeel_objects{accepted="false",kind="File"} 1
evenkeel_objects{accepted="true",kind="Gateway"} 1
evenkeel_objects{accepted="true",kind="HTTPRoute"} 1
evenkeel_objects{accepted="true",kind="Service"} 2
# HELP evenkeel_service_imbalance_ratio The highest CPU utilisation of a Service's endpoints over the mean of all with a fresh reading; 1 is even.
# TYPE evenkeel_service_imbalance_ratio gauge
evenkeel_service_imbalance_ratio{service="shop/cart:8080"} 1.33333
# HELP evenkeel_service_shed_ratio The part of a Service's requests that Envoys are to refuse because all of its endpoints together cannot do them, 0 to 0.9.
# TYPE evenkeel_service_shed_ratio gauge
evenkeel_service_shed_ratio{service="shop/cart:8080"} 0.15
`
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	got.WriteString("\n")
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&got, f); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestCollectorIsCleanAndServed(t *testing.T) {
	w := small()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(func() Model { return w }))
	o := w.options()
	o.Metrics = registry
	res := call(New(o), "GET", "/metrics", "")
	if body := read(t, res); res.StatusCode != 200 || !strings.Contains(body, `evenkeel_endpoint_weight{endpoint="10.0.0.7:8080",service="shop/cart:8080"} 500`) {
		t.Errorf("/metrics: %d %s", res.StatusCode, body)
	}

	nothing := prometheus.NewPedanticRegistry()
	nothing.MustRegister(NewCollector(func() Model { return empty() }))
	if families, err := nothing.Gather(); err != nil || len(families) != 1 || families[0].GetName() != "evenkeel_last_known_good" {
		t.Errorf("before the first build: %v, %v", families, err)
	}
}
