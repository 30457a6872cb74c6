package v1alpha1

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// unset lists the fields below v that are nil.
func unset(path string, v reflect.Value) (missing []string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return []string{path}
		}
		return unset(path, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if name == "TargetRefs" || strings.HasSuffix(path, ".CPU") && name == "Gauge" ||
				strings.HasSuffix(path, ".Prometheus") && name == "Queries" {
				continue
			}
			missing = append(missing, unset(path+"."+name, v.Field(i))...)
		}
	}
	return missing
}

func TestDefaultBalanceIsCompleteAndValid(t *testing.T) {
	if missing := unset("spec", reflect.ValueOf(DefaultBalance())); missing != nil {
		t.Errorf("not set: %v", missing)
	}
	policy := BalancePolicy{Spec: BalancePolicySpec{}.Over(DefaultBalance())}
	policy.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReference{{Kind: "Service", Name: "cart"}}
	if errs := policy.Validate(); errs != nil {
		t.Error(errs.ToAggregate())
	}
	if same := DefaultBalance().Over(DefaultBalance()); !reflect.DeepEqual(same, DefaultBalance()) {
		t.Errorf("the defaults over themselves differ: %+v", same)
	}
}

func TestDefaultBalanceIsFresh(t *testing.T) {
	spoiled := DefaultBalance()
	*spoiled.Signals.Scrape.CPU.Counter = "spoiled"
	spoiled.Signals.Scrape.Requests.Errors["code"] = "spoiled"
	if d := DefaultBalance().Signals.Scrape; *d.CPU.Counter == "spoiled" || d.Requests.Errors["code"] == "spoiled" {
		t.Error("a caller who changes the defaults changes those of others")
	}
}

func spec(t *testing.T, text string) BalancePolicySpec {
	t.Helper()
	var s BalancePolicySpec
	if err := yaml.UnmarshalStrict([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOver(t *testing.T) {
	for _, test := range []struct{ name, specific, general, want string }{
		{"nothing over nothing", `{}`, `{}`, `{}`},
		{"the specific wins field by field",
			`{mode: Shadow, capacity: {floor: 0.1}}`,
			`{mode: Equal, blend: 25%, capacity: {floor: 0.2, ceiling: 3}}`,
			`{mode: Shadow, blend: 25%, capacity: {floor: 0.1, ceiling: 3}}`},
		{"zero is a value", `{capacity: {slowStart: 0s}}`, `{capacity: {slowStart: 30s}}`, `{capacity: {slowStart: 0s}}`},
		{"a gauge displaces a counter",
			`{signals: {scrape: {cpu: {gauge: busy}}}}`, `{signals: {scrape: {cpu: {counter: seconds}}}}`,
			`{signals: {scrape: {cpu: {gauge: busy}}}}`},
		{"a counter displaces a gauge",
			`{signals: {scrape: {cpu: {counter: seconds}}}}`, `{signals: {scrape: {cpu: {gauge: busy}}}}`,
			`{signals: {scrape: {cpu: {counter: seconds}}}}`},
		{"errors are one field, apart from the counter",
			`{signals: {scrape: {requests: {errors: {status: "5.."}}}}}`,
			`{signals: {scrape: {requests: {counter: c, errors: {code: "5.."}}}}}`,
			`{signals: {scrape: {requests: {counter: c, errors: {status: "5.."}}}}}`},
		{"a preset stands for its terms, and wins over general ones",
			`{signals: {scrape: {preset: vllm, inFlight: {gauge: mine}}}}`,
			`{signals: {scrape: {latency: {histogram: theirs}}}}`,
			`{signals: {scrape: {preset: vllm, cpu: {gauge: "vllm:kv_cache_usage_perc"},
			  requests: {counter: "vllm:request_success_total", errors: {finished_reason: abort|error}},
			  latency: {histogram: "vllm:e2e_request_latency_seconds"}, inFlight: {gauge: mine}}}}`},
		{"an inherited timeout shrinks to the interval",
			`{signals: {scrape: {interval: 500ms}}}`, `{signals: {scrape: {interval: 2s, timeout: 1s}}}`,
			`{signals: {scrape: {interval: 500ms, timeout: 500ms}}}`},
		{"prometheus displaces scraping",
			`{signals: {prometheus: {server: main}}}`, `{signals: {scrape: {interval: 5s, preset: vllm}}}`,
			`{signals: {prometheus: {server: main}}}`},
		{"scraping displaces prometheus",
			`{signals: {scrape: {interval: 5s}}}`, `{signals: {prometheus: {server: main, interval: 30s}}}`,
			`{signals: {scrape: {interval: 5s}}}`},
		{"who names no source inherits it",
			`{signals: {}}`, `{signals: {prometheus: {server: main}}}`, `{signals: {prometheus: {server: main}}}`},
		{"prometheus is merged by field and by query",
			`{signals: {prometheus: {server: near, queries: {cpu: mine}}}}`,
			`{signals: {prometheus: {server: far, interval: 30s, preset: node, queries: {cpu: theirs, errors: e}}}}`,
			`{signals: {prometheus: {server: near, interval: 30s, preset: node, queries: {cpu: mine, errors: e}}}}`},
		{"a preset of prometheus wins over general queries",
			`{signals: {prometheus: {server: a, preset: envoy, queries: {cpu: mine}}}}`,
			`{signals: {prometheus: {server: a, queries: {cpu: theirs, errors: e}}}}`,
			`{signals: {prometheus: {server: a, preset: envoy, queries: {cpu: mine}}}}`},
		{"load reports come to either source",
			`{signals: {loadReports: true}}`,
			`{signals: {prometheus: {server: a}}}`,
			`{signals: {loadReports: true, prometheus: {server: a}}}`},
		{"load reports of the more specific",
			`{signals: {loadReports: false, scrape: {interval: 1s}}}`,
			`{signals: {loadReports: true, prometheus: {server: a}}}`,
			`{signals: {loadReports: false, scrape: {interval: 1s}}}`},
		{"targets are not inherited",
			`{targetRefs: [{group: "", kind: Service, name: a}]}`, `{targetRefs: [{group: "", kind: Service, name: b}]}`,
			`{targetRefs: [{group: "", kind: Service, name: a}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := spec(t, test.specific).Over(spec(t, test.general))
			if want := spec(t, test.want); !reflect.DeepEqual(got, want) {
				text, _ := yaml.Marshal(got)
				t.Errorf("got\n%s", text)
			}
		})
	}
}

// TestOneSourceIsInForce: over the defaults, which know both, a policy has the one source it names.
func TestOneSourceIsInForce(t *testing.T) {
	for _, test := range []struct {
		own, gateway string
		prometheus   bool
	}{
		{`{}`, `{}`, false},
		{`{signals: {scrape: {interval: 1s}}}`, `{}`, false},
		{`{signals: {prometheus: {server: main}}}`, `{}`, true},
		{`{signals: {prometheus: {server: main}}}`, `{signals: {scrape: {interval: 1s}}}`, true},
		{`{signals: {scrape: {interval: 1s}}}`, `{signals: {prometheus: {server: main}}}`, false},
		{`{mode: Shadow}`, `{signals: {prometheus: {server: main}}}`, true},
	} {
		s := spec(t, test.own).Over(spec(t, test.gateway)).Over(DefaultBalance()).Signals
		if (s.Prometheus != nil) != test.prometheus || (s.Scrape != nil) == test.prometheus {
			t.Errorf("%s over %s: scrape %v, prometheus %v", test.own, test.gateway, s.Scrape, s.Prometheus)
		}
		if p := s.Prometheus; p != nil && (p.Server != "main" || p.Interval.Duration != 15*time.Second || *p.Preset != PresetGo) {
			t.Errorf("%s over %s is not complete: %+v", test.own, test.gateway, p)
		}
	}
}

func TestEveryPresetIsCompleteOverTheDefaults(t *testing.T) {
	for preset := range presets {
		got := BalancePolicySpec{Signals: &Signals{Scrape: &Scrape{Preset: &preset}}}.Over(DefaultBalance())
		if s := got.Signals.Scrape; s.CPU == nil || s.Requests.Counter == nil || s.Latency == nil || s.InFlight == nil {
			t.Errorf("%s: a term has no name: %+v", preset, s)
		}
		policy := BalancePolicy{Spec: got}
		policy.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReference{{Kind: "Service", Name: "cart"}}
		if errs := policy.Validate(); errs != nil {
			t.Errorf("%s: %v", preset, errs.ToAggregate())
		}
	}
}

func TestPercentFraction(t *testing.T) {
	for text, want := range map[Percent]float64{"0%": 0, "8%": 0.08, "12.5%": 0.125, "100%": 1, "100.0%": 1} {
		if got, err := text.Fraction(); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	for _, text := range []Percent{"", "%", "8", "101%", "100.1%", "-1%", "1e1%", " 8%", "8%%", "NaN%"} {
		if got, err := text.Fraction(); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestValidate(t *testing.T) {
	const target = `targetRefs: [{group: "", kind: Service, name: cart}]`
	for _, test := range []struct{ text, want string }{
		{`{}`, `spec.targetRefs: Required value`},
		{`targetRefs: [{group: apps, kind: Service, name: cart}]`, `spec.targetRefs[0].group: Unsupported value: "apps"`},
		{`targetRefs: [{group: "", kind: Gateway, name: edge}]`, `spec.targetRefs[0].group: Unsupported value: ""`},
		{`targetRefs: [{group: "", kind: Pod, name: cart}]`, `spec.targetRefs[0].kind: Unsupported value: "Pod": supported values: "Gateway", "Service"`},
		{`targetRefs: [{group: "", kind: Service, name: Cart}]`, `spec.targetRefs[0].name: Invalid value: "Cart"`},
		{`targetRefs: [{group: "", kind: Service, name: a}, {group: "", kind: Service, name: a}]`, `spec.targetRefs[1]: Duplicate value: "Service a"`},
		{target + "\nmode: enforce", `spec.mode: Unsupported value: "enforce": supported values: "Enforce", "Shadow", "Equal"`},
		{target + "\nstrategy: Magic", `spec.strategy: Unsupported value`},
		{target + "\nbase: Memory", `spec.base: Unsupported value`},
		{target + "\nblend: \"0.5\"", `spec.blend: Invalid value: "0.5": must be a number from 0 to 100 with a percent sign`},
		{target + "\nsignals: {scrape: {interval: 100ms}}", `spec.signals.scrape.interval: Invalid value: "100ms": must be between 500ms and 1m0s`},
		{target + "\nsignals: {scrape: {timeout: 0s}}", `spec.signals.scrape.timeout: Invalid value: "0s": must be more than 0s`},
		{target + "\nsignals: {scrape: {interval: 1s, timeout: 2s}}", `spec.signals.scrape.timeout: Invalid value: "2s": must be at most the interval, 1s`},
		{target + "\nsignals: {scrape: {preset: java}}", `spec.signals.scrape.preset: Unsupported value: "java"`},
		{target + "\nsignals: {scrape: {requests: {errors: {a: x, b: x, c: x, d: x, e: x, f: x, g: x, h: x, i: x}}}}", `spec.signals.scrape.requests.errors: Too many: 9: must have at most 8 items`},
		{target + "\nsignals: {scrape: {cpu: {}}}", `spec.signals.scrape.cpu: Invalid value: must have exactly one of counter and gauge`},
		{target + "\nsignals: {scrape: {cpu: {counter: a, gauge: b}}}", `must have exactly one of counter and gauge`},
		{target + "\nsignals: {scrape: {cpu: {counter: a-b}}}", `spec.signals.scrape.cpu.counter: Invalid value: "a-b": must be the name of a metric`},
		{target + "\nsignals: {scrape: {requests: {}}}", `spec.signals.scrape.requests.counter: Required value`},
		{target + "\nsignals: {scrape: {requests: {errors: {code: \"5(\"}}}}", `spec.signals.scrape.requests.errors[code]: Invalid value: "5(": must be an RE2 regular expression: missing closing )`},
		{target + "\nsignals: {scrape: {requests: {errors: {code: " + strings.Repeat("a", 257) + "}}}}", `may not be more than 256 bytes`},
		{target + "\nsignals: {scrape: {requests: {errors: {a-b: x}}}}", `spec.signals.scrape.requests.errors: Invalid value: "a-b": must be the name of a label`},
		{target + "\nsignals: {scrape: {latency: {}}}", `spec.signals.scrape.latency.histogram: Required value`},
		{target + "\nsignals: {scrape: {inFlight: {gauge: \"\"}}}", `spec.signals.scrape.inFlight.gauge: Invalid value`},
		{target + "\nsignals: {scrape: {}, prometheus: {server: main}}", `spec.signals: Invalid value: must have at most one of scrape and prometheus`},
		{target + "\nsignals: {prometheus: {}}", `spec.signals.prometheus.server: Required value: must be the NAME of a server given to serve --prometheus`},
		{target + "\nsignals: {prometheus: {server: \"http://prom\"}}", `spec.signals.prometheus.server: Invalid value: "http://prom"`},
		{target + "\nsignals: {prometheus: {server: main, interval: 500ms}}", `spec.signals.prometheus.interval: Invalid value: "500ms": must be between 1s and 2m0s`},
		{target + "\nsignals: {prometheus: {server: main, preset: java}}", `spec.signals.prometheus.preset: Unsupported value: "java"`},
		{target + "\nsignals: {prometheus: {server: main, queries: {latencyP90: \" \"}}}", `spec.signals.prometheus.queries.latencyP90: Required value: must be a PromQL expression`},
		{target + "\nsignals: {prometheus: {server: main, queries: {cpu: " + strings.Repeat("a", 4097) + "}}}", `spec.signals.prometheus.queries.cpu: Too long`},
		{target + "\nsignals: {prometheus: {server: main, queries: {errors: \"a\\0\"}}}", `spec.signals.prometheus.queries.errors: Invalid value: must be UTF-8`},
		{target + "\ncapacity: {slowStart: 16m}", `spec.capacity.slowStart: Invalid value: "16m0s": must be between 0s and 15m0s`},
		{target + "\ncapacity: {floor: 1}", `spec.capacity.floor: Invalid value: 1: must be more than 0 and less than 1`},
		{target + "\ncapacity: {floor: 0}", `spec.capacity.floor`},
		{target + "\ncapacity: {ceiling: 1}", `spec.capacity.ceiling: Invalid value: 1: must be more than 1`},
		{target + "\ncapacity: {maxRatio: 0.5}", `spec.capacity.maxRatio`},
		{target + "\ncapacity: {maxShed: 91%}", `spec.capacity.maxShed: Invalid value: "91%": must be between 0% and 90%`},
		{target + "\ncapacity: {maxShed: \"0.5\"}", `spec.capacity.maxShed: Invalid value`},
		{target + "\ncapacity: {tilt: 1.5}", `spec.capacity.tilt: Invalid value: 1.5: must be between 0 and 1`},
		{target + "\ncapacity: {configuredRequestsPerSecond: -1}", `spec.capacity.configuredRequestsPerSecond`},
		{target + "\nrtt: {quantile: 0.99}", `spec.rtt.quantile: Invalid value: 0.99: must be 0.5 or 0.9`},
		{target + "\nrtt: {alpha: 11}", `spec.rtt.alpha`},
		{target + "\nrtt: {window: 1s}", `spec.rtt.window`},
		{target + "\npublish: {interval: 1s}", `spec.publish.interval`},
		{target + "\npublish: {deadband: \"8\"}", `spec.publish.deadband`},
		{target + "\npublish: {urgent: 200%}", `spec.publish.urgent`},
		{target + "\npublish: {metadata: Sometimes}", `spec.publish.metadata: Unsupported value`},
	} {
		policy := BalancePolicy{Spec: spec(t, test.text)}
		errs := policy.Validate()
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), test.want) {
			t.Errorf("%s:\n got %v\nwant %s", test.text, errs, test.want)
		}
	}
	many := BalancePolicy{}
	for i := range 17 {
		many.Spec.TargetRefs = append(many.Spec.TargetRefs,
			gatewayv1.LocalPolicyTargetReference{Kind: "Service", Name: gatewayv1.ObjectName("s" + strings.Repeat("x", i))})
	}
	if errs := many.Validate(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "at most 16") {
		t.Errorf("17 targets: %v", errs)
	}
}

func TestAddToScheme(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"BalancePolicy", "BalancePolicyList"} {
		if !scheme.Recognizes(GroupVersion.WithKind(kind)) {
			t.Errorf("%s is not registered", kind)
		}
	}
}
