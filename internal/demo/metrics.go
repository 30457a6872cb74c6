package demo

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// MetricsFault is a way in which a metrics page can be broken.
type MetricsFault int32

// The faults of a metrics page, each one seen in the wild.
const (
	MetricsFine     MetricsFault = iota
	MetricsHang                  // accepts the request and never answers
	MetricsError                 // answers 500
	MetricsNaN                   // all values are NaN
	MetricsHuge                  // 50 MB of series
	MetricsRedirect              // answers 302, to itself
	MetricsAbsent                // answers 404
	MetricsNoCPU                 // has everything but the CPU time
)

// hugePage is how much MetricsHuge sends.
const hugePage = 50 << 20

// metricsPage serves the metrics of one backend, under the names that the Go client library and its HTTP
// middleware use.
type metricsPage struct {
	broken   atomic.Int32
	handler  http.Handler
	noCPU    http.Handler
	requests *prometheus.CounterVec
	duration prometheus.Histogram
}

func newMetricsPage(b *Backend, start time.Time, fault MetricsFault) *metricsPage {
	p := &metricsPage{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "HTTP requests answered, by status code.",
		}, []string{"code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Time from a request's arrival to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.001, 1.5, 25), // up to 17 s
		}),
	}
	started := float64(start.UnixMilli()) / 1000
	cpu := prometheus.NewRegistry()
	cpu.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "process_cpu_seconds_total", Help: "CPU time used, in seconds.",
	}, func() float64 { return b.reportedCPU().Seconds() }))
	rest := prometheus.NewRegistry()
	rest.MustRegister(p.requests, p.duration,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "process_start_time_seconds", Help: "Start of the process, in seconds since the Unix epoch.",
		}, func() float64 { return started }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "http_requests_in_flight", Help: "HTTP requests being served.",
		}, func() float64 { return float64(b.Usage().InFlight) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "go_sched_gomaxprocs_threads", Help: "CPUs that may run Go code at the same time.",
		}, func() float64 { return float64(b.config.Workers) }),
	)
	p.handler = promhttp.HandlerFor(prometheus.Gatherers{rest, cpu}, promhttp.HandlerOpts{})
	p.noCPU = promhttp.HandlerFor(rest, promhttp.HandlerOpts{})
	p.setFault(fault)
	return p
}

func (p *metricsPage) observe(code int, took time.Duration) {
	p.requests.WithLabelValues(strconv.Itoa(code)).Inc()
	p.duration.Observe(took.Seconds())
}

func (p *metricsPage) setFault(fault MetricsFault) { p.broken.Store(int32(fault)) }
func (p *metricsPage) fault() MetricsFault         { return MetricsFault(p.broken.Load()) }

func (p *metricsPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch p.fault() {
	case MetricsHang:
		<-r.Context().Done()
	case MetricsError:
		http.Error(w, "metrics are out of order", http.StatusInternalServerError)
	case MetricsNaN:
		_, _ = io.WriteString(w, `# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total NaN
# TYPE http_requests_total counter
http_requests_total{code="200"} NaN
# TYPE http_requests_in_flight gauge
http_requests_in_flight NaN
`)
	case MetricsHuge:
		writeHugePage(w)
	case MetricsRedirect:
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
	case MetricsAbsent:
		http.NotFound(w, r)
	case MetricsNoCPU:
		p.noCPU.ServeHTTP(w, r)
	default:
		p.handler.ServeHTTP(w, r)
	}
}

func writeHugePage(w io.Writer) {
	block := strings.Repeat("noise_total{series=\"one of very many\"} 1\n", 10_000)
	for sent := 0; sent < hugePage; {
		n, err := io.WriteString(w, block)
		if err != nil {
			return
		}
		sent += n
	}
}
