package scrape

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/signals"
)

// application is a program that exports metrics as most do, with client_golang.
type application struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	cpu      prometheus.Counter
}

func newApplication(latency prometheus.HistogramOpts) *application {
	latency.Name = "http_request_duration_seconds"
	a := &application{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "http_requests_total", Help: "Requests."}, []string{"code", "path"}),
		latency:  prometheus.NewHistogramVec(latency, []string{"path"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "http_requests_in_flight"}),
		cpu:      prometheus.NewCounter(prometheus.CounterOpts{Name: "process_cpu_seconds_total"}),
	}
	a.registry.MustRegister(a.requests, a.latency, a.inFlight, a.cpu, collectors.NewGoCollector())
	return a
}

// serve does n requests, of which the first fails, and takes as many milliseconds for each as its
// number.
func (a *application) serve(n int) {
	for i := range n {
		code := "200"
		if i == 0 {
			code = "503"
		}
		path := []string{"/", "/a \"quoted\"\npath"}[i%2]
		a.requests.WithLabelValues(code, path).Inc()
		a.latency.WithLabelValues(path).Observe(float64(i+1) / 1000)
		a.cpu.Add(0.001)
	}
	a.inFlight.Set(float64(n))
}

// TestRealExporter reads a client_golang exporter over HTTP, in both formats and with both kinds of
// histogram.
func TestRealExporter(t *testing.T) {
	for _, test := range []struct {
		name      string
		textOnly  bool
		latency   prometheus.HistogramOpts
		tolerance float64 // of a quantile, relative
	}{
		{"protobuf, classic", false, prometheus.HistogramOpts{Buckets: prometheus.LinearBuckets(0.01, 0.01, 20)}, 0.1},
		{"text, classic", true, prometheus.HistogramOpts{Buckets: prometheus.LinearBuckets(0.01, 0.01, 20)}, 0.1},
		{"protobuf, native", false, prometheus.HistogramOpts{NativeHistogramBucketFactor: 1.1}, 0.1},
		{"protobuf, both", false, prometheus.HistogramOpts{NativeHistogramBucketFactor: 1.1, Buckets: []float64{1}}, 0.1},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newApplication(test.latency)
			handler := promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if test.textOnly {
					r.Header.Del("Accept")
				}
				handler.ServeHTTP(w, r)
			}))
			defer server.Close()
			f := newFetcher(Options{AllowLoopback: true, MaxBody: defaultMaxBody})
			defer f.client.CloseIdleConnections()
			p := newPlan([]Spec{specOf(server.URL, "a")})
			var m memory
			var last observation
			scrape := func() {
				page, fail := f.fetch(t.Context(), server.URL, time.Second)
				if fail != nil {
					t.Fatal(fail)
				}
				if test.textOnly != (page.format == expfmt.TypeTextPlain) {
					t.Fatalf("format %v", page.format)
				}
				decoded, _, fail := decode(page.body, page.format, p.wanted, defaultMaxSamples)
				if fail != nil {
					t.Fatal(fail)
				}
				last = m.observe(p, decoded, page.at, defaultMaxSamples)
				f.release(page.buffer)
			}
			a.serve(10)
			scrape()
			a.serve(100)
			scrape()
			if len(last.readings) != 1 {
				t.Fatalf("%d readings; missing %v, rejected %v", len(last.readings), last.missing, last.rejected)
			}
			r := last.readings[0]
			if want := signals.TermRequests | signals.TermErrors | signals.TermCPU | signals.TermInFlight | signals.TermLatency; r.Terms != want {
				t.Errorf("terms %05b; missing %v, rejected %v", r.Terms, last.missing, last.rejected)
			}
			if r.Done != 99 || r.Failed != 1 || r.InFlight != 100 {
				t.Errorf("reading %+v", r)
			}
			for _, q := range []struct{ got, want time.Duration }{{r.P50, 50 * time.Millisecond}, {r.P90, 90 * time.Millisecond}} {
				if off := q.got.Seconds()/q.want.Seconds() - 1; off > test.tolerance || off < -test.tolerance {
					t.Errorf("quantile %v, want about %v", q.got, q.want)
				}
			}
		})
	}
}

// TestFilterIsInvisible: the families that are decoded are those that the decoder alone would give.
func TestFilterIsInvisible(t *testing.T) {
	a := newApplication(prometheus.HistogramOpts{Buckets: bounds})
	a.serve(20)
	gathered, err := a.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var asText, asProtobuf bytes.Buffer
	all := map[string]*dto.MetricFamily{}
	textEncoder, protobufEncoder := expfmt.NewEncoder(&asText, expfmt.FmtText), expfmt.NewEncoder(&asProtobuf, expfmt.FmtProtoDelim)
	for _, family := range gathered {
		all[family.GetName()] = family
		if err := textEncoder.Encode(family); err != nil {
			t.Fatal(err)
		}
		if err := protobufEncoder.Encode(family); err != nil {
			t.Fatal(err)
		}
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	allFromText, err := parser.TextToMetricFamilies(bytes.NewReader(asText.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{
		{"http_request_duration_seconds", "http_requests_total"},
		{"go_gc_duration_seconds", "go_goroutines"},
		{"http_requests_in_flight"},
		{"http_request"}, // a prefix of names is no name
		slices.Collect(maps.Keys(all)),
	} {
		wanted := wantedFamilies(names...)
		fromText, n, fail := decode(asText.Bytes(), expfmt.TypeTextPlain, wanted, defaultMaxSamples)
		if fail != nil {
			t.Fatal(fail)
		}
		fromProtobuf, _, fail := decode(asProtobuf.Bytes(), expfmt.TypeProtoDelim, wanted, defaultMaxSamples)
		if fail != nil {
			t.Fatal(fail)
		}
		lines := 0
		for name, family := range allFromText {
			if !slices.Contains(names, name) {
				continue
			}
			family = proto.CloneOf(family)
			family.Help = nil
			if !proto.Equal(family, fromText[name]) {
				t.Errorf("text: %v\nwant %v", fromText[name], family)
			}
			if !proto.Equal(all[name], fromProtobuf[name]) {
				t.Errorf("protobuf: %v\nwant %v", fromProtobuf[name], all[name])
			}
			lines += len(regexp.MustCompile("(?m)^"+name+"(_bucket|_count|_sum)?[{ ]").FindAllString(asText.String(), -1))
			delete(fromText, name)
			delete(fromProtobuf, name)
		}
		if len(fromText) > 0 || len(fromProtobuf) > 0 || n != lines {
			t.Errorf("%v: %d and %d families too many, %d samples, want %d", names, len(fromText), len(fromProtobuf), n, lines)
		}
	}
}

func TestTextCorners(t *testing.T) {
	wanted := wantedFamilies("a_total", "h")
	for _, test := range []struct {
		name, page, families, fail string
	}{
		{"empty", "", "", ""},
		{"blank lines and comments", "\n\n# a_total\n#\n  # TYPE a_total counter\n \t a_total 1\n\n", "a_total", ""},
		{"TYPE of another", "# TYPE b counter\nb 1\na_total 1\n", "a_total", ""},
		{"broken lines of others", "b{{{ x\na_total 1\n", "a_total", ""},
		{"untyped", "a_total 1\n", "a_total", ""},
		{"line ends of Windows", "a_total 1\r\n", "", "line 1 of the page"},
		{"quoted names are of a later version", "{\"a_total\"} 1\n", "", ""},
		{"suffix alone", "h_count 1\n", "h_count", ""},
		{"TYPE twice", "b 1\n# TYPE a_total counter\n# TYPE a_total gauge\na_total 1\n", "", "line 3 of the page"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, _, fail := decode([]byte(test.page), expfmt.TypeTextPlain, wanted, 10)
			if test.fail != "" {
				if fail == nil || !strings.Contains(fail.Error(), test.fail) {
					t.Fatalf("failure %v, want %q", fail, test.fail)
				}
				return
			}
			if fail != nil {
				t.Fatal(fail)
			}
			if got := strings.Join(slices.Sorted(maps.Keys(f)), ","); got != test.families {
				t.Errorf("families %q, want %q", got, test.families)
			}
		})
	}
}

// FuzzPage: no body makes a scrape panic, or a reading that is not a number.
func FuzzPage(f *testing.F) {
	f.Add([]byte(pageAt(10)), []byte(pageAt(20)), false)
	a := newApplication(prometheus.HistogramOpts{Buckets: bounds, NativeHistogramBucketFactor: 1.1})
	for range 2 {
		a.serve(30)
		gathered, err := a.registry.Gather()
		if err != nil {
			f.Fatal(err)
		}
		var page bytes.Buffer
		encoder := expfmt.NewEncoder(&page, expfmt.FmtProtoDelim)
		for _, family := range gathered {
			if strings.HasPrefix(family.GetName(), "http") {
				encoder.Encode(family)
			}
		}
		f.Add(page.Bytes(), page.Bytes(), true)
	}
	f.Fuzz(func(t *testing.T, first, second []byte, protobuf bool) {
		format := expfmt.TypeTextPlain
		if protobuf {
			format = expfmt.TypeProtoDelim
		}
		const maxSamples = 100
		p := newPlan([]Spec{specOf("u", "a")})
		var m memory
		for i, page := range [][]byte{first, second, first} {
			decoded, samples, fail := decode(page, format, p.wanted, maxSamples)
			if fail != nil {
				continue
			}
			if samples > maxSamples {
				t.Fatalf("%d samples", samples)
			}
			o := m.observe(p, decoded, start.Add(time.Duration(i)*time.Second), maxSamples)
			for _, r := range o.readings {
				for _, v := range []float64{r.Done, r.Failed, r.CPU, r.InFlight, r.P50.Seconds(), r.P90.Seconds()} {
					if why := badCount(v); why != "" {
						t.Fatalf("%s: %+v", why, r)
					}
				}
				if !r.From.Before(r.To) || r.P50 > r.P90 {
					t.Fatalf("reading %+v", r)
				}
			}
		}
	})
}
