package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func testBackend(t *testing.T, config BackendConfig) *Backend {
	t.Helper()
	if !config.Address.IsValid() {
		config.Address = loopback
	}
	b, err := NewBackend(config)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// drive sends n requests as a Poisson process and waits for all of them; it returns the mean time to an answer
// and the codes.
func drive(b *Backend, n int, rate float64) (mean time.Duration, codes map[int]int) {
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var total time.Duration
	codes = map[int]int{}
	var requests sync.WaitGroup
	for range n {
		time.Sleep(time.Duration(random.ExpFloat64() / rate * float64(time.Second)))
		requests.Go(func() {
			began := time.Now()
			w := httptest.NewRecorder()
			b.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			mu.Lock()
			defer mu.Unlock()
			total += time.Since(began)
			codes[w.Code]++
		})
	}
	requests.Wait()
	return total / time.Duration(n), codes
}

func within(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*want {
		t.Errorf("%s is %.4g, want %.4g within %g %%", what, got, want, tolerance*100)
	}
}

// One worker is an M/G/1 queue, whose mean response time is known exactly (Pollaczek and Khinchine).
func TestBackendIsTheQueueOfTheTextbook(t *testing.T) {
	const mean, speed, rate = 60 * time.Millisecond, 2.0, 20.0
	for _, c := range []struct {
		shape     Shape
		variation float64 // squared
	}{{Deterministic, 0}, {Exponential, 1}, {HyperExponential, hyperVariation}} {
		t.Run(string(c.shape), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := testBackend(t, BackendConfig{Workers: 1, Speed: speed, Work: Distribution{c.shape, mean}, QueueLimit: 10000, Seed: 5})
				before := b.Usage()
				response, codes := drive(b, 20000, rate)
				after := b.Usage()
				if codes[http.StatusOK] != 20000 || after.Requests(before) != 20000 {
					t.Fatalf("codes %v, counted %d requests", codes, after.Requests(before))
				}
				service := mean.Seconds() / speed
				rho := rate * service
				within(t, "utilisation", after.Utilisation(before), rho, 0.03)
				within(t, "mean response time", response.Seconds(), service+rho*service*(1+c.variation)/(2*(1-rho)), 0.08)
				if after.CPU != after.Occupied {
					t.Errorf("CPU %v, occupied %v: want the same with nothing hidden", after.CPU, after.Occupied)
				}
			})
		})
	}
}

func TestUtilisationOfManyWorkersFollowsSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 4, Speed: 1, Work: Distribution{Exponential, 60 * time.Millisecond}, Seed: 7})
		for _, speed := range []float64{1, 3} {
			if err := b.SetSpeed(speed); err != nil {
				t.Fatal(err)
			}
			before := b.Usage()
			drive(b, 10000, 40)
			within(t, fmt.Sprintf("utilisation at speed %g", speed), b.Usage().Utilisation(before), 40*0.06/speed/4, 0.03)
		}
	})
}

func TestHiddenSlowdownTakesTimeAndNoCPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 2, Speed: 1, Work: Distribution{Deterministic, 30 * time.Millisecond}})
		if err := b.SetHiddenSlowdown(3); err != nil {
			t.Fatal(err)
		}
		drive(b, 1000, 10)
		u := b.Usage()
		if u.Occupied != 1000*90*time.Millisecond || u.CPU != 1000*30*time.Millisecond {
			t.Errorf("occupied %v and CPU %v, want 1m30s and 30s", u.Occupied, u.CPU)
		}
	})
}

func TestErrorsFailFastAtTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 2, Speed: 1, Work: Distribution{Deterministic, 30 * time.Millisecond}, Seed: 3})
		if err := b.SetErrorRate(0.3); err != nil {
			t.Fatal(err)
		}
		_, codes := drive(b, 10000, 20)
		within(t, "failed requests", float64(codes[http.StatusInternalServerError]), 3000, 0.05)
		u := b.Usage()
		if u.Failed != uint64(codes[http.StatusInternalServerError]) {
			t.Errorf("counted %d failures, clients saw %v", u.Failed, codes)
		}
		if want := time.Duration(codes[http.StatusOK]) * 30 * time.Millisecond; u.Occupied != want {
			t.Errorf("occupied %v, want %v: failing costs no worker time", u.Occupied, want)
		}
	})
}

func TestFullQueueTurnsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 1, Speed: 1, Work: Distribution{Deterministic, time.Second}, QueueLimit: 3})
		b.SetPaused(true)
		var codes sync.Map
		var requests sync.WaitGroup
		for i := range 5 {
			requests.Go(func() { codes.Store(i, b.simulate(t.Context())) })
			synctest.Wait()
		}
		for i := range 3 {
			if _, over := codes.Load(i); over {
				t.Errorf("request %d is over although the backend is paused", i)
			}
		}
		for i := 3; i < 5; i++ {
			if code, _ := codes.Load(i); code != http.StatusServiceUnavailable {
				t.Errorf("request %d got %v, want 503: three wait already", i, code)
			}
		}
		b.SetPaused(false)
		requests.Wait()
		if u := b.Usage(); u.Served != 3 || u.Rejected != 2 || u.InFlight != 0 {
			t.Errorf("usage %+v, want 3 served, 2 rejected, none in flight", u)
		}
	})
}

func TestClientThatLeavesDoesNotSaveTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 1, Speed: 1, Work: Distribution{Deterministic, time.Second}})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if code := b.simulate(ctx); code != statusClientGone {
			t.Fatalf("code %d", code)
		}
		time.Sleep(2 * time.Second)
		if u := b.Usage(); u.Occupied != time.Second {
			t.Errorf("occupied %v, want 1s", u.Occupied)
		}
	})
}

// A scrape in the middle of a long request sees the part that is over, or utilisation over a short window
// would jump between nothing and everything.
func TestCPUAccruesWhileARequestIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, BackendConfig{Workers: 2, Speed: 1, Work: Distribution{Deterministic, 10 * time.Second}})
		var request sync.WaitGroup
		request.Go(func() { b.simulate(t.Context()) })
		for range 5 {
			before := cpuSeconds(t, b)
			time.Sleep(2 * time.Second)
			if got := cpuSeconds(t, b) - before; math.Abs(got-2) > 1e-6 {
				t.Errorf("process_cpu_seconds_total rose by %v in 2 s with one busy worker", got)
			}
		}
		request.Wait()
	})
}

func cpuSeconds(t *testing.T, b *Backend) float64 {
	t.Helper()
	w := httptest.NewRecorder()
	b.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return parseMetrics(t, w.Body.Bytes())["process_cpu_seconds_total"].Metric[0].GetCounter().GetValue()
}

func parseMetrics(t *testing.T, page []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil {
		t.Fatalf("%v in\n%s", err, page)
	}
	return families
}

func startBackend(t *testing.T, config BackendConfig) *Backend {
	t.Helper()
	if !config.Address.IsValid() {
		config.Address = loopback
	}
	b, err := StartBackend(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

var quick = BackendConfig{Workers: 2, Speed: 1, Work: Distribution{Deterministic, time.Millisecond}}

func fetch(t *testing.T, ctx context.Context, b *Backend, path string) (*http.Response, []byte, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.Address().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, body, err
}

func TestMetricsPageIsThatOfAnOrdinaryServer(t *testing.T) {
	b := startBackend(t, quick)
	for range 20 {
		if response, _, err := fetch(t, t.Context(), b, "/anything"); err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(response, err)
		}
	}
	_, page, err := fetch(t, t.Context(), b, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	families := parseMetrics(t, page)
	requests := families["http_requests_total"].Metric
	if len(requests) != 1 || requests[0].Label[0].GetValue() != "200" || requests[0].GetCounter().GetValue() != 20 {
		t.Errorf("http_requests_total: %v", requests)
	}
	if n := families["http_request_duration_seconds"].Metric[0].GetHistogram().GetSampleCount(); n != 20 {
		t.Errorf("http_request_duration_seconds counts %d", n)
	}
	within(t, "process_cpu_seconds_total", families["process_cpu_seconds_total"].Metric[0].GetCounter().GetValue(), 0.020, 1e-9)
	within(t, "go_sched_gomaxprocs_threads", families["go_sched_gomaxprocs_threads"].Metric[0].GetGauge().GetValue(), 2, 0)
	within(t, "process_start_time_seconds", families["process_start_time_seconds"].Metric[0].GetGauge().GetValue(), float64(b.epoch.UnixMilli())/1000, 0)
	if v := families["http_requests_in_flight"].Metric[0].GetGauge().GetValue(); v != 0 {
		t.Errorf("http_requests_in_flight %v", v)
	}
}

func TestMetricsFaults(t *testing.T) {
	b := startBackend(t, quick)
	for fault, want := range map[MetricsFault]int{
		MetricsError: http.StatusInternalServerError, MetricsRedirect: http.StatusFound, MetricsAbsent: http.StatusNotFound,
		MetricsNaN: http.StatusOK,
	} {
		b.SetMetricsFault(fault)
		response, page, err := fetch(t, t.Context(), b, "/metrics")
		if err != nil || response.StatusCode != want {
			t.Errorf("fault %d: %v %v, want %d", fault, response, err, want)
			continue
		}
		if fault == MetricsNaN && !math.IsNaN(parseMetrics(t, page)["process_cpu_seconds_total"].Metric[0].GetCounter().GetValue()) {
			t.Errorf("not NaN: %s", page)
		}
	}

	b.SetMetricsFault(MetricsHuge)
	if response, err := http.Get("http://" + b.Address().String() + "/metrics"); err != nil {
		t.Error(err)
	} else if n, err := io.Copy(io.Discard, response.Body); n < hugePage || err != nil {
		t.Errorf("huge page has %d bytes, %v", n, err)
	}
	http.DefaultClient.CloseIdleConnections()

	b.SetMetricsFault(MetricsHang)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := fetch(t, ctx, b, "/metrics"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hanging page: %v", err)
	}
	if response, _, err := fetch(t, t.Context(), b, "/"); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("requests next to a hanging page: %v %v", response, err)
	}

	b.SetMetricsFault(MetricsFine)
	if _, page, err := fetch(t, t.Context(), b, "/metrics"); err != nil || !bytes.Contains(page, []byte("process_cpu_seconds_total")) {
		t.Errorf("repaired page: %v\n%s", err, page)
	}
}

func TestBadKnobsAreRefused(t *testing.T) {
	good := BackendConfig{Address: loopback, Workers: 1, Speed: 1, Work: Distribution{Exponential, time.Second}}
	for want, spoil := range map[string]func(*BackendConfig){
		"loopback":    func(c *BackendConfig) { c.Address = netip.MustParseAddrPort("0.0.0.0:80") },
		"workers":     func(c *BackendConfig) { c.Workers = 0 },
		"speed":       func(c *BackendConfig) { c.Speed = math.NaN() },
		"queue limit": func(c *BackendConfig) { c.QueueLimit = -1 },
		"shape":       func(c *BackendConfig) { c.Work.Shape = "square" },
		"mean":        func(c *BackendConfig) { c.Work.Mean = 0 },
	} {
		bad := good
		spoil(&bad)
		if _, err := StartBackend(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one about %q", err, want)
		}
	}
	b := testBackend(t, good)
	for _, err := range []error{b.SetSpeed(0), b.SetHiddenSlowdown(0.5), b.SetErrorRate(math.NaN()), b.SetErrorRate(1.1), b.SetReportedCPU(-0.1), b.SetReportedCPU(math.NaN())} {
		if err == nil {
			t.Error("a bad value was accepted")
		}
	}
}
