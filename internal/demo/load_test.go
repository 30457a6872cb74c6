package demo

import (
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoadGoesToLoopbackOnly(t *testing.T) {
	for _, url := range []string{
		"http://192.0.2.1:80/", "http://example.com/", "http://localhost:80/", "http://127.0.0.1/", "https://127.0.0.1:1/", "http://127.0.0.1.example.com:80/", "",
	} {
		if _, err := NewLoad(LoadOptions{URLs: []string{url}, Rate: 1}); err == nil {
			t.Errorf("%q was accepted", url)
		}
	}
	for _, url := range []string{"http://127.0.0.1:80/", "http://127.4.5.6:80/", "http://[::1]:80/path"} {
		if _, err := NewLoad(LoadOptions{URLs: []string{url}, Rate: 1}); err != nil {
			t.Error(err)
		}
	}
	if _, err := RunLoad(t.Context(), LoadOptions{URLs: []string{"http://127.0.0.1:80/"}, Rate: 0}); err == nil || !strings.Contains(err.Error(), "rate") {
		t.Errorf("rate 0: %v", err)
	}
}

func TestLoadDoesNotFollowRedirects(t *testing.T) {
	followed := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			followed = true
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer server.Close()
	report, err := RunLoad(t.Context(), LoadOptions{URLs: []string{server.URL + "/"}, Rate: 500, Duration: 50 * time.Millisecond, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if report.Requests == 0 || report.ByStatus[http.StatusFound] != report.Requests || report.OK != 0 || followed {
		t.Errorf("followed: %v; by status: %v of %d", followed, report.ByStatus, report.Requests)
	}
}

func TestLoadOverTheWireCountsWhatTheBackendCounts(t *testing.T) {
	b := startBackend(t, BackendConfig{Workers: 8, Speed: 1, Work: Distribution{Deterministic, time.Millisecond}, Seed: 4})
	if err := b.SetErrorRate(0.25); err != nil {
		t.Fatal(err)
	}
	options := LoadOptions{URLs: []string{"http://" + b.Address().String() + "/"}, Rate: 1000, Duration: 300 * time.Millisecond, Seed: 9}
	first, err := RunLoad(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	u := b.Usage()
	if first.ByStatus[200] != int(u.Served) || first.ByStatus[500] != int(u.Failed) || first.OK != int(u.Served) || first.Failed() != int(u.Failed) {
		t.Errorf("load: %v; backend: %+v", first.ByStatus, u)
	}
	second, err := RunLoad(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(arrivalTimes(first), arrivalTimes(second)) {
		t.Error("the same seed gave other arrival times")
	}
}

func arrivalTimes(r Report) []time.Duration {
	var times []time.Duration
	for _, s := range r.Samples {
		times = append(times, s.Intended)
	}
	slices.Sort(times)
	return times
}

// direct hands requests to a handler without a network between them, so that virtual time can pass.
type direct struct{ handler http.Handler }

func (d direct) get(ctx context.Context, _ int, deadline time.Time) (int, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	return w.Code, ctx.Err()
}

func (d direct) close() {}

func directLoad(t *testing.T, handler http.Handler, options LoadOptions) *Load {
	t.Helper()
	options.URLs = []string{"http://127.0.0.1:1/"}
	load, err := NewLoad(options)
	if err != nil {
		t.Fatal(err)
	}
	load.servers = direct{handler}
	return load
}

func TestLoadIsAPoissonProcessAndMeasuresTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, mean = 100.0, 5 * time.Millisecond
		b := testBackend(t, BackendConfig{Workers: 1, Speed: 1, Work: Distribution{Exponential, mean}, Seed: 8})
		load := directLoad(t, b, LoadOptions{Rate: rate, Duration: 100 * time.Second, Seed: 2})
		load.Run(t.Context())
		report := load.Report(0, load.Elapsed())
		within(t, "requests", float64(report.Requests), rate*100, 0.02)
		times := arrivalTimes(report)
		var squares float64
		for i := 1; i < len(times); i++ {
			squares += math.Pow((times[i] - times[i-1]).Seconds(), 2)
		}
		within(t, "mean squared gap", squares/float64(len(times)-1), 2/(rate*rate), 0.05)
		// The response time of M/M/1 is exponential with mean s/(1-rho) = 10 ms.
		within(t, "p50", report.P50.Seconds(), 0.010*math.Log(2), 0.08)
		within(t, "p99", report.P99.Seconds(), 0.010*math.Log(100), 0.10)
		if report.OK != report.Requests || report.Good != report.OK || report.Goodput() != 1 {
			t.Errorf("%d of %d ok, %d good", report.OK, report.Requests, report.Good)
		}
	})
}

func TestLoadIsOpenAndSaysWhatItCouldNotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 1, Speed: 1, Work: Distribution{Deterministic, time.Millisecond}, QueueLimit: 1000})
		b.SetPaused(true)
		load := directLoad(t, b, LoadOptions{Rate: 100, Duration: 3 * time.Second, Timeout: 20 * time.Second, MaxInFlight: 50, Seed: 3})
		time.AfterFunc(4*time.Second, func() { b.SetPaused(false) })
		load.Run(t.Context())
		report := load.Report(0, load.Elapsed())
		if report.OK != 50 || report.ByStatus[Dropped] != report.Requests-50 || report.Requests < 200 {
			t.Errorf("%d requests: %v; want 50 answered and the rest dropped", report.Requests, report.ByStatus)
		}
		if report.Good != 0 || report.P50 < 3*time.Second {
			t.Errorf("%d good, p50 %v: the pause of 4s must show", report.Good, report.P50)
		}
	})
}

func TestLoadGivesUpAfterTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 1, Speed: 1, Work: Distribution{Deterministic, time.Second}})
		b.SetPaused(true)
		load := directLoad(t, b, LoadOptions{Rate: 10, Duration: time.Second, Timeout: 2 * time.Second, Seed: 3})
		load.Run(t.Context())
		report := load.Report(0, load.Elapsed())
		if report.Requests == 0 || report.ByStatus[TimedOut] != report.Requests || report.Max != 2*time.Second {
			t.Errorf("%d requests: %v, slowest %v; want all timed out at 2s", report.Requests, report.ByStatus, report.Max)
		}
	})
}

func TestLoadEndsWithItsContextAndForgetsWhatWasUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 1, Speed: 1, Work: Distribution{Deterministic, time.Second}})
		b.SetPaused(true)
		load := directLoad(t, b, LoadOptions{Rate: 10, Seed: 3})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		load.Run(ctx)
		if report := load.Report(0, load.Elapsed()); report.Requests != 0 || load.Elapsed() != 5*time.Second {
			t.Errorf("%v after %v, want nothing after 5s", report.ByStatus, load.Elapsed())
		}
	})
}

func TestLatencyCountsFromTheIntendedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		load := directLoad(t, http.NotFoundHandler(), LoadOptions{Rate: 1})
		load.began = time.Now()
		time.Sleep(3 * time.Second)
		load.request(t.Context(), 0, time.Second)
		if got := load.samples[0].Latency; got != 2*time.Second {
			t.Errorf("a request that was sent 2s late and answered at once took %v", got)
		}
	})
}

func TestLoadForgetsTheOldestSamples(t *testing.T) {
	load := directLoad(t, http.NotFoundHandler(), LoadOptions{Rate: 1, KeepSamples: 10})
	for i := range 1000 {
		load.record(Sample{Intended: time.Duration(i), Status: 200})
		if n := len(load.samples); n > 10 || load.samples[n-1].Intended != time.Duration(i) {
			t.Fatalf("%d samples, the newest %v, after %d", n, load.samples[n-1].Intended, i)
		}
	}
}

func TestReportOfAPeriod(t *testing.T) {
	load := directLoad(t, http.NotFoundHandler(), LoadOptions{Rate: 1, Deadline: 50 * time.Millisecond})
	for i := range 100 {
		load.record(Sample{Intended: time.Duration(i) * time.Second, Latency: time.Duration(i+1) * time.Millisecond, Status: 200})
	}
	for range 60 {
		load.record(Sample{Intended: 50 * time.Second, Latency: time.Nanosecond, Status: 503})
	}
	load.record(Sample{Intended: 500 * time.Second, Status: 200})
	r := load.Report(0, 100*time.Second)
	if r.Requests != 160 || r.OK != 100 || r.Good != 50 || r.Failed() != 60 || r.ByStatus[503] != 60 {
		t.Errorf("%+v", r)
	}
	if r.P50 != 50*time.Millisecond || r.P90 != 90*time.Millisecond || r.P99 != 99*time.Millisecond || r.P999 != 100*time.Millisecond {
		t.Errorf("p50 %v p90 %v p99 %v p99.9 %v: want 50, 90, 99, 100 ms, the quick failures left out", r.P50, r.P90, r.P99, r.P999)
	}
	if r := load.Report(10*time.Second, 20*time.Second); r.Requests != 10 {
		t.Errorf("%d requests in a period of ten", r.Requests)
	}
}
