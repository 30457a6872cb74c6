package scrape

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/signals"
)

// TestSlowReader: scrapes go on while nobody takes readings, and of each endpoint the latest waits.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var visits atomic.Int64
		n.serve("10.0.0.1:9090", text(func() string { return pageAt(int(10 * visits.Add(1))) }))
		registry := prometheus.NewPedanticRegistry()
		m := New(Options{Dial: n.dial, Registerer: registry})
		spec := specOf("http://10.0.0.1:9090/metrics", "a")
		spec.Endpoints = append(spec.Endpoints, signals.Key{Service: "shop/api:80", Address: "b"})
		m.SetTargets([]Spec{spec})
		ctx, cancel := context.WithCancel(t.Context())
		up := make(chan []signals.Reading)
		done := make(chan error)
		go func() { done <- m.Run(ctx, up) }()

		time.Sleep(21 * time.Second)
		synctest.Wait()
		if visits.Load() < 10 {
			t.Errorf("%d scrapes in 21 s without a reader", visits.Load())
		}
		batch := <-up
		if len(batch) != 2 || batch[0].Endpoint.Address != "a" || batch[1].Endpoint != spec.Endpoints[1] || batch[0].To != batch[1].To {
			t.Fatalf("batch %+v", batch)
		}
		if age := time.Since(batch[0].To); age > 2*time.Second {
			t.Errorf("the reading is %v old", age)
		}
		if got := sample(t, registry, "evenkeel_scrape_readings_superseded_total"); got != float64(2*(visits.Load()-2)) {
			t.Errorf("%v superseded after %d scrapes", got, visits.Load())
		}
		select {
		case batch := <-up:
			t.Errorf("another batch at once: %+v", batch)
		default:
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := m.Run(t.Context(), up); err == nil {
			t.Error("a second Run is no error")
		}
	})
}

// TestSetTargets: the same set changes nothing, a change keeps what it can, a removal ends scrapes.
func TestSetTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var visits atomic.Int64
		n.serve("10.0.0.1:9090", text(func() string { return pageAt(int(10 * visits.Add(1))) }))
		m := New(Options{Dial: n.dial})
		spec := func() Spec { return specOf("http://10.0.0.1:9090/metrics", "a") }
		m.SetTargets([]Spec{spec()})
		got := run(t, m)
		for range 101 {
			time.Sleep(100 * time.Millisecond)
			m.SetTargets([]Spec{spec()})
		}
		synctest.Wait()
		if v, r := visits.Load(), len(got.all()); v != 5 || r != 4 {
			t.Fatalf("%d scrapes, %d readings in 10 s", v, r)
		}

		changed := spec()
		changed.Scrape.InFlight = nil
		changed.Endpoints = []signals.Key{{Service: "shop/other:80", Address: "a"}}
		m.SetTargets([]Spec{changed})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		last := got.all()[len(got.all())-1]
		if last.Endpoint != changed.Endpoints[0] || last.Done != 27 || last.Terms.Has(signals.TermInFlight) {
			t.Errorf("after a change of the Spec: %+v", last)
		}
		if target := m.Targets()[0]; target.Health != signals.Up || len(target.Services) != 1 || target.Services[0] != "shop/other:80" {
			t.Errorf("target %+v", target)
		}

		m.SetTargets(nil)
		before := visits.Load()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if visits.Load() != before || len(m.Targets()) != 0 {
			t.Errorf("%d scrapes of a removed target", visits.Load()-before)
		}
		count := len(got.all())
		m.SetTargets([]Spec{spec()})
		time.Sleep(2100 * time.Millisecond)
		synctest.Wait()
		if len(got.all()) != count || m.Targets()[0].Health != signals.Up {
			t.Error("a target that was away has a reading of its first scrape")
		}
	})
}

// TestTwoPolicies: two Services read one Pod in two ways; it is scraped once.
func TestTwoPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var visits atomic.Int64
		n.serve("10.0.0.1:9090", text(func() string { return pageAt(int(10 * visits.Add(1))) }))
		m := New(Options{Dial: n.dial})
		a, b := specOf("http://10.0.0.1:9090/metrics", "a"), specOf("http://10.0.0.1:9090/metrics", "a")
		b.Endpoints = []signals.Key{{Service: "shop/other:80", Address: "b"}}
		b.Scrape = v1alpha1.Scrape{
			Interval: &metav1.Duration{Duration: 10 * time.Second},
			Requests: &v1alpha1.RequestsMetric{Counter: new("http_requests_total"), Errors: map[string]string{"code": "2.."}},
		}
		m.SetTargets([]Spec{a, b})
		got := run(t, m)
		time.Sleep(10*time.Second + 2*signals.BatchDelay)
		synctest.Wait()
		if visits.Load() != 5 {
			t.Errorf("%d scrapes in 10 s", visits.Load())
		}
		first, second := got.of("a"), got.of("b")
		if len(first) != 4 || len(second) != 4 {
			t.Fatalf("%d and %d readings", len(first), len(second))
		}
		if first[3].Done != 27 || first[3].Failed != 3 || second[3].Done != 3 || second[3].Failed != 27 {
			t.Errorf("%+v\n%+v", first[3], second[3])
		}
		if second[3].Terms != signals.TermRequests|signals.TermErrors || second[3].SourceInterval != 2*time.Second {
			t.Errorf("%+v", second[3])
		}
	})
}

// TestComesBackWhileScraped removes a target and brings it back during a scrape of it.
func TestComesBackWhileScraped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var mu sync.Mutex
		underWay, most := 0, 0
		n.serve("10.0.0.1:9090", func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			underWay++
			most = max(most, underWay)
			mu.Unlock()
			select {
			case <-time.After(1900 * time.Millisecond):
			case <-r.Context().Done():
			}
			mu.Lock()
			underWay--
			mu.Unlock()
			text(func() string { return pageAt(1) })(w, r)
		})
		m := New(Options{Dial: n.dial})
		spec := specOf("http://10.0.0.1:9090/metrics", "a")
		spec.Scrape.Timeout = &metav1.Duration{Duration: 2 * time.Second}
		m.SetTargets([]Spec{spec})
		run(t, m)
		for range 200 {
			time.Sleep(50 * time.Millisecond)
			m.SetTargets(nil)
			m.SetTargets([]Spec{spec})
		}
		mu.Lock()
		defer mu.Unlock()
		if most != 1 {
			t.Errorf("%d scrapes of one target at once", most)
		}
		if len(m.leaving) > 1 || len(m.schedule.due) != 1 {
			t.Errorf("%d leaving, %d due", len(m.leaving), len(m.schedule.due))
		}
	})
}

// TestMetricNames holds the names that dashboards are built on.
func TestMetricNames(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := New(Options{Registerer: registry})
	m.metrics.failures.WithLabelValues(reasonTimeout)
	m.metrics.rejected.WithLabelValues(string(rejectedNaN))
	gathered, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, family := range gathered {
		names = append(names, family.GetName())
	}
	want := "evenkeel_scrape_duration_seconds evenkeel_scrape_failures_total evenkeel_scrape_lateness_seconds " +
		"evenkeel_scrape_readings_superseded_total evenkeel_scrape_rejected_samples_total evenkeel_scrape_skipped_total evenkeel_scrape_targets"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("metrics\n%s, want\n%s", got, want)
	}
}
