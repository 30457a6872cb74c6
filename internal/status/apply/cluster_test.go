package apply

import (
	"fmt"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"evenkeel.io/controlplane/internal/kubetest"
	"evenkeel.io/controlplane/internal/source"
)

// shop is a Gateway with a listener that works and one that does not, a Service of two endpoints of which
// one is worth three of the other, and a route.
const shop = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: evenkeel}
spec: {controllerName: evenkeel.io/controlplane}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: evenkeel
  addresses: [{value: 10.1.2.3}]
  listeners:
  - {name: http, port: 8080, protocol: HTTP}
  - {name: tcp, port: 9000, protocol: TCP}
---
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}, annotations: {evenkeel.io/weight: "3"}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-2, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.2]}]
---` + route

const route = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 80}]}]}
`

const (
	good      = "Accepted=True(Accepted) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs)"
	goodEdge  = "Accepted=True(ListenersNotValid) Programmed=True(Programmed)"
	staticTo  = "apiVersion: evenkeel.io/v1alpha1\nkind: BalancePolicy\nmetadata: {name: cart}\nspec: {targetRefs: [{group: '', kind: Service, name: cart}], strategy: Static, mode: %s}\n"
	noSuch    = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: cart}\nspec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: none, port: 80}]}]}\n"
	elsewhere = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: cart}\nspec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: kubernetes, namespace: default, port: 443}]}]}\n"
)

func (p *plane) connectEdge(node string) *proxy {
	return p.connect(node, "edge", map[string][]string{
		resource.EndpointType: {p.ns + "/cart:80"}, resource.RouteType: {p.ns + "/edge/8080"},
	})
}

// unequal refuses endpoints of different weights.
func unequal(r *discoveryv3.DeltaDiscoveryResponse) string {
	for _, one := range r.GetResources() {
		var a endpointv3.ClusterLoadAssignment
		if one.GetResource().UnmarshalTo(&a) != nil {
			continue
		}
		weights := map[uint32]bool{}
		for _, l := range a.GetEndpoints() {
			for _, e := range l.GetLbEndpoints() {
				weights[e.GetLoadBalancingWeight().GetValue()] = true
			}
		}
		if len(weights) > 1 {
			return "all hosts are equal"
		}
	}
	return ""
}

func TestTheStatusIsWhatBecameOfTheObjects(t *testing.T) {
	server := kubetest.Shared(t)
	p := start(t, server, server.Namespace(t), server.Config())
	p.apply(shop)
	p.says(source.KindGatewayClass, "evenkeel", "Accepted=True(Accepted)", "")
	p.says(source.KindHTTPRoute, "cart", "Accepted=True(Accepted) Programmed=False(Pending) ResolvedRefs=True(ResolvedRefs)", "")

	envoy := p.connectEdge("envoy-1")
	p.says(source.KindGateway, "edge", goodEdge, "")
	edge := p.said(source.KindGateway, "edge")
	if len(edge.Addresses) != 1 || edge.Addresses[0].Value != "10.1.2.3" {
		t.Errorf("addresses %+v", edge.Addresses)
	}
	for i, want := range []struct {
		conditions    string
		routes, kinds int
	}{
		{"Accepted=True(Accepted) Conflicted=False(NoConflicts) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs)", 1, 1},
		{"Accepted=False(UnsupportedProtocol) Conflicted=False(NoConflicts) Programmed=False(Invalid) ResolvedRefs=True(ResolvedRefs)", 0, 0},
	} {
		l := edge.Listeners[i]
		if brief(l.Conditions) != want.conditions || int(l.AttachedRoutes) != want.routes || len(l.SupportedKinds) != want.kinds {
			t.Errorf("listener %s: %s, %d routes, kinds %v", l.Name, brief(l.Conditions), l.AttachedRoutes, l.SupportedKinds)
		}
	}
	p.event(source.KindGateway, "edge", "Warning", "Refused", "UnsupportedProtocol")

	accepted := p.says(source.KindHTTPRoute, "cart", good, "Accepted")
	p.apply(noSuch)
	c := p.says(source.KindHTTPRoute, "cart", "Accepted=True(Accepted) Programmed=True(Programmed) ResolvedRefs=False(BackendNotFound)", "ResolvedRefs")
	if want := "spec.rules[0].backendRefs[0].name: Service " + p.ns + "/none does not exist; its part of the requests is answered with 500"; c.Message != want {
		t.Errorf("%q, want %q", c.Message, want)
	}
	p.event(source.KindHTTPRoute, "cart", "Warning", "BackendNotFound", "Service "+p.ns+"/none does not exist")
	p.apply(elsewhere)
	p.says(source.KindHTTPRoute, "cart", "Accepted=True(Accepted) Programmed=True(Programmed) ResolvedRefs=False(RefNotPermitted)", "")
	p.apply(route)
	again := p.says(source.KindHTTPRoute, "cart", good, "Accepted")
	if !again.LastTransitionTime.Equal(&accepted.LastTransitionTime) {
		t.Errorf("Accepted was True all the time, and since %v now, %v before", again.LastTransitionTime, accepted.LastTransitionTime)
	}
	p.event(source.KindHTTPRoute, "cart", "Normal", "Recovered", "RefNotPermitted")

	envoy.refuses(unequal)
	p.apply(fmt.Sprintf(staticTo, "Enforce"))
	c = p.says(source.KindBalancePolicy, "cart", "Accepted=True(Accepted) Programmed=False(Rejected) ResolvedRefs=True(ResolvedRefs)", "Programmed")
	if want := "envoy-1 refused eds " + p.ns + "/cart:80, which carries it: all hosts are equal"; c.Message != want {
		t.Errorf("%q, want %q", c.Message, want)
	}
	p.event(source.KindBalancePolicy, "cart", "Warning", "Rejected", "all hosts are equal")
	p.apply(fmt.Sprintf(staticTo, "Equal"))
	p.says(source.KindBalancePolicy, "cart", good, "")
	p.event(source.KindBalancePolicy, "cart", "Normal", "Recovered", "Rejected")
	p.says(source.KindHTTPRoute, "cart", good, "")
}
