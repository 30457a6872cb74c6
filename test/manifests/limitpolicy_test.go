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

const (
	gatewayGroup = "gateway.networking.k8s.io"
	edgeTarget   = "{group: " + gatewayGroup + ", kind: Gateway, name: edge}"
	rate         = "rate: {requests: 1, per: 1s}"
)

// limitPolicy is the policy of a spec, completed where it says nothing of its targets or limits.
func limitPolicy(spec string) string {
	if !strings.Contains(spec, "targetRefs") {
		spec = "targetRefs: [" + edgeTarget + "], " + spec
	}
	if !strings.Contains(spec, "limits:") {
		spec += ", limits: [{name: a, " + rate + "}]"
	}
	return "{apiVersion: evenkeel.io/v1alpha1, kind: LimitPolicy, metadata: {name: a}, spec: {" + spec + "}}"
}

// inLimit is a spec with one limit of a rate, and what is said of it besides.
func inLimit(said string) string { return "limits: [{name: a, " + rate + ", " + said + "}]" }

var limitFields = []bounds{
	{`targetRefs: $`, []string{
		`[]`, `{}`, `edge`, `null`, `[` + edgeTarget + `]`, `[` + edgeTarget + `,` + edgeTarget + `]`,
		`[` + routes(16) + `]`, `[` + routes(17) + `]`,
		`[{group: ` + gatewayGroup + `, kind: HTTPRoute, name: a}, {group: ` + gatewayGroup + `, kind: HTTPRoute, name: a, sectionName: b}]`,
		`[{group: ` + gatewayGroup + `, kind: HTTPRoute, name: a, sectionName: b}, {group: ` + gatewayGroup + `, kind: HTTPRoute, name: a, sectionName: b}]`,
		`[{group: ` + gatewayGroup + `, kind: HTTPRoute, name: a, namespace: b}]`,
	}},
	{`targetRefs: [{group: $, kind: HTTPRoute, name: api}]`, []string{`""`, `core`, gatewayGroup}},
	{`targetRefs: [{group: ` + gatewayGroup + `, kind: $, name: api}]`, []string{`Gateway`, `HTTPRoute`, `GRPCRoute`, `TCPRoute`, `Service`, `httproute`, `""`}},
	{`targetRefs: [{group: ` + gatewayGroup + `, kind: HTTPRoute, name: $}]`, []string{`api`, `a.b`, `a..b`, `Api`, `""`, `-a`, `7`,
		strings.Repeat("a", 253), strings.Repeat("a", 254)}},
	{`targetRefs: [{group: ` + gatewayGroup + `, kind: HTTPRoute, name: api, sectionName: $}]`, []string{`read`, `a.b`, `""`, `Read`, `null`, strings.Repeat("a", 254)}},
	{`targetRefs: [{group: ` + gatewayGroup + `, kind: Gateway, name: edge, sectionName: $}]`, []string{`http`, `null`}},
	{`override: $`, []string{`true`, `false`, `"true"`}},
	{`override: $, targetRefs: [{group: ` + gatewayGroup + `, kind: HTTPRoute, name: api}]`, []string{`true`, `false`}},
	{`onError: $`, []string{`Allow`, `Deny`, `allow`}},
	{`limits: $`, []string{`[]`, `null`, `{}`, `[` + limits(32) + `]`, `[` + limits(33) + `]`, `[` + limits(1) + limits(1) + `]`}},
	{`limits: [{name: $, ` + rate + `}]`, []string{`a`, `a-1`, `a.b`, `A`, `""`, `null`, strings.Repeat("a", 63), strings.Repeat("a", 64)}},
	{`limits: [{name: a, $}]`, []string{rate, `concurrency: 1`, `mode: Enforce`, rate + `, concurrency: 1`}},
	{`limits: [{name: a, concurrency: $}]`, []string{`1`, `1000000`, `0`, `1000001`, `1.5`, `"1"`}},
	{`limits: [{name: a, rate: $}]`, []string{`{requests: 1, per: 1s}`, `{requests: 1}`, `{per: 1s}`, `{}`}},
	{`limits: [{name: a, rate: {requests: $, per: 1s}}]`, []string{`1`, `1000000000`, `0`, `1000000001`, `-1`, `1e3`, `1.5`}},
	{`limits: [{name: a, rate: {requests: 1, per: 1s, burst: $}}]`, []string{`1`, `1000000000`, `0`, `1000000001`}},
	{`limits: [{name: a, rate: {requests: 1, per: $}}]`, append(durations(time.Second, 24*time.Hour), `1500ms`, `90s`, `1h1m1s`, `1.5s`, `2.0s`)},

	{inLimit(`when: $`), []string{`{}`, `null`, `{methods: []}`, `GET`, `{method: GET}`}},
	{inLimit(`when: {methods: [$]}`), []string{`GET`, `PROPFIND`, `M-SEARCH`, `get`, `""`, `G T`, `"*"`, strings.Repeat("A", 32), strings.Repeat("A", 33)}},
	{inLimit(`when: {methods: $}`), lists(`GET`, 16)},
	{inLimit(`when: {paths: $}`), lists(`/a`, 16)},
	{inLimit(`when: {paths: [$]}`), []string{`/`, `/v1`, `=/v1`, `"~/v[0-9]+"`, `v1`, `""`, `"="`, `"=v1"`, `"~"`, `"~["`, `"~(?=a)"`, `"/a?b"`, `"/a#b"`, `"/a b"`, `"/ä"`, `"/%C3%A4"`,
		`"/a\n"`, `"~a\n"`, `"/a\0"`, `"/\"<>"`, `"/` + strings.Repeat("a", 1023) + `"`, `"/` + strings.Repeat("a", 1024) + `"`,
		`"~` + strings.Repeat("a", 256) + `"`, `"~` + strings.Repeat("a", 257) + `"`, `"~` + strings.Repeat("ä", 129) + `"`}},
	{inLimit(`when: {headers: $}`), []string{`{a: b}`, `{}`, `[a]`, `{"a b": c}`, `{":path": c}`, `{"": c}`, `{"ä": c}`, `{X-Tenant: a, x-tier: b}`, `{X-Tenant: a, x-tenant: b}`,
		`{` + strings.Repeat("a", 256) + `: b}`, `{? ` + strings.Repeat("a", 257) + ` : b}`, `{a^_|~: b}`, maps(16), maps(17)}},
	{inLimit(`when: {headers: {a: $}}`), []string{`b`, `"*"`, `"!*"`, `"~b+"`, `"!b"`, `"!"`, `""`, `"~"`, `"~["`, `"~(?<!a)b"`, `"a\nb"`, `"a\tb"`, `"~a\tb"`, `"ä 7%"`, `7`,
		strings.Repeat("a", 1024), strings.Repeat("a", 1025), strings.Repeat("ä", 1024), `"~` + strings.Repeat("a", 256) + `"`, `"~` + strings.Repeat("a", 257) + `"`}},
	{inLimit(`when: {backends: $}`), lists(`a`, 16)},
	{inLimit(`when: {backends: [$]}`), []string{`canary`, `shop/canary`, `"canary:80"`, `""`, `Canary`, `a.b`, strings.Repeat("a", 63), strings.Repeat("a", 64)}},
	{inLimit(`scope: Proxy, when: {backends: $}`), []string{`[]`, `[canary]`}},
	{inLimit(`when: {cel: $}`), []string{`"true"`, `""`, `"  "`, `"true\n"`, `"true\0"`, `request.method == "GET"`, `true`,
		`"` + strings.Repeat(" ", 508) + `true"`, `"` + strings.Repeat(" ", 509) + `true"`}},

	{inLimit(`key: $`), []string{`[]`, `[ip]`, `ip`, `[ip, method, path, route]`, `[ip, method, path, route, "header:a"]`, `[ip, ip]`, `[ip, ip/24]`, `["header:a", "header:b"]`, `["header:a", "header:A"]`, `["query:a", "query:A"]`}},
	{inLimit(`key: [$]`), []string{`ip`, `ip/8`, `ip/32`, `ip/7`, `ip/33`, `ip/24.0`, `ip/08`, `ip/`, `IP`, `method`, `path`, `route`, `user`, `""`, `"claim:sub"`, `"claim:"`,
		`"header:X-Tenant"`, `"header:"`, `header`, `"header:a b"`, `"header: a"`, `"header::path"`, `"header:` + strings.Repeat("a", 256) + `"`, `"header:` + strings.Repeat("a", 257) + `"`,
		`"query:a"`, `"query:"`, `"query:a b"`, `"query:ä"`, `"query:a[]"`, `"namespace:tenant"`, `"namespace:example.com/tenant"`, `"namespace:"`, `"namespace:a/b/c"`, `"namespace:-a"`, `"namespace:A_b.c"`,
		`"cel:request.host"`, `"cel:"`, `"cel: "`, `"cel:request.host\n"`, `"ip\n"`, `"method "`,
		`"cel:` + strings.Repeat(" ", 500) + `request.host"`, `"cel:` + strings.Repeat(" ", 501) + `request.host"`}},
	{inLimit(`missing: $`), []string{`Global`, `Skip`, `Deny`, `deny`}},
	{inLimit(`scope: $`), []string{`Fleet`, `Proxy`, `Global`}},
	{inLimit(`mode: $`), []string{`Enforce`, `Shadow`, `"Off"`, `"off"`, `false`}},
	{`limits: [{name: a, concurrency: 1, scope: $}]`, []string{`Fleet`, `Proxy`}},
	{inLimit(`adapt: {by: Health}, scope: $`), []string{`Fleet`, `Proxy`}},
	{inLimit(`reply: {}, scope: $`), []string{`Fleet`, `Proxy`}},

	{inLimit(`key: [ip], values: $`), []string{`[]`, `{}`, `[` + values(64) + `]`, `[` + values(65) + `]`}},
	{inLimit(`values: $`), []string{`[]`, `[{match: {ip: 10.0.0.1}, unlimited: true}]`}},
	{inLimit(`key: [ip], values: [{match: {ip: 10.0.0.1}, $}]`), []string{rate, `unlimited: true`, `unlimited: false`, `concurrency: 1`, rate + `, unlimited: true`, `rate: {requests: 0, per: 1s}`, `rate: {requests: 1, per: 1ms}`, `rate: null`}},
	{`limits: [{name: a, concurrency: 1, key: [ip], values: [{match: {ip: 10.0.0.1}, $}]}]`, []string{rate, `unlimited: true`, `concurrency: 2`, `concurrency: 0`}},
	{inLimit(`key: [ip, "header:x-a"], values: [{unlimited: true, match: $}]`), []string{`{ip: 10.0.0.1}`, `{ip: 10.0.0.1, x-a: b}`, `{}`, `null`, `{x-a: ""}`, `{x-a: "a\nb"}`,
		`{x-a: ` + strings.Repeat("a", 1024) + `}`, `{x-a: ` + strings.Repeat("a", 1025) + `}`}},

	{inLimit(`adapt: $`), []string{`{by: Health}`, `{}`, `{by: health}`, `{by: Replicas, replicas: 3}`, `{by: Replicas}`, `{by: Health, replicas: 3}`,
		`{by: Metric, metric: {server: a, query: up, down: 2, up: 1}}`, `{by: Metric}`, `{by: Health, metric: {server: a, query: up, down: 2, up: 1}}`}},
	{inLimit(`adapt: {by: Health, floor: $}`), []string{`0.01`, `1`, `0`, `1.1`, `-1`, `11`}},
	{inLimit(`adapt: {by: Health, ceil: $}`), []string{`10`, `0.2`, `0.1`, `10.1`, `0`}},
	{inLimit(`adapt: {by: Health, floor: 2, ceil: $}`), []string{`2`, `1.9`}},
	{inLimit(`adapt: {by: Health, step: $}`), []string{`0.01`, `1`, `0.009`, `1.1`}},
	{inLimit(`adapt: {by: Health, hold: $}`), durations(time.Second, time.Hour)},
	{inLimit(`adapt: {by: Replicas, replicas: $}`), []string{`1`, `100000`, `0`, `100001`}},
	{inLimit(`adapt: {by: Metric, metric: {query: up, down: 2, up: 1, server: $}}`), []string{`main`, `""`, `Main`, strings.Repeat("a", 64)}},
	{inLimit(`adapt: {by: Metric, metric: {server: a, down: 2, up: 1, query: $}}`), []string{`up`, `""`, `" "`, `"a\0"`, strings.Repeat("a", 1024), strings.Repeat("a", 1025), strings.Repeat("ä", 513)}},
	{inLimit(`adapt: {by: Metric, metric: {server: a, query: up, down: 2, up: $}}`), []string{`2`, `2.1`, `-1`, `.nan`}},
	{inLimit(`adapt: {by: Metric, metric: {server: a, query: up, down: 2, up: 1, for: $}}`), durations(0, time.Hour)},

	{inLimit(`reply: {status: $}`), []string{`400`, `599`, `399`, `600`, `200`}},
	{inLimit(`reply: {headers: $}`), []string{`{a: b}`, `{"a b": c}`, `{a: ""}`, `{a: "100%"}`, `{a: "b\r\nc: d"}`, `{Content-Length: "1"}`, `{host: a}`, `{Connection: close}`, `{A: b, a: c}`, maps(16), maps(17)}},
	{inLimit(`reply: {body: $}`), []string{`""`, `"a\nb"`, strings.Repeat("a", 4096), strings.Repeat("a", 4097), strings.Repeat("ä", 2049)}},
}

func routes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{group: %s, kind: HTTPRoute, name: a%d}, ", gatewayGroup, i)
	}
	return b.String()
}

func limits(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{name: a%d, %s}, ", i, rate)
	}
	return b.String()
}

func values(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{match: {ip: 10.0.0.%d}, unlimited: true}, ", i)
	}
	return b.String()
}

func maps(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%d: b, ", i)
	}
	return "{" + b.String() + "}"
}

// lists are lists of so many items, and of one more.
func lists(item string, most int) []string {
	return []string{`[]`, `[` + strings.Repeat(item+", ", most) + `]`, `[` + strings.Repeat(item+", ", most+1) + `]`}
}

// TestFieldsOfLimitPolicies: the CRD knows the bounds that LimitPolicy.Validate knows.
func TestFieldsOfLimitPolicies(t *testing.T) { judgeFields(t, limitFields, limitPolicy) }

// TestFilesKnowMore: what a directory refuses and an API server cannot know. In a cluster the status says it.
func TestFilesKnowMore(t *testing.T) {
	client := clientFor(t, kubetest.Shared(t))
	for name, limit := range map[string]string{
		"an expression that Envoy does not take":           `when: {cel: request.hst == "a"}`,
		"a part of the key that Envoy does not take":       `key: ["cel:request.hst"]`,
		"an expression that is too large, if not too long": `when: {paths: ["~(\\pL{1,100})+"]}`,
		"a value of no part of the key":                    `key: [ip], values: [{match: {method: GET}, unlimited: true}]`,
		"a value of either of two parts of the key":        `key: ["header:a", "query:a"], values: [{match: {a: b}, unlimited: true}]`,
		"two values of one part of the key":                `key: ["header:a"], values: [{match: {a: b, "header:a": c}, unlimited: true}]`,
	} {
		v := judge(t, client, metav1.NamespaceDefault, []byte(limitPolicy(inLimit(limit))))
		if v.file == nil || v.server != nil {
			t.Errorf("%s: %v", name, v)
		}
	}
}

// TestLimitColumns: what kubectl get shows of a LimitPolicy, under its short name, and that both kinds of policies are
// in one category.
func TestLimitColumns(t *testing.T) {
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	if err := server.Apply(t.Context(), namespace, `{apiVersion: evenkeel.io/v1alpha1, kind: LimitPolicy, metadata: {name: api},
		spec: {targetRefs: [`+edgeTarget+`], limits: [{name: tenant, `+rate+`}, {name: streams, concurrency: 3}]}}`); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(kubectl(t, server, "get", "lp", "-n", namespace), "\n")
	if header := strings.Fields(got[0]); !slices.Equal(header, []string{"NAME", "TARGET", "LIMIT", "ACCEPTED", "PROGRAMMED", "AGE"}) {
		t.Errorf("%q", header)
	}
	if row := strings.Fields(got[1]); !slices.Equal(row[:3], []string{"api", "edge", "tenant"}) {
		t.Errorf("%q", row)
	}
	if all := kubectl(t, server, "get", "evenkeel", "-n", namespace); !strings.Contains(all, "api") {
		t.Errorf("the category has no LimitPolicies: %s", all)
	}
}
