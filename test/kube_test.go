package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
)

// clusterOf is a Gateway, a route and a Service with endpoints of these last numbers.
func clusterOf(endpoints ...int) string {
	var b strings.Builder
	b.WriteString(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: evenkeel}
spec: {controllerName: evenkeel.io/controlplane}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: evenkeel, listeners: [{name: http, port: 8080, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
`)
	for _, n := range endpoints {
		fmt.Fprintf(&b, "- {addresses: [10.0.0.%d]}\n", n)
	}
	return b.String()
}

// untilEndpoints reads responses until the assignment has these endpoints.
func (c *deltaClient) untilEndpoints(last ...int) {
	c.t.Helper()
	var want, got []string
	for _, n := range last {
		want = append(want, fmt.Sprintf("10.0.0.%d", n))
	}
	timeout := time.After(30 * time.Second)
	for {
		select {
		case resp := <-c.received:
			for _, r := range resp.GetResources() {
				assignment := &endpointv3.ClusterLoadAssignment{}
				if r.GetResource().UnmarshalTo(assignment) != nil {
					continue
				}
				got = nil
				for _, l := range assignment.GetEndpoints() {
					for _, e := range l.GetLbEndpoints() {
						got = append(got, e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
					}
				}
			}
			c.take(resp)
			if slices.Sort(got); slices.Equal(got, want) {
				return
			}
		case <-timeout:
			c.t.Fatalf("endpoints %v, want %v", got, want)
		}
	}
}

// TestAClusterReachesAClient: an object in the API server comes out of the xDS port, also when the API
// server was away in between.
func TestAClusterReachesAClient(t *testing.T) {
	server := kubetest.Start(t)
	ns := server.Namespace(t)
	apply := func(documents string) {
		t.Helper()
		if err := server.Apply(t.Context(), ns, documents); err != nil {
			t.Fatal(err)
		}
	}
	apply(clusterOf(1, 2, 3, 4, 5, 6))
	r := &rig{t: t, logs: t.TempDir(), state: t.TempDir()}
	for _, port := range []*uint16{&r.ports.xds, &r.ports.admin} {
		*port = r.freePort(netip.MustParseAddr("127.0.0.1"))
	}
	var err error
	r.plane, err = demo.StartProcess("controlplane", r.logs, nil, program, "serve", "--kubeconfig", server.Kubeconfig(),
		"--xds-address", loopback(r.ports.xds), "--admin-address", loopback(r.ports.admin), "--state-dir", r.state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.plane.Stop(5 * time.Second) })

	c := newDeltaClient(t, loopback(r.ports.xds), ns+"/edge")
	for url, names := range map[string][]string{
		resource.ClusterType: nil, resource.ListenerType: nil, resource.EndpointType: {ns + "/cart:80"}, resource.RouteType: {ns + "/edge/8080"},
	} {
		c.names[url] = names
	}
	c.connect()
	c.untilEndpoints(1, 2, 3, 4, 5, 6)
	apply(clusterOf(1, 2, 3, 4, 5))
	c.untilEndpoints(1, 2, 3, 4, 5)

	server.Stop()
	r.eventually("a word of the API server", func() error {
		if body := r.body("/status"); !strings.Contains(body, "APIServer") || !strings.Contains(body, "LastKnownGood") {
			return fmt.Errorf("/status says %s", tail(body, 20))
		}
		return nil
	})
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply(clusterOf(3, 4, 5, 6, 7))
	c.untilEndpoints(3, 4, 5, 6, 7)
	r.eventually("that all is well", func() error {
		if body := r.body("/status"); strings.Contains(body, "APIServer") {
			return fmt.Errorf("/status says %s", tail(body, 20))
		}
		return nil
	})
}
