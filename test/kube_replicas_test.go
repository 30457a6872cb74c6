package test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
)

// inShop has an API server of its own, with documents in the namespace shop.
func inShop(t *testing.T) (server *kubetest.APIServer, apply func(documents ...string)) {
	t.Helper()
	server = kubetest.Start(t)
	apply = func(documents ...string) {
		t.Helper()
		if err := server.Apply(t.Context(), "shop", strings.Join(documents, "\n---\n")); err != nil {
			t.Fatal(err)
		}
	}
	apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
	return server, apply
}

// measuredPods are the Pods of these backends, with annotations that have them scraped.
func (r *rig) measuredPods(client dynamic.Interface, apply func(...string), backends ...int) {
	r.t.Helper()
	for _, i := range backends {
		name := fmt.Sprintf("cart-%d", i)
		apply(fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, annotations: {%s}}\nspec: {containers: [{name: cart, image: cart}]}\n", name, scraped))
		status := fmt.Sprintf(`{"status": {"podIP": %[1]q, "podIPs": [{"ip": %[1]q}]}}`, r.address(i))
		if _, err := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("shop").
			Patch(r.t.Context(), name, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
			r.t.Fatal(err)
		}
	}
}

// podsSlice is an EndpointSlice of cart with these Pods.
func (r *rig) podsSlice(backends ...int) string {
	slice := r.slice("", backends...)
	for _, i := range backends {
		at := fmt.Sprintf("- addresses: [%s]\n", r.address(i))
		slice = strings.Replace(slice, at, at+fmt.Sprintf("  targetRef: {kind: Pod, name: cart-%d, namespace: shop}\n", i), 1)
	}
	return slice
}

// TestReplicasOfACluster: two replicas of objects in an API server. A change reaches the clients of both, in the same
// bytes. The leader is killed, and the other goes on from its weights and tells the cluster how things are.
func TestReplicasOfACluster(t *testing.T) {
	t.Parallel()
	server, apply := inShop(t)
	a := newClusterRig(t, 3, server.Kubeconfig())
	a.addBackend(3, demo.BackendConfig{Speed: 0.3})
	client, err := dynamic.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	a.measuredPods(client, apply, 0, 1, 2, 3)
	apply(a.base(), route(toCart), a.podsSlice(0, 1, 2, 3), policy("  capacity: {slowStart: 0s}\n"))
	a.startReplica(server, "shop", "a")
	b := a.oneMore()
	b.startReplica(server, "shop", "b")
	if leader, err := b.follows(); err != nil || !strings.HasPrefix(leader, "a (") {
		t.Fatalf("the second follows %q, %v", leader, err)
	}
	var clients []*deltaClient
	for _, r := range []*rig{a, b} {
		c := newDeltaClient(t, loopback(r.ports.xds), "shop/edge")
		c.subscribeAll("shop/cart:80", "shop/edge/"+fmt.Sprint(a.ports.listener))
		clients = append(clients, c)
	}
	b.startEnvoy("shop/edge")
	stop := b.load(120)
	same := func(endpoints int) func() error {
		return func() error {
			var versions []string
			for i, r := range []*rig{a, b} {
				clients[i].drain(20 * time.Millisecond)
				versions = append(versions, clients[i].versions[resource.EndpointType]["shop/cart:80"])
				if n := len(r.service().Endpoints); n != endpoints {
					return fmt.Errorf("replica %d has %d endpoints, want %d", i, n, endpoints)
				}
			}
			if x, y := text(a.assignments()), text(b.assignments()); x != y || versions[0] != versions[1] || !strings.Contains(x, versions[0]) {
				return fmt.Errorf("clients have %v of\n%s\n%s", versions, x, y)
			}
			return nil
		}
	}
	a.eventually("the slow backend weighs less", func() error {
		if w := a.weights(); w[3] > w[0]*7/10 {
			return fmt.Errorf("weights %v", w)
		}
		return nil
	})
	a.eventually("both serve the same", same(4))
	apply(a.podsSlice(0, 1, 3))
	a.eventually("a change reaches the clients of both", same(3))

	b.within(time.Minute, "the leader writes the status", func() error {
		short, _, err := conditionsOf(t, client, "shop", "httproutes", "cart")
		if err == nil && !strings.Contains(short, "Accepted=True") {
			err = errors.New(short)
		}
		return err
	})
	if n := b.metric("evenkeel_status_writes_total"); n != 0 {
		t.Errorf("the follower wrote %v statuses", n)
	}
	b.takesOver(a)
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
	apply(route("  - backendRefs: [{name: nobody, port: 80}]\n"))
	b.within(time.Minute, "the new leader writes the status", func() error {
		short, _, err := conditionsOf(t, client, "shop", "httproutes", "cart")
		if err == nil && !strings.Contains(short, "ResolvedRefs=False(BackendNotFound)") {
			err = errors.New(short)
		}
		return err
	})
}

// TestAcceptIsForAllReplicas: each replica holds what its own lists left out, and what the leader is told to accept
// all of them take.
func TestAcceptIsForAllReplicas(t *testing.T) {
	t.Parallel()
	server, apply := inShop(t)
	a := newClusterRig(t, 2, server.Kubeconfig())
	var replicas []*rig
	var proxies []*kubetest.Proxy
	apply(a.edge(), a.podsOf(0, 1))
	for _, name := range []string{"a", "b"} {
		r, proxy := a.oneMore(), kubetest.NewProxy(t, server.Config())
		r.cluster = proxy.Kubeconfig(t)
		r.startReplica(server, "shop", name)
		replicas, proxies = append(replicas, r), append(proxies, proxy)
	}
	for i, r := range replicas {
		proxies[i].Set(kubetest.Expire("endpointslices", kubetest.Fault{Empty: true}))
		r.eventually("what is held is said", func() error {
			if body := r.body("/status"); !strings.Contains(body, "left out 2 of its 2 endpoints") {
				return errors.New(body)
			}
			return nil
		})
	}
	leader := replicas[0]
	if follows, err := leader.follows(); err != nil || follows != "" {
		t.Fatalf("the first follows %q, %v", follows, err)
	}
	leader.run("accept", "shop/cart:80", "--admin", leader.adminURL(""))
	for _, r := range replicas {
		r.eventually("what was held is taken", func() error {
			if body := r.body("/snapshots/shop/edge/eds"); strings.Contains(body, a.address(0).String()) {
				return errors.New(body)
			}
			return nil
		})
	}
}
