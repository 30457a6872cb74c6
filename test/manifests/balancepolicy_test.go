package manifests

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/internal/kubetest"
)

var balanceFields = []bounds{
	{`targetRefs: $`, []string{
		`[]`, `{}`, `cart`, `null`,
		`[` + strings.Repeat(`{group: "", kind: Service, name: a},`, 2) + `]`,
		`[` + references(16) + `]`, `[` + references(17) + `]`,
		`[{group: "", kind: Service, name: cart, port: 80}]`,
	}},
	{`targetRefs: [{group: $, kind: Service, name: cart}]`, []string{`""`, `core`, `gateway.networking.k8s.io`}},
	{`targetRefs: [{group: $, kind: Gateway, name: cart}]`, []string{`""`, `gateway.networking.k8s.io`}},
	{`targetRefs: [{group: "", kind: $, name: cart}]`, []string{`Service`, `service`, `Pod`, `""`}},
	{`targetRefs: [{group: "", kind: Service, name: $}]`, []string{`cart`, `a.b`, `a..b`, `Cart`, `""`, `-a`, `a-`, `7`,
		strings.Repeat("a", 253), strings.Repeat("a", 254)}},
	{`mode: $`, []string{`Enforce`, `Shadow`, `Equal`, `enforce`, `""`}},
	{`strategy: $`, []string{`Capacity`, `RTT`, `Static`, `Least`}},
	{`base: $`, []string{`Equal`, `CPURequest`, `Memory`}},
	{`blend: $`, percents},
	{`publish: {deadband: $}`, percents},
	{`publish: {urgent: $}`, percents},
	{`publish: {metadata: $}`, []string{`Auto`, `Always`, `Never`, `auto`}},
	{`publish: {interval: $}`, durations(2*time.Second, 10*time.Minute)},
	{`capacity: {slowStart: $}`, durations(0, 15*time.Minute)},
	{`capacity: {floor: $}`, []string{`1e-9`, `0.99`, `0`, `1`, `-0.1`, `"0.1"`}},
	{`capacity: {ceiling: $}`, []string{`1.01`, `100`, `1`, `100.5`}},
	{`capacity: {maxRatio: $}`, []string{`1`, `100`, `0.99`, `100.5`}},
	{`capacity: {maxShed: $}`, []string{`0%`, `50%`, `90%`, `90.0%`, `90.5%`, `100%`, `9.5%`, `-1%`, `"50"`}},
	{`capacity: {tilt: $}`, []string{`0`, `1`, `-0.1`, `1.1`}},
	{`capacity: {configuredRequestsPerSecond: $}`, []string{`0`, `1e9`, `-1`, `.inf`}},
	{`rtt: {quantile: $}`, []string{`0.5`, `0.9`, `0.90`, `0.95`, `1`}},
	{`rtt: {alpha: $}`, []string{`0`, `10`, `-0.1`, `10.1`}},
	{`rtt: {window: $}`, durations(2*time.Second, 5*time.Minute)},
	{`signals: $`, []string{`{}`, `{scrape: {}}`, `{prometheus: {server: a}}`, `{scrape: {}, prometheus: {server: a}}`}},
	{`signals: {loadReports: $}`, []string{`true`, `false`, `"true"`, `1`}},
	{`signals: {scrape: {interval: $}}`, durations(500*time.Millisecond, time.Minute)},
	{`signals: {scrape: {timeout: $}}`, []string{`1ns`, `24h`, `0s`, `-1s`, `soon`}},
	{`signals: {scrape: {interval: 2s, timeout: $}}`, []string{`2s`, `2001ms`}},
	{`signals: {scrape: {preset: $}}`, presets},
	{`signals: {scrape: {cpu: $}}`, []string{`{counter: a}`, `{gauge: a}`, `{}`, `{counter: a, gauge: b}`}},
	{`signals: {scrape: {cpu: {counter: $}}}`, families},
	{`signals: {scrape: {cpu: {gauge: $}}}`, families},
	{`signals: {scrape: {requests: $}}`, []string{`{counter: a}`, `{errors: {a: b}}`, `{errors: {}}`, `{}`}},
	{`signals: {scrape: {requests: {counter: $}}}`, families},
	{`signals: {scrape: {requests: {errors: $}}}`, []string{
		`{code: "5.."}`, `{code: "["}`, `{code: "(?=a)"}`, `{code: ""}`, `{"5": a}`, `{"": a}`, `{le-gacy: a}`,
		`{code: "` + strings.Repeat("a", 256) + `"}`, `{code: "` + strings.Repeat("a", 257) + `"}`, `{code: "` + strings.Repeat("ä", 129) + `"}`,
		`{a: a, b: a, c: a, d: a, e: a, f: a, g: a, h: a}`, `{a: a, b: a, c: a, d: a, e: a, f: a, g: a, h: a, i: a}`,
	}},
	{`signals: {scrape: {latency: $}}`, []string{`{histogram: a}`, `{}`}},
	{`signals: {scrape: {latency: {histogram: $}}}`, families},
	{`signals: {scrape: {inFlight: $}}`, []string{`{gauge: a}`, `{}`}},
	{`signals: {scrape: {inFlight: {gauge: $}}}`, families},
	{`signals: {prometheus: $}`, []string{`{server: a}`, `{}`}},
	{`signals: {prometheus: {server: $}}`, []string{`main`, `a-1`, `""`, `Main`, `a.b`, `-a`, strings.Repeat("a", 63), strings.Repeat("a", 64)}},
	{`signals: {prometheus: {server: a, interval: $}}`, durations(time.Second, 2*time.Minute)},
	{`signals: {prometheus: {server: a, preset: $}}`, presets},
	{`signals: {prometheus: {server: a, queries: {cpu: $}}}`, queries},
	{`signals: {prometheus: {server: a, queries: {requests: $}}}`, queries},
	{`signals: {prometheus: {server: a, queries: {errors: $}}}`, queries},
	{`signals: {prometheus: {server: a, queries: {latencyP50: $}}}`, queries},
	{`signals: {prometheus: {server: a, queries: {latencyP90: $}}}`, queries},
	{`signals: {prometheus: {server: a, queries: {inFlight: $}}}`, queries},
}

var (
	percents = []string{`0%`, `100%`, `99.5%`, `100.0%`, `100.1%`, `-1%`, `8`, `"8"`, `""`}
	presets  = []string{`go`, `grpc-go`, `envoy`, `node`, `vllm`, `java`}
	families = []string{`a`, `a:b_c9`, `_`, `9a`, `a-b`, `""`}
	queries  = []string{`rate(a[$window])`, `""`, `" \t"`, `"a\0"`, strings.Repeat("a", 4096), strings.Repeat("a", 4097), strings.Repeat("ä", 2049)}
)

func durations(low, high time.Duration) []string {
	return []string{low.String(), high.String(), (low - 1).String(), (high + 1).String(), `1`, `""`, `2 seconds`, `1d`, fmt.Sprintf("%dms", high.Milliseconds())}
}

func references(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{group: "", kind: Service, name: a%d}, `, i)
	}
	return b.String()
}

// TestFieldsOfBalancePolicies: the CRD knows the bounds that BalancePolicy.Validate knows.
func TestFieldsOfBalancePolicies(t *testing.T) {
	judgeFields(t, balanceFields, func(spec string) string {
		if !strings.Contains(spec, "targetRefs") {
			spec = "targetRefs: [{group: '', kind: Service, name: cart}], " + spec
		}
		return "{apiVersion: evenkeel.io/v1alpha1, kind: BalancePolicy, metadata: {name: a}, spec: {" + spec + "}}"
	})
}

// TestFilesMayLeaveOutTheGroup: the one difference. The type of targetRefs is Gateway API's, whose schema
// wants the core group spelled out; in a file an absent string is an empty one, as it is to a Go program.
func TestFilesMayLeaveOutTheGroup(t *testing.T) {
	client := clientFor(t, kubetest.Shared(t))
	v := judge(t, client, metav1.NamespaceDefault, []byte(`{apiVersion: evenkeel.io/v1alpha1, kind: BalancePolicy, metadata: {name: a},
		spec: {targetRefs: [{kind: Service, name: cart}]}}`))
	if v.file != nil || v.server == nil || !strings.Contains(v.server.Error(), "spec.targetRefs[0].group: Required value") {
		t.Error(v)
	}
}

// TestColumns: what kubectl get shows of a policy, under its short name.
func TestColumns(t *testing.T) {
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	if err := server.Apply(t.Context(), namespace, `{apiVersion: evenkeel.io/v1alpha1, kind: BalancePolicy, metadata: {name: cart},
		spec: {targetRefs: [{group: "", kind: Service, name: basket}], mode: Shadow, strategy: RTT}}`); err != nil {
		t.Fatal(err)
	}
	condition := func(kind, status string) string {
		return `{"type": "` + kind + `", "status": "` + status + `", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}`
	}
	kubectl(t, server, "patch", "bp", "cart", "-n", namespace, "--subresource=status", "--type=merge", "-p",
		`{"status": {"ancestors": [{"ancestorRef": {"name": "edge"}, "controllerName": "evenkeel.io/controlplane",
		"conditions": [`+condition("Accepted", "True")+`, `+condition("Programmed", "False")+`]}]}}`)
	got := strings.Split(kubectl(t, server, "get", "bp", "-n", namespace), "\n")
	if header := strings.Fields(got[0]); !slices.Equal(header, []string{"NAME", "TARGET", "MODE", "STRATEGY", "ACCEPTED", "PROGRAMMED", "AGE"}) {
		t.Errorf("%q", header)
	}
	if row := strings.Fields(got[1]); !slices.Equal(row[:6], []string{"cart", "basket", "Shadow", "RTT", "True", "False"}) {
		t.Errorf("%q", row)
	}
}
