package scrape

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"pgregory.net/rapid"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/signals"
)

// start is when the histories of these tests begin.
var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// see feeds a text page to a memory, at so many seconds.
func see(t interface {
	Helper()
	Fatalf(string, ...any)
}, m *memory, p *plan, at float64, page string) observation {
	t.Helper()
	f, _, fail := decode([]byte(page), expfmt.TypeTextPlain, p.wanted, defaultMaxSamples)
	if fail != nil {
		t.Fatalf("%v in\n%s", fail, page)
	}
	return m.observe(p, f, start.Add(time.Duration(at*float64(time.Second))), defaultMaxSamples)
}

// TestCounterWindows compares windows of a counter with what its series really counted: they grow,
// begin again, vanish, come back and appear.
func TestCounterWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		window := rapid.SampledFrom([]int{2, 6, 10}).Draw(t, "window")
		spec := Spec{
			Endpoints: []signals.Key{{Service: "s", Address: "a"}},
			Window:    time.Duration(window) * time.Second,
			Scrape:    v1alpha1.Scrape{Requests: &v1alpha1.RequestsMetric{Counter: new("r"), Errors: map[string]string{"code": "5..", "method": "GET|PUT"}}},
		}
		p := newPlan([]Spec{spec})
		var m memory
		labels := []string{`code="200",method="GET"`, `code="500",method="GET"`, `method="PUT",code="503"`, `code="500",method="POST"`, `code="5000",method="GET"`, `method="GET"`}
		isError := []bool{false, true, true, false, false, false}

		values := map[int]int{} // what each series shows, or showed before it vanished
		type counted struct{ done, failed int }
		var history []counted // since the scrape before
		for round := range rapid.IntRange(2, 12).Draw(t, "rounds") {
			var page strings.Builder
			var c counted
			for i, label := range labels {
				known := slices.Contains(slices.Collect(maps.Keys(values)), i)
				grow := rapid.IntRange(0, 1000).Draw(t, "grow")
				switch action := rapid.SampledFrom([]string{"grow", "grow", "grow", "restart", "vanish"}).Draw(t, "action"); {
				case action == "vanish" && i > 0: // one series stays, so that the family does
					continue
				case action == "restart" && known && values[i] > 0:
					values[i] = grow % values[i]
					grow = values[i]
				case !known:
					values[i] = grow
				default:
					values[i] += grow
				}
				if isError[i] {
					c.failed += grow
				} else {
					c.done += grow
				}
				fmt.Fprintf(&page, "r{%s} %d\n", label, values[i])
			}
			history = append(history, c)
			o := see(t, &m, p, float64(2*round), page.String())
			if round == 0 {
				if len(o.readings) != 0 {
					t.Fatal("a reading of one scrape")
				}
				continue
			}
			var want counted
			for _, c := range history[max(1, len(history)-window/2):] {
				want.done, want.failed = want.done+c.done, want.failed+c.failed
			}
			r := o.readings[0]
			if r.Done != float64(want.done) || r.Failed != float64(want.failed) {
				t.Fatalf("round %d: done %v, failed %v, want %+v", round, r.Done, r.Failed, want)
			}
			if length := min(window, 2*round); r.To.Sub(r.From) != time.Duration(length)*time.Second {
				t.Fatalf("round %d: window %v, want %d s", round, r.To.Sub(r.From), length)
			}
		}
	})
}

// script plays pages, one every two seconds ("": the scrape fails), and returns the readings and what
// was said of the last one.
func script(t *testing.T, spec Spec, pages ...string) ([]signals.Reading, observation) {
	t.Helper()
	p := newPlan([]Spec{spec})
	var m memory
	var all []signals.Reading
	var last observation
	for i, page := range pages {
		if page == "" {
			continue
		}
		last = see(t, &m, p, float64(2*i), page)
		all = append(all, last.readings...)
	}
	return all, last
}

func TestTerms(t *testing.T) {
	const all = signals.TermRequests | signals.TermErrors | signals.TermCPU | signals.TermInFlight | signals.TermLatency
	spec := specOf("u", "a")
	drop := func(page, prefix string) string {
		var kept []string
		for _, line := range strings.SplitAfter(page, "\n") {
			if !strings.HasPrefix(line, prefix) && !strings.HasPrefix(line, "# TYPE "+prefix) {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	swap := strings.NewReplacer
	noLimit := spec
	noLimit.CPULimit = 0
	cpuGauge := spec
	cpuGauge.Scrape.CPU = &v1alpha1.CPUMetric{Gauge: new("busy")}
	noErrors := spec
	noErrors.Scrape.Requests = &v1alpha1.RequestsMetric{Counter: new("http_requests_total")}
	countOf := spec
	countOf.Scrape.Requests = &v1alpha1.RequestsMetric{Counter: new("http_request_duration_seconds_count")}

	for _, test := range []struct {
		name  string
		spec  Spec
		pages []string
		want  signals.Terms // of the last reading, 0: there is none
		// what of the last observation, comma-separated
		missing, rejected string
		check             func(r signals.Reading) bool
	}{
		{"one scrape", spec, []string{pageAt(10)}, 0, "", "", nil},
		{"two scrapes", spec, []string{pageAt(10), pageAt(30)}, all, "", "",
			func(r signals.Reading) bool { return r.Done == 18 && r.Failed == 2 && r.CPU == 0.5 }},
		{"idle", spec, []string{pageAt(10), pageAt(10)}, all &^ signals.TermLatency, "", "",
			func(r signals.Reading) bool { return r.Done == 0 && r.CPU == 0 && r.P50 == 0 }},
		{"a failed scrape between", spec, []string{pageAt(10), "", pageAt(30)}, all, "", "",
			func(r signals.Reading) bool {
				return r.Done == 18 && r.To.Sub(r.From) == 4*time.Second && r.CPU == 0.25
			}},
		{"an outage longer than the window", spec, []string{pageAt(10), pageAt(20), "", "", "", pageAt(30)}, 0, "", "", nil},
		{"and back", spec, []string{pageAt(10), "", "", "", "", pageAt(30), pageAt(50)}, all, "", "",
			func(r signals.Reading) bool { return r.Done == 18 && r.To.Sub(r.From) == 2*time.Second }},
		{"no limit", noLimit, []string{pageAt(10), pageAt(30)}, all &^ signals.TermCPU, "cpu limit", "", nil},
		{"limit of the Go runtime", noLimit, []string{pageAt(10), pageAt(30) + "go_sched_gomaxprocs_threads 4\n"}, all, "", "",
			func(r signals.Reading) bool { return r.CPU == 0.25 }},
		{"CPU gauge", cpuGauge, []string{pageAt(10) + "busy 0.9\n", pageAt(30) + "busy{n=\"1\"} 0.2\nbusy{n=\"2\"} 0.4\n", pageAt(50) + "busy 0.5\n"}, all, "", "",
			func(r signals.Reading) bool { return math.Abs(r.CPU-0.4) < 1e-12 }},
		{"no CPU", spec, []string{drop(pageAt(10), "process"), drop(pageAt(30), "process")}, all &^ signals.TermCPU, "cpu", "", nil},
		{"CPU appears", spec, []string{drop(pageAt(10), "process"), pageAt(30)}, all &^ signals.TermCPU, "", "", nil},
		{"requests appear", spec, []string{drop(pageAt(10), "http_requests_total"), pageAt(30)}, all, "", "",
			func(r signals.Reading) bool { return r.Done == 27 && r.Failed == 3 }},
		{"requests vanish", spec, []string{pageAt(10), drop(pageAt(30), "http_requests_total")}, all &^ (signals.TermRequests | signals.TermErrors), "requests", "", nil},
		{"no errors selected", noErrors, []string{pageAt(10), pageAt(30)}, all &^ signals.TermErrors, "", "",
			func(r signals.Reading) bool { return r.Done == 20 && r.Failed == 0 }},
		{"no series has the label", spec, []string{"http_requests_total 1\n", "http_requests_total 5\n"}, signals.TermRequests, "cpu,errors,inFlight,latency", "",
			func(r signals.Reading) bool { return r.Done == 4 && r.Failed == 0 }},
		{"requests from a histogram's count", countOf, []string{pageAt(10), pageAt(30)}, all &^ signals.TermErrors, "", "",
			func(r signals.Reading) bool { return r.Done == 20 }},
		{"no latency, no requests in flight", spec, []string{drop(pageAt(10), "http_request_d"), drop(drop(pageAt(30), "http_request_d"), "http_requests_in")},
			all &^ (signals.TermLatency | signals.TermInFlight), "inFlight,latency", "", nil},
		{"NaN CPU", spec, []string{pageAt(10), swap("cpu_seconds_total 3", "cpu_seconds_total NaN").Replace(pageAt(30))}, all &^ signals.TermCPU, "", "cpu: nan", nil},
		{"infinite requests", spec, []string{pageAt(10), swap(`{code="200"} 27`, `{code="200"} +Inf`).Replace(pageAt(30))},
			all &^ (signals.TermRequests | signals.TermErrors), "", "requests: inf", nil},
		{"negative requests", spec, []string{pageAt(10), swap(`{code="200"} 27`, `{code="200"} -27`).Replace(pageAt(30))},
			all &^ (signals.TermRequests | signals.TermErrors), "", "requests: negative", nil},
		{"a series twice", spec, []string{pageAt(10), swap(`{code="503"}`, `{code="200"}`).Replace(pageAt(30))},
			all &^ (signals.TermRequests | signals.TermErrors), "", "requests: duplicate", nil},
		{"negative in flight", spec, []string{pageAt(10), swap("in_flight 3", "in_flight -3").Replace(pageAt(30))}, all &^ signals.TermInFlight, "", "inFlight: negative", nil},
		{"decreasing histogram", spec, []string{pageAt(10), swap(`{le="0.02"} 0`, `{le="0.02"} 99`).Replace(pageAt(30))}, all &^ signals.TermLatency, "", "latency: decreasing", nil},
		{"a gauge for a histogram", spec, []string{pageAt(10), drop(pageAt(30), "http_request_d") + "http_request_duration_seconds 1\n"}, all &^ signals.TermLatency, "", "latency: type", nil},
		{"rejected between", spec, []string{pageAt(10), swap("cpu_seconds_total 3", "cpu_seconds_total NaN").Replace(pageAt(30)), pageAt(50)}, all, "", "",
			func(r signals.Reading) bool { return r.CPU == 0.5 && r.Done == 36 && r.To.Sub(r.From) == 4*time.Second }},
		{"other buckets", spec, []string{pageAt(10), swap(`le="0.04"`, `le="0.05"`).Replace(pageAt(30))}, all &^ signals.TermLatency, "", "", nil},
		{"other buckets, next scrape", spec, []string{pageAt(10), swap(`le="0.04"`, `le="0.05"`).Replace(pageAt(30)), swap(`le="0.04"`, `le="0.05"`).Replace(pageAt(50))},
			all&^signals.TermRequests&^signals.TermRequests | signals.TermRequests, "", "", func(r signals.Reading) bool { return r.Terms.Has(signals.TermCPU) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			readings, last := script(t, test.spec, test.pages...)
			if got := strings.Join(last.missing, ","); got != test.missing {
				t.Errorf("missing %q, want %q", got, test.missing)
			}
			if got := strings.Join(last.rejected, ","); got != test.rejected {
				t.Errorf("rejected %q, want %q", got, test.rejected)
			}
			if test.want == 0 {
				if len(last.readings) > 0 {
					t.Errorf("a reading: %+v", last.readings)
				}
				return
			}
			r := readings[len(readings)-1]
			if r.Terms != test.want {
				t.Errorf("terms %05b, want %05b", r.Terms, test.want)
			}
			if test.check != nil && !test.check(r) {
				t.Errorf("reading %+v", r)
			}
		})
	}
}

// TestRestart: another process behind the address has another history.
func TestRestart(t *testing.T) {
	started := func(requests int, at float64) string {
		return pageAt(requests) + fmt.Sprintf("process_start_time_seconds %g\n", at)
	}
	spec := specOf("u", "a")
	readings, _ := script(t, spec, started(10, 1000), started(20, 1000), started(500, 2000), started(510, 2000))
	if len(readings) != 2 || readings[0].Instance != "1000" || readings[1].Instance != "2000" || readings[1].Done != 9 {
		t.Errorf("readings %+v", readings)
	}
	// The boot time that the kernel derives it from moves by a second.
	readings, _ = script(t, spec, started(10, 1000), started(20, 1001), started(30, 1000), started(40, 999))
	if len(readings) != 3 || readings[2].Instance != "1000" || readings[2].Done != 27 {
		t.Errorf("jitter: readings %+v", readings)
	}
	// A restart that nothing but the counters shows.
	readings, _ = script(t, spec, pageAt(1000), pageAt(10))
	if len(readings) != 1 || readings[0].Done != 9 || readings[0].CPU != 0.25 || readings[0].P50 != 30*time.Millisecond {
		t.Errorf("counters fell: readings %+v", readings)
	}

	var m memory
	spec.Instance = "uid/0"
	p := newPlan([]Spec{spec})
	see(t, &m, p, 0, pageAt(10))
	if o := see(t, &m, p, 2, pageAt(20)); len(o.readings) != 1 || o.readings[0].Instance != "uid/0" {
		t.Errorf("readings %+v", o.readings)
	}
	spec.Instance = "uid/1"
	p = newPlan([]Spec{spec})
	if o := see(t, &m, p, 4, pageAt(500)); len(o.readings) != 0 {
		t.Errorf("a window over two processes: %+v", o.readings)
	}
	if o := see(t, &m, p, 6, pageAt(510)); len(o.readings) != 1 || o.readings[0].Instance != "uid/1" || o.readings[0].Done != 9 {
		t.Errorf("readings %+v", o.readings)
	}
}

// TestChangedSpec keeps what the old and the new Spec measure alike.
func TestChangedSpec(t *testing.T) {
	var m memory
	spec := specOf("u", "a")
	old := newPlan([]Spec{spec})
	see(t, &m, old, 0, pageAt(10))
	see(t, &m, old, 2, pageAt(20))
	spec.Scrape.Latency = &v1alpha1.LatencyMetric{Histogram: new("other_seconds")}
	spec.Window = 4 * time.Second
	spec.CPULimit = 1
	changed := newPlan([]Spec{spec})
	o := see(t, &m, changed, 4, pageAt(30))
	if len(o.readings) != 1 || o.readings[0].Done != 18 || o.readings[0].CPU != 0.5 || o.readings[0].Terms.Has(signals.TermLatency) {
		t.Errorf("readings %+v", o.readings)
	}
	if len(m.distributions) != 1 || m.distributions["other_seconds"] == nil {
		t.Errorf("distributions %v", m.distributions)
	}
}

// TestBoundedState feeds a target that invents new series for ever.
func TestBoundedState(t *testing.T) {
	var m memory
	p := newPlan([]Spec{specOf("u", "a")})
	const limit = 50
	for round := range 200 {
		var page strings.Builder
		for i := range limit {
			fmt.Fprintf(&page, "http_requests_total{code=\"%d\"} 1\n", round*limit+i)
		}
		f, _, fail := decode([]byte(page.String()), expfmt.TypeTextPlain, p.wanted, limit)
		if fail != nil {
			t.Fatal(fail)
		}
		m.observe(p, f, start.Add(time.Duration(round)*2*time.Second), limit)
		c := m.counters[p.views[0].requests]
		if known := len(c.table.known); known > limit {
			t.Fatalf("round %d: %d series are kept, the limit is %d", round, known, limit)
		}
		if len(c.points) > 5 || len(m.times) > 5 {
			t.Fatalf("round %d: %d points of a window of 3 scrapes are kept", round, len(c.points))
		}
	}
}
