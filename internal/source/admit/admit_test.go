package admit

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"evenkeel.io/controlplane/internal/source"
)

// admitted is a document after Object; it must be accepted.
func admitted[T source.Object](t *testing.T, obj T, text string) T {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatal(err)
	}
	if errs := Object(obj); errs != nil {
		t.Fatal(errs.ToAggregate())
	}
	return obj
}

// same compares an object with the document that says all its defaults.
func same(t *testing.T, got source.Object, want string) {
	t.Helper()
	text, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	spec, _, _ := strings.Cut(string(text), "status:")
	if spec != want {
		t.Errorf("got\n%s\nwant\n%s", spec, want)
	}
}

func TestHTTPRouteDefaults(t *testing.T) {
	same(t, admitted(t, &gatewayv1.HTTPRoute{}, `
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules:
  - matches: [{headers: [{name: a, value: b}]}, {path: {value: /a}, queryParams: [{name: a, value: b}]}]
    backendRefs: [{name: cart, port: 80}, {name: cart, port: 81, weight: 0}]
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
`), `metadata:
  name: r
  namespace: shop
spec:
  parentRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: edge
  rules:
  - backendRefs:
    - group: ""
      kind: Service
      name: cart
      port: 80
      weight: 1
    - group: ""
      kind: Service
      name: cart
      port: 81
      weight: 0
    matches:
    - headers:
      - name: a
        type: Exact
        value: b
      path:
        type: PathPrefix
        value: /
    - path:
        type: PathPrefix
        value: /a
      queryParams:
      - name: a
        type: Exact
        value: b
  - filters:
    - requestRedirect:
        scheme: https
        statusCode: 302
      type: RequestRedirect
    matches:
    - path:
        type: PathPrefix
        value: /
`)
}

func TestARouteWithoutRulesMatchesAll(t *testing.T) {
	route := admitted(t, &gatewayv1.HTTPRoute{}, `{metadata: {name: r, namespace: shop}, spec: {}}`)
	if len(route.Spec.Rules) != 1 || *route.Spec.Rules[0].Matches[0].Path.Value != "/" {
		t.Errorf("rules %+v", route.Spec.Rules)
	}
}

func TestGatewayDefaults(t *testing.T) {
	gateway := admitted(t, &gatewayv1.Gateway{}, `
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: evenkeel
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}
`)
	for _, l := range gateway.Spec.Listeners {
		if *l.AllowedRoutes.Namespaces.From != gatewayv1.NamespacesFromSame {
			t.Errorf("listener %s allows routes from %s", l.Name, *l.AllowedRoutes.Namespaces.From)
		}
	}
	if tls := gateway.Spec.Listeners[1].TLS; *tls.Mode != gatewayv1.TLSModeTerminate || *tls.CertificateRefs[0].Kind != "Secret" {
		t.Errorf("tls %+v", tls)
	}
}

func TestCoreDefaults(t *testing.T) {
	service := admitted(t, &corev1.Service{}, `{metadata: {name: s, namespace: shop}, spec: {ports: [{port: 80}]}}`)
	if p := service.Spec.Ports[0]; p.Protocol != corev1.ProtocolTCP || p.TargetPort.IntVal != 80 || service.Spec.Type != corev1.ServiceTypeClusterIP {
		t.Errorf("service %+v", service.Spec)
	}
	slice := admitted(t, &discoveryv1.EndpointSlice{}, `{metadata: {name: s, namespace: shop}, addressType: IPv4, endpoints: [], ports: [{port: 80}]}`)
	if p := slice.Ports[0]; *p.Name != "" || *p.Protocol != corev1.ProtocolTCP {
		t.Errorf("port %+v", p)
	}
	pod := admitted(t, &corev1.Pod{}, `
metadata: {name: p, namespace: shop}
spec: {containers: [{name: a, resources: {limits: {cpu: 2, memory: 1Gi}, requests: {cpu: 1}}}]}
`)
	if r := pod.Spec.Containers[0].Resources.Requests; r.Cpu().Value() != 1 || r.Memory().String() != "1Gi" {
		t.Errorf("requests %v", r)
	}
}
