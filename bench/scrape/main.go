// Command scrape measures what it costs to scrape many targets: the CPU time of the scraper alone, with
// the targets in a process of their own, over loopback.
//
//	go run ./bench/scrape -targets 500 -interval 2s -duration 30s
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/pprof"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/signals/scrape"
)

func main() {
	var (
		targets  = flag.Int("targets", 500, "how many targets are scraped")
		interval = flag.Duration("interval", 2*time.Second, "between two scrapes of a target")
		duration = flag.Duration("duration", 30*time.Second, "of the measurement, after one interval and a second to warm up")
		textOnly = flag.Bool("text", false, "let the targets answer in the text format alone")
		gzip     = flag.Bool("gzip", true, "let the targets compress their answers")
		profile  = flag.String("cpuprofile", "", "write a CPU profile of the measurement to this file")
		serve    = flag.Bool("serve", false, "be the targets (what the command starts itself as)")
	)
	flag.Parse()
	log.SetFlags(0)
	if *serve {
		if err := serveTargets(*targets, *textOnly, *gzip); err != nil {
			log.Fatal(err)
		}
		return
	}
	if err := measure(*targets, *interval, *duration, *profile); err != nil {
		log.Fatal(err)
	}
}

func measure(targets int, interval, duration time.Duration, profile string) error {
	addresses, stop, err := startServer(targets)
	if err != nil {
		return err
	}
	defer stop()
	size, err := pageSize(addresses[0])
	if err != nil {
		return err
	}

	registry := prometheus.NewRegistry()
	m := scrape.New(scrape.Options{AllowLoopback: true, Registerer: registry})
	specs := make([]scrape.Spec, targets)
	for i := range specs {
		specs[i] = spec(addresses[i], i, interval)
	}
	m.SetTargets(specs)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	up := make(chan []signals.Reading)
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx, up) }()
	var readings atomic.Int64
	go func() {
		for batch := range up {
			readings.Add(int64(len(batch)))
		}
	}()

	time.Sleep(interval + time.Second)
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	cpu, began, before := cpuTime(), time.Now(), readings.Load()
	time.Sleep(duration)
	used, took, read := cpuTime()-cpu, time.Since(began), readings.Load()-before
	cancel()
	if err := <-done; err != nil {
		return err
	}
	down := 0
	for _, t := range m.Targets() {
		if t.Health != signals.Up {
			down++
		}
	}
	fmt.Printf("%d targets every %v, pages of %d bytes of text: %.1f readings/s, %.0f µs CPU per reading, %.1f %% of one core; %d targets down\n",
		targets, interval, size, float64(read)/took.Seconds(), used.Seconds()*1e6/float64(max(1, read)), 100*used.Seconds()/took.Seconds(), down)
	return nil
}

// startServer starts this program as the targets and gives their addresses: one each, so that the
// scraper keeps as many connections as it would to so many Pods.
func startServer(targets int) (addresses []string, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	server := exec.Command(self, append(os.Args[1:], "-serve")...)
	server.Stderr = os.Stderr
	// The server ends when its standard input does, also when this process is killed.
	in, err := server.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := server.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() { in.Close(); server.Wait() }
	lines := bufio.NewScanner(out)
	for len(addresses) < targets && lines.Scan() {
		addresses = append(addresses, lines.Text())
	}
	if len(addresses) < targets {
		stop()
		return nil, nil, fmt.Errorf("%d of %d targets started", len(addresses), targets)
	}
	return addresses, stop, nil
}

// serveTargets serves one exporter's page at so many addresses, with new values at each scrape, until
// standard input ends.
func serveTargets(targets int, textOnly, compress bool) error {
	registry := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "http_requests_total", Help: "Requests."}, []string{"code", "method"})
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "http_request_duration_seconds", Help: "Response times."}, []string{"method"})
	cpu := prometheus.NewCounter(prometheus.CounterOpts{Name: "process_cpu_seconds_total", Help: "CPU time."})
	inFlight := prometheus.NewGauge(prometheus.GaugeOpts{Name: "http_requests_in_flight", Help: "Requests being served."})
	registry.MustRegister(requests, latency, cpu, inFlight)
	for i := range 36 {
		other := prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: fmt.Sprintf("queue_depth_of_worker_group_%d_messages", i),
			Help: "How many messages wait.",
		}, []string{"queue", "tenant"})
		registry.MustRegister(other)
		for j := range 4 {
			other.WithLabelValues(fmt.Sprintf("queue-%d", j), "tenant-of-the-benchmark").Set(float64(i * j))
		}
	}
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: !compress})
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i, method := range []string{"GET", "POST", "PUT"} {
			requests.WithLabelValues("200", method).Add(10)
			requests.WithLabelValues("503", method).Inc()
			latency.WithLabelValues(method).Observe(0.01 * float64(i+1))
		}
		cpu.Add(0.1)
		inFlight.Set(3)
		if textOnly {
			r.Header.Del("Accept")
		}
		handler.ServeHTTP(w, r)
	})
	for range targets {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		go http.Serve(listener, serve)
		fmt.Println(listener.Addr())
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func pageSize(address string) (int, error) {
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	return len(page), err
}

func spec(address string, i int, interval time.Duration) scrape.Spec {
	owner := fmt.Sprintf("shop/cart-%d", i)
	return scrape.Spec{
		URL:       "http://" + address + "/metrics",
		Owner:     owner,
		Endpoints: []signals.Key{{Service: "shop/cart:8080", Address: owner}},
		CPULimit:  2,
		Window:    3 * interval,
		Scrape: v1alpha1.Scrape{
			Interval: &metav1.Duration{Duration: interval},
			Timeout:  &metav1.Duration{Duration: interval / 2},
			CPU:      &v1alpha1.CPUMetric{Counter: new("process_cpu_seconds_total")},
			Requests: &v1alpha1.RequestsMetric{Counter: new("http_requests_total"), Errors: map[string]string{"code": "5.."}},
			Latency:  &v1alpha1.LatencyMetric{Histogram: new("http_request_duration_seconds")},
			InFlight: &v1alpha1.InFlightMetric{Gauge: new("http_requests_in_flight")},
		},
	}
}

// cpuTime is what this process used so far, without its child.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		log.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
