package promapi

import (
	"slices"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// TestDefaultQueries: what a server is asked for the families of a preset.
func TestDefaultQueries(t *testing.T) {
	const (
		pods      = `namespace="shop",pod=~"cart-1|cart-2"`
		instances = `pod="",instance=~"(?:10\\.0\\.0\\.1|10\\.0\\.0\\.2)(?::[0-9]+)?"`
	)
	s := Spec{
		Service:    "shop/cart:80",
		Prometheus: v1alpha1.Prometheus{Preset: new(v1alpha1.PresetGo)},
		Endpoints: []Endpoint{
			{Address: a, Pod: "shop/cart-1", CPULimit: 1}, {Address: b, Pod: "shop/cart-2", CPULimit: 1},
		},
	}
	both := func(operator, shape, family, more, by string) string {
		part := func(by, where string) string {
			return operator + " by (" + by + ") (" + strings.Replace(shape, "%", family+"{"+where+more+"}", 1) + ")"
		}
		return part("namespace, pod"+by, pods) + " or " + part("instance"+by, instances)
	}
	want := map[term]string{
		termCPU:      both("sum", "rate(%[37s500ms])", "process_cpu_seconds_total", "", ""),
		termRequests: both("sum", "rate(%[37s500ms])", "http_requests_total", "", ""),
		termErrors: both("sum", "rate(%[37s500ms])", "http_requests_total", `,code=~"5.."`, "") +
			" or 0 * (" + both("sum", "rate(%[37s500ms])", "http_requests_total", `,code!=""`, "") + ")",
		termLatencyP50: "histogram_quantile(0.5, " + both("sum", "rate(%[37s500ms])", "http_request_duration_seconds_bucket", "", ", le") + ")",
		termLatencyP90: "histogram_quantile(0.9, " + both("sum", "rate(%[37s500ms])", "http_request_duration_seconds_bucket", "", ", le") + ")",
		termInFlight:   both("sum", "last_over_time(%[37s500ms])", "http_requests_in_flight", "", ""),
	}
	check := func(t *testing.T) {
		t.Helper()
		queries, _ := queriesOf(s, 37500*time.Millisecond)
		if len(queries) != len(want) {
			t.Errorf("%d queries, want %d: %+v", len(queries), len(want), queries)
		}
		for _, q := range queries {
			if q.text != want[q.term] {
				t.Errorf("%s:\n got %s\nwant %s", q.term, q.text, want[q.term])
			}
		}
	}
	check(t)

	s.Endpoints[1].CPULimit = 0
	want[termCPULimit] = both("sum", "last_over_time(%[37s500ms])", "go_sched_gomaxprocs_threads", "", "")
	check(t)

	s.Prometheus.Queries = &v1alpha1.PrometheusQueries{CPU: new(v1alpha1.PromQL("mine[$window] / x[$window]")), Errors: new(v1alpha1.PromQL("failures"))}
	want[termCPU], want[termErrors] = "mine[37s500ms] / x[37s500ms]", "failures"
	delete(want, termCPULimit) // a query of the policy is of the limit already
	check(t)
}

// TestSelectors: endpoints that are no Pods are found at their hosts, whatever Pod labels are there.
func TestSelectors(t *testing.T) {
	got := selectorsOf(Spec{Endpoints: []Endpoint{{Address: "[fd00::1]:80"}, {Address: "10.0.0.1:80"}, {Address: "10.0.0.1:81"}}})
	want := selectors{instances: `instance=~"(?:10\\.0\\.0\\.1|\\[fd00::1\\])(?::[0-9]+)?"`}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// TestPresetsWithoutATerm: what a preset does not name is not asked for; a gauge is of the limit.
func TestPresetsWithoutATerm(t *testing.T) {
	terms := func(p v1alpha1.Preset) (terms []term, inCores bool) {
		queries, inCores := queriesOf(Spec{
			Prometheus: v1alpha1.Prometheus{Preset: &p}, Endpoints: []Endpoint{{Address: a}},
		}, time.Minute)
		for _, q := range queries {
			terms = append(terms, q.term)
		}
		return terms, inCores
	}
	if got, _ := terms(v1alpha1.PresetEnvoy); !slices.Equal(got, []term{termRequests, termErrors, termInFlight}) {
		t.Errorf("envoy: %v", got)
	}
	if got, inCores := terms(v1alpha1.PresetVLLM); inCores || got[0] != termCPU || slices.Contains(got, termCPULimit) {
		t.Errorf("vllm: %v, in cores: %v", got, inCores)
	}
	if got, inCores := terms(v1alpha1.PresetNode); !inCores || !slices.Contains(got, termCPULimit) || slices.Contains(got, termInFlight) {
		t.Errorf("node: %v, in cores: %v", got, inCores)
	}
}
