package promapi

import (
	"math"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/signals"
)

const all = signals.TermRequests | signals.TermErrors | signals.TermCPU | signals.TermInFlight | signals.TermLatency

// TestReadings: the terms of one turn make one reading per endpoint.
func TestReadings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var evaluated sync.Map
		reply := answers(map[string]string{
			"cpu":      vector(instance(a, "0.5"), instance(b, "0.25")),
			"requests": vector(instance(a, "10"), instance(b, "20.2")),
			"errors":   vector(instance(a, "1"), instance(b, "NaN")),
			"p50":      vector(instance(a, "0.02"), instance(b, "0.02")),
			"p90":      vector(instance(a, "0.05"), instance(b, "NaN")),
			"inFlight": vector(instance(a, "3"), instance("10.9.9.9:80", "1"), instance("[::1", "1")),
		})
		m := start(t, Options{}, map[string]http.HandlerFunc{"main": func(w http.ResponseWriter, r *http.Request) {
			evaluated.Store(r.FormValue("time"), true)
			if user, password, _ := r.BasicAuth(); user != "user" || password != secret || r.Method != http.MethodPost || r.URL.Path != "/api/v1/query" {
				t.Errorf("%s %s as %s", r.Method, r.URL, user)
			}
			reply(w, r)
		}}, specOf("shop/cart:80", Endpoint{Address: a, Instance: "uid/0"}, Endpoint{Address: b}))
		time.Sleep(16 * time.Second)
		synctest.Wait()
		got := m.take()
		slices.SortFunc(got, func(x, y signals.Reading) int { return strings.Compare(x.Endpoint.Address, y.Endpoint.Address) })
		if len(got) != 2 {
			t.Fatalf("%d readings: %+v", len(got), got)
		}
		to := got[0].To
		want := signals.Reading{
			Endpoint: signals.Key{Service: "shop/cart:80", Address: a}, Instance: "uid/0",
			From: to.Add(-37500 * time.Millisecond), To: to, SourceInterval: 15 * time.Second,
			Terms: all, Done: 9 * 37.5, Failed: 37.5, CPU: 0.5, InFlight: 3, P50: 20 * time.Millisecond, P90: 50 * time.Millisecond,
		}
		if got[0] != want {
			t.Errorf("got  %+v\nwant %+v", got[0], want)
		}
		if got[1].Terms != signals.TermRequests|signals.TermCPU || math.Abs(got[1].Done-20.2*37.5) > 1e-9 || got[1].Failed != 0 || !got[1].To.Equal(to) {
			t.Errorf("with NaN for errors and P90, and nothing in flight: %+v", got[1])
		}
		instants := 0
		evaluated.Range(func(any, any) bool { instants++; return true })
		if instants != 1 {
			t.Errorf("the queries of one turn were evaluated at %d instants", instants)
		}
		if n := m.metric(t, "evenkeel_prometheus_results_dropped_total", droppedUnmatched); n != 2 {
			t.Errorf("%v results counted as unmatched, want 2", n)
		}
		target := m.target(t, termInFlight)
		if target.URL != "http://main:9090" || target.Query != "inFlight" || target.Health != signals.Up || target.Samples != 3 ||
			!reflect.DeepEqual(target.Missing, []string{"inFlight of 1 of 2 endpoints"}) {
			t.Errorf("target %+v", target)
		}
		if n := m.metric(t, "evenkeel_prometheus_queries", "up"); n != 6 {
			t.Errorf("%v queries are up", n)
		}
	})
}

// TestCPULimits: cores are divided by the limit that the catalog knows, else by the exported GOMAXPROCS,
// and without either there is no CPU term.
func TestCPULimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := specOf("shop/cart:80", Endpoint{Address: a, CPULimit: 2}, Endpoint{Address: b}, Endpoint{Address: "10.0.0.3:80"})
		spec.Prometheus.Queries.CPU = nil
		m := start(t, Options{}, map[string]http.HandlerFunc{"main": func(w http.ResponseWriter, r *http.Request) {
			switch q := r.FormValue("query"); {
			case strings.Contains(q, "process_cpu_seconds_total"):
				answers(map[string]string{q: vector(instance(a, "1"), instance(b, "1"), instance("10.0.0.3:80", "1"))})(w, r)
			case strings.Contains(q, "gomaxprocs"):
				answers(map[string]string{q: vector(instance(a, "8"), instance(b, "4"))})(w, r)
			default:
				answers(map[string]string{"requests": vector(instance(a, "1"), instance(b, "1"), instance("10.0.0.3:80", "1"))})(w, r)
			}
		}}, spec)
		time.Sleep(16 * time.Second)
		synctest.Wait()
		for _, r := range m.take() {
			want := map[string]float64{a: 0.5, b: 0.25}[r.Endpoint.Address]
			if r.CPU != want || r.Terms.Has(signals.TermCPU) != (want != 0) || !r.Terms.Has(signals.TermRequests) {
				t.Errorf("%s: %+v, want CPU %v", r.Endpoint.Address, r, want)
			}
		}
	})
}

// TestResultsThatClash: of two results for an endpoint the one that names it counts, or none.
func TestResultsThatClash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Options{}, map[string]http.HandlerFunc{"main": answers(map[string]string{
			"cpu":      vector(instance("10.0.0.1:9100", "0.9"), instance(a, "0.5"), instance(b, "0.5")),
			"requests": vector(instance("10.0.0.1:9100", "1"), instance("10.0.0.1:9101", "2"), instance(b, "3")),
			"inFlight": vector(instance(a, "-1"), instance(b, "+Inf")),
			"errors": success("vector", []any{map[string]any{
				"metric":    map[string]string{"instance": b},
				"histogram": []any{1.5, map[string]any{"count": "1", "sum": "1", "buckets": []any{}}},
			}}),
		})}, specOf("shop/cart:80"))
		time.Sleep(16 * time.Second)
		synctest.Wait()
		for _, r := range m.take() {
			if r.CPU != 0.5 {
				t.Errorf("%s: CPU %v, want that of the exact address", r.Endpoint.Address, r.CPU)
			}
			wantTerms := signals.TermCPU
			if r.Endpoint.Address == b {
				wantTerms |= signals.TermRequests
			}
			if r.Terms != wantTerms {
				t.Errorf("%s: terms %b, want %b", r.Endpoint.Address, r.Terms, wantTerms)
			}
		}
		if r := m.target(t, termRequests).Rejected; len(r) != 1 || !strings.Contains(r[0], "several results for one endpoint") {
			t.Errorf("rejected %v", r)
		}
		if r := m.target(t, termInFlight).Rejected; len(r) != 1 || !strings.Contains(r[0], "negative, or larger") {
			t.Errorf("rejected %v", r)
		}
		if r := m.target(t, termErrors).Rejected; len(r) != 1 || !strings.Contains(r[0], "histogram") {
			t.Errorf("rejected %v", r)
		}
		if v, n := m.metric(t, "evenkeel_prometheus_results_dropped_total", droppedValue), m.metric(t, "evenkeel_prometheus_results_dropped_total", droppedAmbiguous); v != 3 || n != 1 {
			t.Errorf("dropped: %v values, %v ambiguous", v, n)
		}
	})
}

// TestResultsForSeveralEndpoints: a Pod's result is for each of its endpoints, one of a host that two
// endpoints share is for neither.
func TestResultsForSeveralEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Options{}, map[string]http.HandlerFunc{"main": answers(map[string]string{
			"requests": vector(pod("cart-1", "1"), instance("10.0.0.3:9090", "2"), pod("cart-9", "3")),
		})}, specOf("shop/cart:80",
			Endpoint{Address: "10.0.0.1:8080", Pod: "shop/cart-1"}, Endpoint{Address: "10.0.0.1:8081", Pod: "shop/cart-1"},
			Endpoint{Address: "10.0.0.3:8080"}, Endpoint{Address: "10.0.0.3:8081"}))
		time.Sleep(16 * time.Second)
		synctest.Wait()
		got := m.take()
		if len(got) != 2 || got[0].Endpoint.Address != "10.0.0.1:8080" || got[1].Endpoint.Address != "10.0.0.1:8081" ||
			got[0].Done != 37.5 || got[1].Done != 37.5 {
			t.Errorf("readings %+v", got)
		}
		target := m.target(t, termRequests)
		if !reflect.DeepEqual(target.Missing, []string{"requests of 2 of 4 endpoints"}) ||
			!reflect.DeepEqual(target.Rejected, []string{"requests: a result is about any of several endpoints of its host"}) {
			t.Errorf("target %+v", target)
		}
		for reason, want := range map[string]float64{droppedAmbiguous: 1, droppedUnmatched: 1} {
			if n := m.metric(t, "evenkeel_prometheus_results_dropped_total", reason); n != want {
				t.Errorf("%v dropped as %s, want %v", n, reason, want)
			}
		}
	})
}

// TestTurns: a Service is asked once per interval, at its own phase; a change of its interval or endpoints
// acts at once and keeps what is known of the queries, a removal ends it.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		reply := answers(map[string]string{"requests": vector(instance(a, "1"), instance(b, "1"))})
		m := start(t, Options{}, map[string]http.HandlerFunc{"main": func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			reply(w, r)
		}}, specOf("shop/cart:80"))
		time.Sleep(5 * 15 * time.Second)
		synctest.Wait()
		if n := asked.Load(); n != 5*6 {
			t.Fatalf("%d queries in five intervals", n)
		}
		for range 20 { // the same again changes nothing
			m.SetTargets([]Spec{specOf("shop/cart:80")})
			time.Sleep(3 * time.Second)
		}
		synctest.Wait()
		if n := asked.Load(); n != 9*6 {
			t.Fatalf("%d queries in nine intervals", n)
		}
		m.take()

		changed := specOf("shop/cart:80", Endpoint{Address: b})
		changed.Prometheus.Interval = &metav1.Duration{Duration: 2 * time.Second}
		changed.Prometheus.Queries.Requests = new(v1alpha1.PromQL("requests"))
		m.SetTargets([]Spec{changed})
		if target := m.target(t, termRequests); target.Health != signals.Up {
			t.Errorf("a change of endpoints forgets the query's health: %+v", target)
		}
		before := asked.Load()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if n := asked.Load() - before; n != 2*6 {
			t.Errorf("%d queries in two of the new intervals", n)
		}
		if got := m.take(); len(got) != 2 || got[1].Endpoint.Address != b || got[1].SourceInterval != 2*time.Second {
			t.Errorf("readings of the new plan: %+v", got)
		}

		m.SetTargets(nil)
		synctest.Wait()
		before = asked.Load()
		time.Sleep(time.Minute)
		synctest.Wait()
		if asked.Load() != before || len(m.Targets()) != 0 {
			t.Errorf("%d queries after the Service was gone", asked.Load()-before)
		}
		if err := m.Run(t.Context(), nil); err == nil {
			t.Error("a second Run is no error")
		}
	})
}

// TestSpread: Services do not ask all at once.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		at := map[time.Time]int{}
		var specs []Spec
		for i := range 50 {
			specs = append(specs, specOf("shop/cart-"+string(rune('A'+i))+":80"))
		}
		start(t, Options{Slots: 100}, map[string]http.HandlerFunc{"main": func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			at[time.Now().Truncate(time.Second)]++
			answers(nil)(w, r)
		}}, specs...)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		total := 0
		for second, n := range at {
			if total += n; n > 50*6/3 {
				t.Errorf("%d of 300 queries in the second of %v", n, second)
			}
		}
		if total != 300 {
			t.Errorf("%d queries in one interval, want 300", total)
		}
	})
}

// TestUnknownServer: a name that serve was not given is said, and becoming known again acts.
func TestUnknownServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := specOf("shop/cart:80")
		spec.Prometheus.Server = "nowhere"
		m := start(t, Options{}, map[string]http.HandlerFunc{
			"main": func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(200 * time.Millisecond)
				answers(map[string]string{"requests": vector(instance(a, "1"))})(w, r)
			},
		}, spec)
		time.Sleep(time.Minute)
		synctest.Wait()
		target := m.target(t, termRequests)
		if target.Health != signals.Down || target.LastError != "no server named nowhere: serve --prometheus nowhere=URL" || len(m.Targets()) != 6 {
			t.Errorf("%+v", target)
		}
		m.SetTargets([]Spec{specOf("shop/cart:80")})
		if target := m.target(t, termRequests); target.Health != signals.Unknown || target.LastError != "" {
			t.Errorf("with a known server: %+v", target)
		}
		time.Sleep(16 * time.Second)
		synctest.Wait()
		if target := m.target(t, termRequests); target.Health != signals.Up || len(m.take()) == 0 {
			t.Errorf("with a known server: %+v", target)
		}
		turn := signals.NextTurn(spec.Service, 15*time.Second, time.Now())
		time.Sleep(time.Until(turn) + 100*time.Millisecond)
		m.SetTargets([]Spec{spec}) // while the answers are on their way
		time.Sleep(time.Second)
		synctest.Wait()
		if target := m.target(t, termRequests); target.Health != signals.Down || target.URL != "" || !target.LastScrape.IsZero() {
			t.Errorf("back again: %+v", target)
		}
	})
}
