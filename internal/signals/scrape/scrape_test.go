package scrape

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// pageAt is the page of a server that has done so many requests, one in ten failed, each of 0.1 s CPU and 30 ms.
func pageAt(requests int) string {
	return fmt.Sprintf(`# HELP process_cpu_seconds_total CPU.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total %g
# TYPE http_requests_total counter
http_requests_total{code="200"} %d
http_requests_total{code="503"} %d
# TYPE unrelated gauge
unrelated{x="y"} 12
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le="0.02"} 0
http_request_duration_seconds_bucket{le="0.04"} %d
http_request_duration_seconds_bucket{le="+Inf"} %d
http_request_duration_seconds_sum 1
http_request_duration_seconds_count %d
# TYPE http_requests_in_flight gauge
http_requests_in_flight 3
`, float64(requests)*0.1, requests-requests/10, requests/10, requests, requests, requests)
}

func text(body func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprint(w, body())
	}
}

func TestReadingsOfAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var requests atomic.Int64
		n.serve("10.0.0.1:9090", text(func() string { return pageAt(int(requests.Add(20))) }))
		m := New(Options{Dial: n.dial})
		m.SetTargets([]Spec{specOf("http://10.0.0.1:9090/metrics", "10.0.0.1:8080")})
		got := run(t, m)

		time.Sleep(21 * time.Second)
		synctest.Wait()
		readings := got.all()
		if len(readings) < 9 {
			t.Fatalf("%d readings after 21 s at 2 s", len(readings))
		}
		for i, r := range readings {
			window := min(time.Duration(i+1)*2, 6) * time.Second
			if r.To.Sub(r.From) != window {
				t.Errorf("reading %d: window %v, want %v", i, r.To.Sub(r.From), window)
			}
			want := signals.Reading{
				Endpoint:       signals.Key{Service: "shop/cart:8080", Address: "10.0.0.1:8080"},
				From:           r.From,
				To:             r.To,
				SourceInterval: 2 * time.Second,
				Terms:          signals.TermRequests | signals.TermErrors | signals.TermCPU | signals.TermInFlight | signals.TermLatency,
				Done:           9 * window.Seconds(),
				Failed:         1 * window.Seconds(),
				CPU:            0.5,
				InFlight:       3,
				P50:            30 * time.Millisecond,
				P90:            38 * time.Millisecond,
			}
			r.CPU = float64(int(r.CPU*1e6+0.5)) / 1e6
			r.P90 = r.P90.Round(time.Microsecond)
			if r != want {
				t.Errorf("reading %d:\n got %+v\nwant %+v", i, r, want)
			}
		}
		target := m.Targets()[0]
		if target.Health != signals.Up || target.LastError != "" || len(target.Missing) > 0 || target.Samples != 9 {
			t.Errorf("target: %+v", target)
		}
	})
}
