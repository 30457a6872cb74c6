package test

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
)

// entries is where a kind has the conditions of the only Gateway or target in a test, by resource.
var entries = map[string]struct {
	group string
	list  string // "" where they are the object's own
}{
	"gateways":        {"gateway.networking.k8s.io", ""},
	"httproutes":      {"gateway.networking.k8s.io", "parents"},
	"balancepolicies": {"evenkeel.io", "ancestors"},
}

// conditionsOf are the conditions that an API server has of an object, in short, and their messages by type. They
// must be of the generation that the object has.
func conditionsOf(t *testing.T, client dynamic.Interface, namespace, resource, name string) (short string, messages map[string]string, err error) {
	t.Helper()
	at := entries[resource]
	version := map[string]string{"evenkeel.io": "v1alpha1"}[at.group]
	if version == "" {
		version = "v1"
	}
	object, err := client.Resource(schema.GroupVersionResource{Group: at.group, Version: version, Resource: resource}).
		Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return "", nil, err
	}
	has, _, _ := unstructured.NestedMap(object.Object, "status")
	if at.list != "" {
		list, _, _ := unstructured.NestedSlice(has, at.list)
		if len(list) != 1 {
			return "", nil, fmt.Errorf("%d %s, want 1", len(list), at.list)
		}
		has = list[0].(map[string]any)
	}
	conditions, _, _ := unstructured.NestedSlice(has, "conditions")
	var all []string
	messages = map[string]string{}
	for _, c := range conditions {
		c := c.(map[string]any)
		if c["observedGeneration"] != object.GetGeneration() {
			return "", nil, fmt.Errorf("%v is not of generation %d", c, object.GetGeneration())
		}
		all = append(all, fmt.Sprintf("%s=%s(%s)", c["type"], c["status"], c["reason"]))
		messages[c["type"].(string)] = c["message"].(string)
	}
	return strings.Join(all, " "), messages, nil
}

// reasons are a Gateway with two ports and four routes: one that is good, one to a Service that is missing, one to
// another namespace, and one that is to be refused; and a policy for the missing Service.
const reasons = gatewayClass + `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, annotations: {evenkeel.io/bind-address: 127.0.0.1}}
spec:
  gatewayClassName: evenkeel
  listeners:
  - {name: http, port: $PORT, protocol: HTTP}
  - {name: other, port: $OTHER, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: good}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules: [{matches: [{path: {value: /good}}], backendRefs: [{name: cart, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: missing}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules: [{matches: [{path: {value: /missing}}], backendRefs: [{name: late, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: forbidden}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules: [{matches: [{path: {value: /forbidden}}], backendRefs: [{name: cart, namespace: $ELSEWHERE, port: 80}]}]
---
apiVersion: evenkeel.io/v1alpha1
kind: BalancePolicy
metadata: {name: late}
spec: {targetRefs: [{group: "", kind: Service, name: late}], mode: Equal}
---` + refusable

// refusable is a route that an Envoy takes or refuses, as its runtime says of $MATCH.
const refusable = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: refused}
spec:
  parentRefs: [{name: edge, sectionName: other}]
  rules: [{matches: [{path: {$MATCH}}], backendRefs: [{name: cart, port: 80}]}]
`

// TestTheClusterIsToldTheTruth: what the conditions in the API server say of a backend that is missing, one that
// is forbidden, a route that a real Envoy refuses and a fleet that is rolled back, and that they take it back when
// it is no more so.
func TestTheClusterIsToldTheTruth(t *testing.T) {
	t.Parallel()
	server := kubetest.Start(t)
	ns, elsewhere := server.Namespace(t), server.Namespace(t)
	r := newClusterRig(t, 2, server.Kubeconfig())
	other := r.freePort(netip.MustParseAddr("127.0.0.1"))
	apply := func(namespace, documents string) {
		t.Helper()
		documents = strings.NewReplacer("$PORT", fmt.Sprint(r.ports.listener), "$OTHER", fmt.Sprint(other), "$NS", ns, "$ELSEWHERE", elsewhere).Replace(documents)
		if err := server.Apply(t.Context(), namespace, documents); err != nil {
			t.Fatal(err)
		}
	}
	match := func(text string) string { return strings.ReplaceAll(refusable, "$MATCH", text) }
	client, err := dynamic.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	says := func(resource, name, want string, words map[string]string) {
		t.Helper()
		r.within(time.Minute, resource+" "+name+" says "+want, func() error { // it may be the second write in 10 s, and that after 30 s of patience
			short, messages, err := conditionsOf(t, client, ns, resource, name)
			if err == nil && short != want {
				err = fmt.Errorf("it says %s: %v", short, messages)
			}
			for of, part := range words {
				if err == nil && !strings.Contains(messages[of], part) {
					err = fmt.Errorf("%s says %q, want %q in it", of, messages[of], part)
				}
			}
			return err
		})
	}
	at := func(port uint16, path string) int {
		resp, err := http.Get("http://" + loopback(port) + path)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}

	const (
		good     = "Accepted=True(Accepted) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs)"
		goodEdge = "Accepted=True(Accepted) Programmed=True(Programmed)"
	)
	apply(ns, r.podsOf(0, 1))
	apply(elsewhere, r.podsOf(0, 1))
	apply(ns, strings.ReplaceAll(reasons, "$MATCH", "value: /"))
	r.start()
	r.startEnvoy(ns + "/edge")
	says("gateways", "edge", goodEdge, nil)
	says("httproutes", "good", good, nil)
	says("httproutes", "refused", good, nil)
	says("httproutes", "missing", "Accepted=True(Accepted) Programmed=True(Programmed) ResolvedRefs=False(BackendNotFound)",
		map[string]string{"ResolvedRefs": "spec.rules[0].backendRefs[0].name: Service " + ns + "/late does not exist"})
	says("httproutes", "forbidden", "Accepted=True(Accepted) Programmed=True(Programmed) ResolvedRefs=False(RefNotPermitted)",
		map[string]string{"ResolvedRefs": "ReferenceGrant"})
	says("balancepolicies", "late", "Accepted=False(TargetNotFound) Programmed=False(Invalid) ResolvedRefs=True(ResolvedRefs)",
		map[string]string{"Accepted": "late"})
	for path, want := range map[string]int{"/good": 200, "/missing": 500, "/forbidden": 500} {
		if err := status(r.get(path), want); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}

	// All of it is mended, and an operator has told the Envoy to take small expressions only.
	resp, err := http.Post("http://"+loopback(r.ports.envoyAdmin)+"/runtime_modify?re2.max_program_size.error_level=3", "", nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	apply(ns, strings.NewReplacer("name: cart", "name: late", "service-name: cart", "service-name: late").Replace(r.podsOf(0, 1)))
	apply(elsewhere, `
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: open}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: $NS}], to: [{group: "", kind: Service}]}
`)
	apply(ns, match(`type: RegularExpression, value: "/[a-z]+/[0-9]+"`))
	says("httproutes", "refused", "Accepted=True(Accepted) Programmed=False(Rejected) ResolvedRefs=True(ResolvedRefs)",
		map[string]string{"Programmed": `envoy-1 refused it: regex '/[a-z]+/[0-9]+' RE2 program size`})
	says("httproutes", "missing", good, nil)
	says("httproutes", "forbidden", good, nil)
	says("balancepolicies", "late", good, nil)
	says("httproutes", "good", good, nil)
	says("gateways", "edge", goodEdge, nil)
	for path, want := range map[string]int{"/missing": 200, "/forbidden": 200} {
		if err := status(r.get(path), want); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := status(at(other, "/"), 200); err != nil {
		t.Errorf("the version before the one that was refused: %v", err)
	}

	apply(ns, match("value: /mended"))
	says("httproutes", "refused", good, nil)
	if err := status(at(other, "/mended"), 200); err != nil {
		t.Error(err)
	}

	// The fleet goes back to this generation, though there is a newer.
	fleet := ns + "/edge"
	var history admin.HistoryView
	if err := demo.GetJSON(t.Context(), r.adminURL("/history?fleet="+fleet), &history); err != nil {
		t.Fatal(err)
	}
	generation := fmt.Sprint(history.Generations[0].Number)
	answers := func(path string, want int) {
		t.Helper()
		r.eventually(fmt.Sprintf("%s is answered %d", path, want), func() error { return status(at(other, path), want) })
	}
	apply(ns, match("value: /newer"))
	answers("/newer", 200)
	r.run("rollback", fleet, generation, "--admin", r.adminURL(""))
	answers("/mended", 200)
	answers("/newer", 404)
	said := map[string]string{"Programmed": "generation " + generation}
	says("httproutes", "refused", "Accepted=True(Accepted) Programmed=False(RolledBack) ResolvedRefs=True(ResolvedRefs)", said)
	says("gateways", "edge", "Accepted=True(Accepted) Programmed=False(RolledBack)", said)
	says("httproutes", "good", good, nil)
	r.run("unpin", fleet, "--admin", r.adminURL(""))
	answers("/newer", 200)
	says("httproutes", "refused", good, nil)
	says("gateways", "edge", goodEdge, nil)
}
