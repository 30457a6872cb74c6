package kube

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"evenkeel.io/controlplane/internal/kubetest"
	"evenkeel.io/controlplane/internal/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(kubetest.Main(m)) }

var quiet = slog.New(slog.DiscardHandler)

// followed is a Source that runs, and what it delivered.
type followed struct {
	t       *testing.T
	source  *Source
	updates chan source.Update
	log     *lines
	store   *source.Store
	changes []source.Change // all of them, since the last call of forget
}

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) has(part string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), part)
}

func follow(t *testing.T, config *rest.Config) *followed {
	t.Helper()
	f := &followed{t: t, updates: make(chan source.Update), log: &lines{}}
	config = rest.CopyConfig(config)
	s, err := New(config, Options{Logger: slog.New(slog.NewTextHandler(f.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	f.source = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, f.updates) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// until reads Updates until what is in force satisfies the condition. Every Update must say how it
// differs from the one before, no more and no less.
func (f *followed) until(what string, ok func(*source.Store) bool) {
	f.t.Helper()
	timeout := time.After(40 * time.Second)
	for f.store == nil || !ok(f.store) {
		select {
		case u := <-f.updates:
			want := source.Diff(f.store, u.Store, "")
			got := slices.Clone(u.Changes)
			for i := range got {
				got[i].Evidence = ""
			}
			if !slices.Equal(got, want) {
				f.t.Errorf("an Update says %v, and the Stores differ in %v", got, want)
			}
			f.store = u.Store
			f.changes = append(f.changes, u.Changes...)
		case <-timeout:
			f.t.Fatalf("waited for %s; there is %v, problems %v", what, f.store, f.problems())
		}
	}
}

// untilLogged reads Updates until the log has the words.
func (f *followed) untilLogged(part string) {
	f.t.Helper()
	timeout := time.After(40 * time.Second)
	for !f.log.has(part) {
		select {
		case u := <-f.updates:
			f.store = u.Store
			f.changes = append(f.changes, u.Changes...)
		case <-time.After(5 * time.Millisecond):
		case <-timeout:
			f.t.Fatalf("the log does not say %q:\n%s", part, f.log.text.String())
		}
	}
}

func (f *followed) problems() []source.Problem {
	if f.store == nil {
		return nil
	}
	return f.store.Problems
}

func (f *followed) forget() { f.changes = nil }

// opOf is what became of an object since forget, "" for nothing.
func (f *followed) opOf(ref source.Ref) (op source.Op, evidence source.Evidence) {
	for _, c := range f.changes {
		if c.Object == ref {
			op, evidence = c.Op, c.Evidence
		}
	}
	return op, evidence
}

func has(ref source.Ref) func(*source.Store) bool {
	return func(s *source.Store) bool { return s.Get(ref) != nil }
}

func hasNot(ref source.Ref) func(*source.Store) bool {
	return func(s *source.Store) bool { return s.Get(ref) == nil }
}

func problem(part string) func(*source.Store) bool {
	return func(s *source.Store) bool {
		return slices.ContainsFunc(s.Problems, func(p source.Problem) bool { return strings.Contains(p.String()+" "+p.Kept, part) })
	}
}

func noProblem(s *source.Store) bool { return len(s.Problems) == 0 }

// remove deletes an object.
func remove(t *testing.T, config *rest.Config, resource schema.GroupVersionResource, namespace, name string) {
	t.Helper()
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var objects dynamic.ResourceInterface = c.Resource(resource)
	if namespace != "" {
		objects = c.Resource(resource).Namespace(namespace)
	}
	if err := objects.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
}

var (
	slicesResource = schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}
	crdResource    = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// cart is a Service with an EndpointSlice of the addresses.
func cart(addresses ...string) string {
	var b strings.Builder
	b.WriteString(`
apiVersion: v1
kind: Service
metadata: {name: cart, labels: {team: shop}}
spec: {ports: [{name: http, port: 80}], selector: {app: cart}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: cart-1
  labels: {kubernetes.io/service-name: cart, endpointslice.kubernetes.io/managed-by: test}
  annotations: {evenkeel.io/cpu-limit: "2", kubectl.kubernetes.io/note: long}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
`)
	for _, a := range addresses {
		b.WriteString("- {addresses: [" + a + "], zone: a, nodeName: n1, conditions: {ready: true}, targetRef: {kind: Pod, name: cart-1, uid: u}}\n")
	}
	return b.String()
}

const routing = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: evenkeel}
spec: {controllerName: evenkeel.io/controlplane}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, annotations: {evenkeel.io/bind-address: 127.0.0.1, other: x}}
spec: {gatewayClassName: evenkeel, listeners: [{name: http, port: 8080, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: open}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}], to: [{group: "", kind: Service}]}
`

const pod = `
apiVersion: v1
kind: Pod
metadata: {name: cart-1, labels: {app: cart}, annotations: {prometheus.io/scrape: "true", note: x}}
spec:
  containers:
  - {name: cart, image: cart, ports: [{containerPort: 8080}], env: [{name: A, value: b}], resources: {requests: {cpu: 500m, memory: 1Gi}}}
`

func policy(mode string) string {
	return `
apiVersion: evenkeel.io/v1alpha1
kind: BalancePolicy
metadata: {name: cart}
spec: {targetRefs: [{group: "", kind: Service, name: cart}], mode: ` + mode + `}
`
}

func apply(t *testing.T, s *kubetest.APIServer, namespace string, documents ...string) {
	t.Helper()
	for _, d := range documents {
		if err := s.Apply(t.Context(), namespace, d); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatChangesIsDelivered(t *testing.T) {
	server := kubetest.Shared(t)
	ns := server.Namespace(t)
	apply(t, server, ns, cart("10.0.0.1", "10.0.0.2"), routing)
	f := follow(t, server.Config())
	slice := source.Ref{Kind: source.KindEndpointSlice, Namespace: ns, Name: "cart-1"}
	route := source.Ref{Kind: source.KindHTTPRoute, Namespace: ns, Name: "cart"}
	f.until("the first Store", func(*source.Store) bool { return true })
	for _, ref := range []source.Ref{
		slice, route,
		{Kind: source.KindNamespace, Name: ns},
		{Kind: source.KindService, Namespace: ns, Name: "cart"},
		{Kind: source.KindGatewayClass, Name: "evenkeel"},
		{Kind: source.KindGateway, Namespace: ns, Name: "edge"},
		{Kind: source.KindReferenceGrant, Namespace: ns, Name: "open"},
	} {
		if f.store.Get(ref) == nil {
			t.Errorf("the first Store has no %v", ref)
		}
		if op, evidence := f.opOf(ref); op != source.Added || evidence != source.EvidenceFirst {
			t.Errorf("%v: %s by %s", ref, op, evidence)
		}
	}
	if len(f.store.Pods) > 0 || len(f.store.Problems) > 0 {
		t.Errorf("pods %v, problems %v", f.store.Pods, f.store.Problems)
	}
	edge := f.store.Gateways[nameOf(source.Ref{Namespace: ns, Name: "edge"})]
	if !maps.Equal(edge.Annotations, map[string]string{"evenkeel.io/bind-address": "127.0.0.1"}) || len(edge.ManagedFields) != 1 || edge.ManagedFields[0].Manager != "kubetest" || edge.ManagedFields[0].FieldsV1 != nil || len(edge.Status.Conditions) > 0 {
		t.Errorf("not trimmed: %+v", edge)
	}

	was := f.store
	f.forget()
	apply(t, server, ns, cart("10.0.0.1"))
	f.until("one endpoint less", func(s *source.Store) bool { return len(s.EndpointSlices[nameOf(slice)].Endpoints) == 1 })
	if op, evidence := f.opOf(slice); op != source.Changed || evidence != source.EvidenceWatch || len(f.changes) != 1 {
		t.Errorf("%v", f.changes)
	}
	if f.store.Get(route) != was.Get(route) {
		t.Error("an object that did not change is another")
	}

	// A label that nothing reads makes no Update: the next is the removal's.
	apply(t, server, ns, strings.ReplaceAll(cart("10.0.0.1"), "team: shop", "team: other"))
	remove(t, server.Config(), slicesResource, ns, "cart-1")
	f.forget()
	f.until("no slice", hasNot(slice))
	if op, evidence := f.opOf(slice); op != source.Removed || evidence != source.EvidenceWatch || len(f.changes) != 1 {
		t.Errorf("%v", f.changes)
	}
}

func TestPodsAreWatchedWhileAPolicyNeedsThem(t *testing.T) {
	server := kubetest.Shared(t)
	ns := server.Namespace(t)
	apply(t, server, ns, cart("10.0.0.1"), pod, policy("Equal"))
	ref := source.Ref{Kind: source.KindPod, Namespace: ns, Name: "cart-1"}

	f := follow(t, server.Config())
	f.until("the first Store", func(*source.Store) bool { return true })
	if len(f.store.Pods) > 0 {
		t.Error("Pods are watched for a policy that reads nothing of them")
	}
	apply(t, server, ns, policy("Enforce"))
	f.until("Pods", has(ref))
	p := f.store.Pods[nameOf(ref)]
	if len(p.Spec.Containers) != 1 || p.Spec.Containers[0].Resources.Requests.Cpu().String() != "500m" || p.Spec.Containers[0].Ports[0].ContainerPort != 8080 ||
		len(p.Annotations) != 1 || p.UID == "" {
		t.Errorf("what the catalog reads is missing: %+v", p)
	}
	if c := p.Spec.Containers[0]; c.Image != "" || c.Env != nil || len(c.Resources.Requests) != 1 || p.Labels != nil {
		t.Errorf("what nothing reads is kept: %+v", p)
	}
	again := follow(t, server.Config())
	again.until("the first Store", func(*source.Store) bool { return true })
	if again.store.Get(ref) == nil {
		t.Error("a start with a policy that needs Pods began without them")
	}
	apply(t, server, ns, policy("Equal"))
	f.until("no Pods", func(s *source.Store) bool { return len(s.Pods) == 0 })
	again.until("no Pods", func(s *source.Store) bool { return len(s.Pods) == 0 })
}

// TestAKindThatIsNotInstalled takes a CRD away, before the start and while it runs.
func TestAKindThatIsNotInstalled(t *testing.T) {
	server := kubetest.Shared(t)
	ns := server.Namespace(t)
	apply(t, server, ns, cart("10.0.0.1"))
	ref := source.Ref{Kind: source.KindBalancePolicy, Namespace: ns, Name: "cart"}
	remove(t, server.Config(), crdResource, "", "balancepolicies.evenkeel.io")
	t.Cleanup(func() {
		if err := server.InstallCRDs(context.Background()); err != nil {
			t.Error(err)
		}
	})
	f := follow(t, server.Config())
	missing := problem("CustomResourceDefinition balancepolicies.evenkeel.io: the API server has no evenkeel.io/v1alpha1 BalancePolicy; apply the CRDs")
	f.until("a word of what is missing", missing)
	f.until("the rest", has(source.Ref{Kind: source.KindService, Namespace: ns, Name: "cart"}))

	if err := server.InstallCRDs(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.until("that nothing is missing", noProblem)
	apply(t, server, ns, policy("Equal"))
	f.until("the policy", has(ref))

	f.forget()
	remove(t, server.Config(), crdResource, "", "balancepolicies.evenkeel.io")
	f.until("the policy gone", hasNot(ref))
	f.until("a word of what is missing", missing)
	if _, evidence := f.opOf(ref); evidence != source.EvidenceWatch {
		t.Errorf("it went by %s", evidence)
	}
}

func TestAKindThatIsForbidden(t *testing.T) {
	server := kubetest.Shared(t)
	role := func(resources string) string {
		return `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: ["", discovery.k8s.io, gateway.networking.k8s.io], resources: ["*"], verbs: [get, list, watch]}
- {apiGroups: [evenkeel.io], resources: [` + resources + `], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: reader}]
`
	}
	apply(t, server, "", role("limitpolicies"))
	config := server.Config()
	config.Impersonate.UserName = "reader"
	f := follow(t, config)
	f.untilLogged(`get, list and watch on the resource \"balancepolicies\" of the API group \"evenkeel.io\"`)
	if f.store != nil {
		t.Fatal("it began without the policies")
	}
	apply(t, server, "", role("balancepolicies, limitpolicies"))
	f.until("the first Store", noProblem)
}
