package scrape

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// benchmarkPage is a page of 40 families and about 20 KB in the text format, four of which a policy
// names.
func benchmarkPage(b *testing.B, format expfmt.Format, latency prometheus.HistogramOpts) []byte {
	a := newApplication(latency)
	a.serve(100)
	for i := range 10 {
		name := fmt.Sprintf("queue_depth_of_worker_group_%d_messages", i)
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "How many messages wait."}, []string{"queue", "tenant"})
		a.registry.MustRegister(g)
		for j := range 15 {
			g.WithLabelValues(fmt.Sprintf("queue-%d", j), "tenant-of-the-benchmark").Set(float64(i * j))
		}
	}
	gathered, err := a.registry.Gather()
	if err != nil {
		b.Fatal(err)
	}
	var page bytes.Buffer
	encoder := expfmt.NewEncoder(&page, format)
	for _, family := range gathered {
		if err := encoder.Encode(family); err != nil {
			b.Fatal(err)
		}
	}
	return page.Bytes()
}

// cpuTime is what the process used so far. On a busy machine it says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkPage measures a scrape without its network: from the body to the reading.
func BenchmarkPage(b *testing.B) {
	classic := prometheus.HistogramOpts{Buckets: prometheus.DefBuckets}
	native := prometheus.HistogramOpts{NativeHistogramBucketFactor: 1.1}
	for _, bench := range []struct {
		name    string
		format  expfmt.Format
		latency prometheus.HistogramOpts
		all     bool // decode every family, as without the filter
	}{
		{"text", expfmt.FmtText, classic, false},
		{"text/unfiltered", expfmt.FmtText, classic, true},
		{"protobuf", expfmt.FmtProtoDelim, classic, false},
		{"protobuf/unfiltered", expfmt.FmtProtoDelim, classic, true},
		{"protobuf/native", expfmt.FmtProtoDelim, native, false},
	} {
		b.Run(bench.name, func(b *testing.B) {
			page := benchmarkPage(b, bench.format, bench.latency)
			p := newPlan([]Spec{specOf("u", "a")})
			wanted := p.wanted
			if bench.all {
				wanted = map[string]bool{}
				for _, line := range strings.Split(string(benchmarkPage(b, expfmt.FmtText, bench.latency)), "\n") {
					if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
						name, _, _ = strings.Cut(name, " ")
						wanted[name] = true
					}
				}
			}
			var m memory
			at := start
			b.ReportAllocs()
			b.SetBytes(int64(len(page)))
			began := cpuTime(b)
			for b.Loop() {
				decoded, _, fail := decode(page, bench.format.FormatType(), wanted, defaultMaxSamples)
				if fail != nil {
					b.Fatal(fail)
				}
				at = at.Add(2 * time.Second)
				m.observe(p, decoded, at, defaultMaxSamples)
			}
			perScrape := float64((cpuTime(b) - began).Microseconds()) / float64(b.N)
			b.ReportMetric(perScrape, "cpu-µs/scrape")
		})
	}
}
