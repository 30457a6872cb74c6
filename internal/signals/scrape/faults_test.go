package scrape

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"evenkeel.io/controlplane/internal/signals"
)

// secret stands in every bad page; no error may quote it.
const secret = "SECRET"

const textType = "text/plain; version=0.0.4"

// body answers with a content type and a body that begins with the secret.
func body(contentType, rest string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		io.WriteString(w, secret+" "+rest)
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// bomb is 50 MB of zeros in 50 KB, as gzip members one after the other.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(make([]byte, 1<<20))
	z.Close()
	return bytes.Repeat(b.Bytes(), 50)
})

var faults = []struct {
	name    string
	handler http.HandlerFunc
	message string // in LastError; "": the scrape is good and gives no reading
}{
	{"hanging", hang, "no complete answer in 1s"},
	{"status 500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, secret, 500) }, "answered 500 Internal Server Error, expected 200 OK"},
	{"NaN", text(func() string {
		return "process_cpu_seconds_total NaN\nhttp_requests_total NaN\nhttp_requests_in_flight NaN\n" +
			"# TYPE http_request_duration_seconds histogram\nhttp_request_duration_seconds_bucket{le=\"+Inf\"} NaN\n"
	}), ""},
	{"50 MB announced", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", textType)
		w.Header().Set("Content-Length", "52428800")
		io.WriteString(w, secret)
	}, "larger than 1048576 bytes"},
	{"50 MB streamed", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", textType)
		for line := bytes.Repeat([]byte(secret+" 1\n"), 20_000); ; {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	}, "larger than 1048576 bytes"},
	{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/"+secret, http.StatusFound) }, "redirects are not followed"},
	{"truncated by length", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", textType)
		w.Header().Set("Content-Length", "10000")
		io.WriteString(w, pageAt(1))
	}, "ends before its body is complete"},
	{"truncated line", body(textType, "1\nhttp_requests_total{code=\"2"), "ends in the middle of a line"},
	{"HTML", body("text/html", "<html>"), "answered text/html, expected Prometheus text 0.0.4"},
	{"no content type", func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		io.WriteString(w, pageAt(1))
	}, "no usable Content-Type"},
	{"OpenMetrics only", body("application/openmetrics-text; version=1.0.0", "1\n# EOF\n"), "OpenMetrics is not read"},
	{"gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", textType)
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(bomb())
	}, "larger than 1048576 bytes"},
	{"broken gzip", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", textType)
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, secret+strings.Repeat("x", 100))
	}, "not valid gzip"},
	{"brotli", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", textType)
		w.Header().Set("Content-Encoding", "br")
		io.WriteString(w, secret)
	}, "Content-Encoding other than gzip"},
	{"slow drip", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", textType)
		for r.Context().Err() == nil {
			io.WriteString(w, "# "+secret+"\n")
			http.NewResponseController(w).Flush()
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	}, "no complete answer in 1s"},
	{"syntax", body(textType, "1\nother 1\nhttp_requests_total{code="+secret+"} 1\n"), "line 3 of the page is not valid"},
	{"series without end", text(func() string {
		return strings.Repeat("http_requests_total{code=\"200\"} 1\n", 10_001)
	}), "more than 10000 samples"},
	{"labels without end", text(func() string {
		return "http_requests_total{" + strings.Repeat("a=\"\",", 1000) + "} 1\n"
	}), "line 1 of the page has more than 64 labels"},
	{"broken protobuf", body("application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", "xyz"), "metric family"},
}

// TestFaults lets every kind of bad target run beside a good one: the bad ones give no reading and
// say why, the good one is scraped at exactly its phase.
func TestFaults(t *testing.T) {
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				var visits []time.Time
				var mu sync.Mutex
				n.serve("10.0.0.1:9090", text(func() string {
					mu.Lock()
					defer mu.Unlock()
					visits = append(visits, time.Now())
					return pageAt(10 * len(visits))
				}))
				n.serve("10.0.0.2:9090", fault.handler)
				m := New(Options{Dial: n.dial})
				good, bad := specOf("http://10.0.0.1:9090/metrics", "good"), specOf("http://10.0.0.2:9090/metrics", "bad")
				m.SetTargets([]Spec{good, bad})
				got := run(t, m)

				phase := firstTurn(identity{good.Owner, good.URL}, 2*time.Second, time.Now())
				time.Sleep(11 * time.Second)
				synctest.Wait()
				if readings := got.of("bad"); len(readings) > 0 {
					t.Errorf("the bad target has readings: %+v", readings)
				}
				if readings := got.of("good"); len(readings) < 4 {
					t.Errorf("the good target has %d readings", len(readings))
				}
				mu.Lock()
				defer mu.Unlock()
				for i, visit := range visits {
					if want := phase.Add(time.Duration(i) * 2 * time.Second); !visit.Equal(want) {
						t.Errorf("visit %d of the good target at %v, its phase is %v", i, visit, want)
					}
				}
				target := m.Targets()[0]
				if target.Owner != "bad" {
					t.Fatalf("targets are not in order: %+v", m.Targets())
				}
				wantHealth := signals.Down
				if fault.message == "" {
					wantHealth = signals.Up
				}
				if target.Health != wantHealth || !strings.Contains(target.LastError, fault.message) {
					t.Errorf("health %s, error %q; want %s, %q", target.Health, target.LastError, wantHealth, fault.message)
				}
				if strings.Contains(target.LastError, secret) {
					t.Errorf("the error quotes the page: %q", target.LastError)
				}
			})
		})
	}
}

func TestNotHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := n.listen("10.0.0.2:22")
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 4096))
				io.WriteString(c, "SSH-2.0-"+secret+"\r\n")
				c.Close()
			}
		}()
		m := New(Options{Dial: n.dial})
		m.SetTargets([]Spec{specOf("http://10.0.0.2:22/metrics", "bad"), specOf("ftp://10.0.0.2/"+"metrics", "ftp")})
		run(t, m)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		targets := m.Targets()
		if e := targets[0].LastError; !strings.Contains(e, "does not speak HTTP") || strings.Contains(e, secret) {
			t.Errorf("error %q", e)
		}
		if e := targets[1].LastError; !strings.Contains(e, `"ftp://10.0.0.2/metrics" is not an http or https URL`) {
			t.Errorf("error %q", e)
		}
	})
}

// TestHangingTargets has many more hanging targets than slots. Once they are known, they hold half
// of the slots at most: the good ones are never late and the bad ones still come round.
func TestHangingTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots, hanging, healthy = 8, 60, 20
		n := newNetwork(t)
		registry := prometheus.NewPedanticRegistry()
		m := New(Options{Dial: n.dial, Slots: slots, Registerer: registry})
		var specs []Spec
		visited := make([]atomic.Int64, hanging)
		for i := range hanging {
			host := fmt.Sprintf("10.0.1.%d:9090", i)
			n.serve(host, func(w http.ResponseWriter, r *http.Request) {
				visited[i].Add(1)
				hang(w, r)
			})
			specs = append(specs, specOf("http://"+host+"/metrics", host))
		}
		for i := range healthy {
			host := fmt.Sprintf("10.0.2.%d:9090", i)
			var requests atomic.Int64
			n.serve(host, text(func() string { return pageAt(int(requests.Add(10))) }))
			specs = append(specs, specOf("http://"+host+"/metrics", host))
		}
		m.SetTargets(specs)
		got := run(t, m)

		time.Sleep(30 * time.Second) // every hanging target has been found out
		before := len(got.all())
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if n := len(got.all()) - before; n < 30*healthy-healthy || n > 30*healthy+healthy {
			t.Errorf("%d readings in 60 s of %d targets at 2 s", n, healthy)
		}
		for i := range visited {
			if visited[i].Load() < 3 {
				t.Errorf("hanging target %d was visited %d times in 90 s", i, visited[i].Load())
			}
		}
		if sample(t, registry, "evenkeel_scrape_skipped_total") == 0 {
			t.Error("no turn was skipped")
		}
		if up, down := sample(t, registry, "evenkeel_scrape_targets", "up"), sample(t, registry, "evenkeel_scrape_targets", "down"); up != healthy || down != hanging {
			t.Errorf("%v up, %v down", up, down)
		}
		if sample(t, registry, "evenkeel_scrape_failures_total", "timeout") < 60 {
			t.Error("timeouts are not counted")
		}
	})
}

// sample is the value of the metric with that name and label value.
func sample(t *testing.T, g prometheus.Gatherer, name string, label ...string) float64 {
	t.Helper()
	gathered, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range gathered {
		for _, metric := range family.GetMetric() {
			if family.GetName() == name && (len(label) == 0 || metric.GetLabel()[0].GetValue() == label[0]) {
				if v, ok := scalar(metric); ok {
					return v
				}
				v, _ := observations(metric)
				return v
			}
		}
	}
	return 0
}

// TestPanic scrapes a target that has no plan, which no code path allows: the defect stays with it.
func TestPanic(t *testing.T) {
	m := New(Options{Logger: slog.New(slog.DiscardHandler)})
	r := m.scrape(t.Context(), &target{}, nil)
	if r.failure == nil || r.failure.reason != reasonPanic {
		t.Errorf("failure %+v", r.failure)
	}
}

func TestLocalAddressesAreRefused(t *testing.T) {
	server := httptest.NewServer(text(func() string { return pageAt(1) }))
	defer server.Close()
	for _, allow := range []bool{false, true} {
		f := newFetcher(Options{AllowLoopback: allow, MaxBody: 1 << 20})
		page, fail := f.fetch(t.Context(), server.URL, time.Second)
		if allow && (fail != nil || len(page.body) == 0) {
			t.Errorf("allowed: %v", fail)
		}
		if !allow && (fail == nil || fail.reason != reasonAddress) {
			t.Errorf("not allowed: %v", fail)
		}
		f.client.CloseIdleConnections()
	}
	for address, refused := range map[string]bool{
		"127.0.0.1:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true, "169.254.169.254:80": true,
		"[fe80::1]:80": true, "0.0.0.0:80": true, "[::]:80": true, "10.0.0.1:80": false, "[2001:db8::1]:80": false,
	} {
		if err := refuseLocal("tcp", address, nil); (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
	}
}
