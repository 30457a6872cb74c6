package test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
)

var outage = flag.Duration("outage", 10*time.Second, "how long TestAClusterThatIsAway stops the API server and etcd")

// podsOf is Service cart with an EndpointSlice of these backends.
func (r *rig) podsOf(backends ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: %d}]
endpoints:
`, r.ports.backend)
	for _, i := range backends {
		fmt.Fprintf(&b, "- {addresses: [%s]}\n", r.address(i))
	}
	return b.String()
}

// edge is a Gateway on loopback with a route to cart.
func (r *rig) edge() string {
	return gatewayClass + fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, annotations: {evenkeel.io/bind-address: 127.0.0.1}}
spec: {gatewayClassName: evenkeel, listeners: [{name: http, port: %d, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 80}]}]}
`, r.ports.listener)
}

func numbers(from, to int) (all []int) {
	for i := from; i < to; i++ {
		all = append(all, i)
	}
	return all
}

// TestAClusterThatIsAway breaks the cluster under load in two ways, and no request fails.
//
// First a list of it is empty: Envoy keeps all endpoints, /status says what is held, and ends to say so alone.
// Then etcd and the API server are stopped for -outage. When they are back, a third of the endpoints is replaced
// before the program is let through to them. Half of the old Pods have ended by then, so that Envoy's retries have
// to do; the others answer on until they are out of the assignment, as in a rollout, in which a Pod outlasts the
// news of its end.
func TestAClusterThatIsAway(t *testing.T) {
	t.Parallel()
	server := kubetest.Start(t)
	ns := server.Namespace(t)
	proxy := kubetest.NewProxy(t, server.Config())
	const pods, changed = 24, 8
	r := newClusterRig(t, pods+changed, proxy.Kubeconfig(t))
	apply := func(documents ...string) {
		t.Helper()
		for _, d := range documents {
			if err := server.Apply(t.Context(), ns, d); err != nil {
				t.Fatal(err)
			}
		}
	}
	apply(r.edge(), r.podsOf(numbers(0, pods)...))
	r.start()
	r.startEnvoy(ns + "/edge")
	cluster := ns + "/cart:80"
	has := func(want []int) error {
		if got := slices.Sorted(maps.Keys(r.hostsOf(cluster))); !slices.Equal(got, want) {
			return fmt.Errorf("Envoy has the backends %v, want %v", got, want)
		}
		return nil
	}
	says := func(parts ...string) func() error {
		return func() error {
			body := r.body("/status")
			for _, part := range parts {
				if !strings.Contains(body, part) {
					return fmt.Errorf("/status does not say %q: %s", part, body)
				}
			}
			return nil
		}
	}
	allIsWell := func() error {
		if body := r.body("/status"); strings.Contains(body, "Degraded") {
			return errors.New(body)
		}
		return nil
	}
	r.eventually("all backends are in Envoy", func() error { return has(numbers(0, pods)) })
	stop := r.load(200)

	memberships := func() uint64 {
		t.Helper()
		stats, err := r.envoy.Stats(t.Context(), `cluster\..*cart.*\.membership_change$`)
		if err != nil || len(stats) != 1 {
			t.Fatalf("membership_change of cart: %v, %v", stats, err)
		}
		return slices.Collect(maps.Values(stats))[0]
	}
	before := memberships()
	proxy.Set(kubetest.Expire("endpointslices", kubetest.Fault{Empty: true}))
	r.eventually("what is held is said", says("Degraded", "LastKnownGood", fmt.Sprintf("left out %d of its %d endpoints", pods, pods)))
	proxy.Set(nil)
	r.eventually("nothing is held", allIsWell)
	if after := memberships(); after != before {
		t.Errorf("an empty list changed the endpoints in Envoy %d times", after-before)
	}

	server.Stop()
	r.eventually("the outage is said", says("APIServer", "LastKnownGood", "what it said last stays in force"))
	time.Sleep(*outage) // the outage
	if err := has(numbers(0, pods)); err != nil {
		t.Errorf("during the outage: %v", err)
	}
	proxy.Set(func(*http.Request) kubetest.Fault { return kubetest.Fault{Abort: true} })
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply(r.podsOf(numbers(changed, pods+changed)...))
	r.end(numbers(0, changed/2)...)
	earlier := make([]demo.Usage, 0, changed)
	for _, b := range r.backends[pods:] {
		earlier = append(earlier, b.Usage())
	}
	proxy.Set(nil)
	took := r.within(30*time.Second, "the new endpoints are in Envoy, and the old ones are not", func() error {
		now := r.hostsOf(cluster)
		for i := changed; i < pods; i++ {
			if _, ok := now[i]; !ok {
				t.Errorf("backend %d, which nobody removed, is not in Envoy", i)
			}
		}
		return has(numbers(changed, pods+changed))
	})
	t.Logf("after %v without an API server, %d of %d endpoints changed meanwhile: in Envoy %v after the API server answered again",
		*outage, changed, pods, took.Round(time.Millisecond))
	r.end(numbers(changed/2, changed)...)
	r.eventually("nothing is degraded", allIsWell)
	r.eventually("every new backend has served", func() error {
		for i, b := range r.backends[pods:] {
			if b.Usage().Requests(earlier[i]) == 0 {
				return fmt.Errorf("backend %d has not", pods+i)
			}
		}
		return nil
	})
	report := stop()
	t.Logf("%d of %d requests failed", report.Failed(), report.Requests)
	if report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
}
