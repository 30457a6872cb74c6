package demo

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestCrashedServerRefusesAndComesBackAsANewProcess(t *testing.T) {
	started := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	b := startBackend(t, BackendConfig{Workers: 1, Speed: 1, Work: Distribution{Deterministic, time.Millisecond}, Started: started})
	b.SetMetricsFault(MetricsFine)
	if got := metric(t, b, "process_start_time_seconds"); got != float64(started.Unix()) {
		t.Errorf("started at %v, want %v", got, started.Unix())
	}
	if _, _, err := fetch(t, t.Context(), b, "/"); err != nil {
		t.Fatal(err)
	}
	b.SetPaused(true)
	cut := make(chan error)
	go func() {
		_, _, err := fetch(t, context.Background(), b, "/")
		cut <- err
	}()
	for b.Usage().InFlight == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := b.Crash(); err != nil {
		t.Fatal(err)
	}
	if err := <-cut; err == nil {
		t.Error("a request survived the crash")
	}
	if _, _, err := fetch(t, t.Context(), b, "/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a crashed server answers %v, want connection refused", err)
	}
	if n := b.Usage().InFlight; n != 0 {
		t.Errorf("%d requests in flight after the crash", n)
	}
	address, before := b.Address(), b.Usage()
	b.SetPaused(false)
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	if b.Address() != address {
		t.Errorf("came back at %s, was at %s", b.Address(), address)
	}
	if response, _, err := fetch(t, t.Context(), b, "/"); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("after the restart: %v, %v", response, err)
	}
	if got := metric(t, b, "process_start_time_seconds"); got < float64(before.At.Unix()) {
		t.Errorf("the new process says it started at %v, before the crash", got)
	}
	if got := metric(t, b, "process_cpu_seconds_total"); got != 0.001 {
		t.Errorf("the new process has used %v s of CPU for one request of 1 ms", got)
	}
	if after := b.Usage(); after.Served != before.Served+1 || after.CPU != before.CPU+time.Millisecond {
		t.Errorf("usage %+v after %+v: want it to go on counting", after, before)
	}
}

func metric(t *testing.T, b *Backend, name string) float64 {
	t.Helper()
	w := httptest.NewRecorder()
	b.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	series := parseMetrics(t, w.Body.Bytes())[name].GetMetric()
	if len(series) != 1 {
		t.Fatalf("%s has %d series", name, len(series))
	}
	return series[0].GetCounter().GetValue() + series[0].GetGauge().GetValue()
}

func TestLiarClaimsTheSameCPUWhateverItDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 2, Speed: 1, Work: Distribution{Deterministic, 40 * time.Millisecond}})
		drive(b, 100, 20)
		before := metric(t, b, "process_cpu_seconds_total")
		if err := b.SetReportedCPU(0.05); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		truth := b.Usage().CPU
		drive(b, 100, 20)
		claimed := metric(t, b, "process_cpu_seconds_total") - before
		within(t, "claimed CPU seconds", claimed, 0.05*2*time.Since(began).Seconds(), 1e-6)
		if got := b.Usage().CPU - truth; got != 100*40*time.Millisecond {
			t.Errorf("it really used %v, want 4s", got)
		}
		if err := b.Restart(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		within(t, "claim of the next process", metric(t, b, "process_cpu_seconds_total"), 0.05*2*10, 1e-6)
	})
}

func TestBlackHoleSwallowsRequestsAndScrapes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, quick)
		b.SetBlackHole(true)
		for _, path := range []string{"/", "/metrics"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			w := httptest.NewRecorder()
			began := time.Now()
			b.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
			cancel()
			if waited := time.Since(began); waited != time.Minute || w.Body.Len() != 0 {
				t.Errorf("%s: answered after %v with %q, want nothing until the client goes away", path, waited, w.Body)
			}
		}
		b.SetBlackHole(false)
		if _, codes := drive(b, 10, 10); codes[http.StatusOK] != 10 {
			t.Errorf("after it: %v", codes)
		}
	})
}

func TestLoadReportsSayWhatTheServerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 2, Speed: 1, Work: Distribution{Deterministic, 40 * time.Millisecond}, Seed: 1})
		ask := func(n int, every time.Duration) (report string) {
			for range n {
				time.Sleep(every)
				w := httptest.NewRecorder()
				b.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
				report = w.Header().Get("endpoint-load-metrics")
			}
			return report
		}
		if got := ask(10, 60*time.Millisecond); got != "" {
			t.Errorf("report %q although nobody asked for one", got)
		}
		b.SetLoadReports(true)
		if got := ask(1, time.Second); got != "" {
			t.Errorf("report %q before there was anything to report", got)
		}
		// A request of 40 ms in every 100 ms keeps one of two workers busy for 40 % of the time.
		if got := ask(150, 60*time.Millisecond); got != `JSON {"cpu_utilization":0.2000,"rps_fractional":10.00,"eps":0.00}` {
			t.Errorf("report %q", got)
		}
		if err := b.SetErrorRate(1); err != nil {
			t.Fatal(err)
		}
		if got := ask(300, 50*time.Millisecond); got != `JSON {"cpu_utilization":0.0000,"rps_fractional":20.00,"eps":20.00}` {
			t.Errorf("report of a server that only fails %q", got)
		}
		if err := errors.Join(b.SetReportedCPU(0.5), b.SetErrorRate(0)); err != nil {
			t.Fatal(err)
		}
		if got := ask(150, 60*time.Millisecond); !strings.Contains(got, `"cpu_utilization":0.5000`) {
			t.Errorf("report of a liar %q", got)
		}
	})
}

func TestServerMayExportNoCPU(t *testing.T) {
	config := quick
	config.Metrics = MetricsNoCPU
	b := startBackend(t, config)
	for range 2 {
		_, page, err := fetch(t, t.Context(), b, "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		families := parseMetrics(t, page)
		if families["process_cpu_seconds_total"] != nil || families["http_requests_in_flight"] == nil || families["process_start_time_seconds"] == nil {
			t.Errorf("want everything but the CPU time:\n%s", page)
		}
		// A crash does not repair it.
		if err := errors.Join(b.Crash(), b.Restart()); err != nil {
			t.Fatal(err)
		}
	}
}
