package apply

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/internal/kubetest"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
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
		resource.ExtensionConfigType: {translate.AllowFilter, translate.DenyFilter},
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

// limitless refuses routes with limits.
func limitless(r *discoveryv3.DeltaDiscoveryResponse) string {
	for _, one := range r.GetResources() {
		if bytes.Contains(one.GetResource().GetValue(), []byte("rule")) && r.GetTypeUrl() == resource.RouteType {
			return "no limits here"
		}
	}
	return ""
}

// role lets a user do what a Writer has to, with the statuses that are named.
func role(user, statuses string) string {
	return fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: %[1]s}
rules:
- {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses, gateways, httproutes], verbs: [get, list]}
- {apiGroups: [evenkeel.io], resources: [balancepolicies, limitpolicies], verbs: [get, list]}
- {apiGroups: [gateway.networking.k8s.io, evenkeel.io], resources: [%[2]s], verbs: [patch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[1]s}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %[1]s}]
`, user, statuses)
}

func TestTheStatusIsWhatBecameOfTheObjects(t *testing.T) {
	server := kubetest.Shared(t)
	config := server.Config()
	config.Impersonate.UserName = "writer"
	p := start(t, server, server.Namespace(t), config)
	p.apply(role("writer", "gatewayclasses/status, gateways/status, httproutes/status, balancepolicies/status, limitpolicies/status"))
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

func TestTheStatusOfALimitPolicy(t *testing.T) {
	server := kubetest.Shared(t)
	config := server.Config()
	config.Impersonate.UserName = "writer-of-limits"
	p := start(t, server, server.Namespace(t), config)
	p.apply(role("writer-of-limits", "gatewayclasses/status, gateways/status, httproutes/status, limitpolicies/status"))
	p.apply(shop)
	const (
		waiting = "Accepted=True(Accepted) Programmed=False(Pending) ResolvedRefs=True(ResolvedRefs)"
		limit   = "apiVersion: evenkeel.io/v1alpha1\nkind: LimitPolicy\nmetadata: {name: %s}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}], limits: [%s]}\n"
		all     = "{name: all, rate: {requests: 5, per: 1s}}"
	)
	p.apply(fmt.Sprintf(limit, "cart", all))
	p.says(source.KindLimitPolicy, "cart", waiting, "")
	envoy := p.connectEdge("envoy-1")
	p.says(source.KindLimitPolicy, "cart", good, "")

	// The API server cannot know what Envoy's attributes are.
	p.apply(fmt.Sprintf(limit, "cart", "{name: all, when: {cel: request.hst == 'a'}, rate: {requests: 5, per: 1s}}"))
	var c metav1.Condition
	p.eventually("the newest version is refused, the one before in force", func() error {
		all := conditions(p.said(source.KindLimitPolicy, "cart"))
		if got := brief(all); got != "Accepted=False(Invalid) Degraded=True(LastKnownGood) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs)" {
			return errors.New(got)
		}
		if c = all[0]; c.ObservedGeneration != p.get(source.KindLimitPolicy, "cart").GetGeneration() {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	if !strings.HasPrefix(c.Message, "spec.limits[0].when.cel: ") || !strings.Contains(c.Message, "request.headers") {
		t.Errorf("%q", c.Message)
	}
	p.event(source.KindLimitPolicy, "cart", "Warning", "Refused", "spec.limits[0].when.cel")
	p.apply(fmt.Sprintf(limit, "cart", all))
	p.says(source.KindLimitPolicy, "cart", good, "")

	// The younger keeps what the older has not.
	p.apply(fmt.Sprintf(limit, "later", all+", {name: streams, concurrency: 3}"))
	c = p.says(source.KindLimitPolicy, "later", "Accepted=False(Conflicted) Programmed=True(Programmed) ResolvedRefs=True(ResolvedRefs)", "Accepted")
	if want := "all (LimitPolicy " + p.ns + "/cart at HTTPRoute " + p.ns + "/cart); the others hold"; !strings.HasSuffix(c.Message, want) {
		t.Errorf("%q, want %q", c.Message, want)
	}
	p.remove(source.KindLimitPolicy, "later")

	envoy.refuses(limitless)
	p.apply(fmt.Sprintf(limit, "cart", all+", {name: more, key: [method], rate: {requests: 1, per: 1s}}"))
	c = p.says(source.KindLimitPolicy, "cart", "Accepted=True(Accepted) Programmed=False(Rejected) ResolvedRefs=True(ResolvedRefs)", "Programmed")
	if want := "envoy-1 refused rds " + p.ns + "/edge/8080, which carries it: no limits here"; c.Message != want {
		t.Errorf("%q, want %q", c.Message, want)
	}
}

// TestEntriesOfOthers: what another controller says of a route stays as it is, and what it writes does not
// undo ours; a Gateway that is gone, and one that belongs to another controller now, leave nothing of ours.
func TestEntriesOfOthers(t *testing.T) {
	server := kubetest.Shared(t)
	p := start(t, server, server.Namespace(t), server.Config())
	p.apply(shop)
	const waiting = "Accepted=True(Accepted) Programmed=False(Pending) ResolvedRefs=True(ResolvedRefs)"
	p.says(source.KindHTTPRoute, "cart", waiting, "")

	theirs := map[string]any{
		"controllerName": "example.com/other", "parentRef": map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "theirs"},
		"conditions": []any{map[string]any{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "theirs",
			"lastTransitionTime": "2020-01-02T03:04:05Z"}},
	}
	p.update(source.KindHTTPRoute, "cart", func(status map[string]any) { status["parents"] = append(status["parents"].([]any), theirs) })
	p.apply(noSuch)
	p.says(source.KindHTTPRoute, "cart", "Accepted=True(Accepted) Programmed=False(Pending) ResolvedRefs=False(BackendNotFound)", "")
	p.hasOnly(theirs, 1)

	// Who writes the list back as it was before us has undone what we wrote. The next write mends it.
	p.update(source.KindHTTPRoute, "cart", func(status map[string]any) { status["parents"] = []any{theirs} })
	p.apply(route)
	p.says(source.KindHTTPRoute, "cart", waiting, "")
	p.hasOnly(theirs, 1)

	p.remove(source.KindGateway, "edge")
	p.eventually("our entry is gone", func() error {
		if s := p.said(source.KindHTTPRoute, "cart"); len(s.Parents) != 1 {
			return fmt.Errorf("%+v", s.Parents)
		}
		return nil
	})
	p.hasOnly(theirs, 0)
}

// TestAGatewayOfAnother: what we said of a Gateway is taken back when its class is another controller's.
func TestAGatewayOfAnother(t *testing.T) {
	server := kubetest.Shared(t)
	p := start(t, server, server.Namespace(t), server.Config())
	p.apply(shop)
	p.says(source.KindGateway, "edge", "Accepted=True(ListenersNotValid) Programmed=False(Pending)", "")
	p.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/other}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: other, listeners: [{name: http, port: 8080, protocol: HTTP}]}
`)
	p.eventually("nothing of ours is left", func() error {
		if s := p.said(source.KindGateway, "edge"); len(s.Listeners) > 0 || len(s.Addresses) > 0 {
			return fmt.Errorf("%+v", s)
		}
		if s := p.said(source.KindHTTPRoute, "cart"); len(s.Parents) > 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if p.get(source.KindGatewayClass, "other").Object["status"] != nil {
		s := p.said(source.KindGatewayClass, "other")
		if len(s.Conditions) != 1 || s.Conditions[0].Status != metav1.ConditionUnknown {
			t.Errorf("the class of another says %+v", s)
		}
	}
}

// TestARestartWritesNothing: another process finds what it would say said, though its proxies come one by
// one; what was left undone is done.
func TestARestartWritesNothing(t *testing.T) {
	server := kubetest.Shared(t)
	ns := server.Namespace(t)
	first := start(t, server, ns, server.Config())
	first.apply(shop + "---\n" + fmt.Sprintf(staticTo, "Enforce"))
	first.connectEdge("envoy-1")
	objects := map[string]string{source.KindHTTPRoute: "cart", source.KindBalancePolicy: "cart", source.KindGateway: "edge", source.KindGatewayClass: "evenkeel"}
	wants := map[string]string{source.KindHTTPRoute: good, source.KindBalancePolicy: good, source.KindGateway: goodEdge, source.KindGatewayClass: "Accepted=True(Accepted)"}
	versions := map[string]string{}
	for kind, name := range objects {
		first.says(kind, name, wants[kind], "")
	}
	first.stop()
	// While nobody leads, a route is detached.
	first.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: late}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 80}]}]}
`)
	for kind, name := range objects {
		versions[kind] = first.get(kind, name).GetResourceVersion()
	}

	second := start(t, server, ns, server.Config())
	second.says(source.KindHTTPRoute, "late", "Accepted=True(Accepted) Programmed=False(Pending) ResolvedRefs=True(ResolvedRefs)", "")
	second.connectEdge("envoy-2")
	second.says(source.KindHTTPRoute, "late", good, "")
	for kind, name := range objects {
		want := versions[kind]
		if kind == source.KindGateway { // another route is attached to it
			second.eventually("the Gateway counts the late route", func() error {
				if s := second.said(kind, name); s.Listeners[0].AttachedRoutes != 2 {
					return fmt.Errorf("%+v", s.Listeners)
				}
				return nil
			})
			continue
		}
		if is := second.get(kind, name).GetResourceVersion(); is != want {
			t.Errorf("%s %s was written: %s, before %s", kind, name, is, want)
		}
	}
	if n := second.writes(source.KindHTTPRoute, written); n != 2 {
		t.Errorf("routes were written %v times, want the late one alone, twice", n)
	}
}

// TestAStatusIsNoChange: our writing does not come back to us as a change of objects.
func TestAStatusIsNoChange(t *testing.T) {
	server := kubetest.Shared(t)
	p := start(t, server, server.Namespace(t), server.Config())
	p.apply(shop + "---\n" + fmt.Sprintf(staticTo, "Enforce"))
	p.connectEdge("envoy-1")
	p.says(source.KindHTTPRoute, "cart", good, "")
	p.says(source.KindBalancePolicy, "cart", good, "")
	p.says(source.KindGateway, "edge", goodEdge, "")
	p.apply("apiVersion: v1\nkind: Service\nmetadata: {name: sentinel}\nspec: {ports: [{port: 1}]}\n")
	sentinel := source.Ref{Kind: source.KindService, Namespace: p.ns, Name: "sentinel"}
	p.eventually("the source has the sentinel", func() error {
		if all := p.updates.seen(); all[len(all)-1].Store.Get(sentinel) == nil {
			return fmt.Errorf("%d Updates", len(all))
		}
		return nil
	})
	for _, u := range p.updates.seen()[1:] {
		for _, c := range u.Changes {
			if c.Object.Namespace == p.ns && c.Op == source.Changed {
				t.Errorf("%v is no change of anything but the status", c)
			}
		}
	}
}

// TestAPermissionThatIsMissing is said once, and counted, and holds up no other kind.
func TestAPermissionThatIsMissing(t *testing.T) {
	server := kubetest.Shared(t)
	config := server.Config()
	config.Impersonate.UserName = "short-of-routes"
	p := start(t, server, server.Namespace(t), config)
	p.apply(role("short-of-routes", "gatewayclasses/status, gateways/status"))
	p.apply(shop)
	p.says(source.KindGateway, "edge", "Accepted=True(ListenersNotValid) Programmed=False(Pending)", "")
	p.eventually("two attempts", func() error {
		if n := p.writes(source.KindHTTPRoute, forbidden); n < 2 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	if n := p.log.count("statuses are not written: a permission is missing"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

func TestOnlyTheLeaderWrites(t *testing.T) {
	server := kubetest.Shared(t)
	var leads atomic.Bool
	var asked atomic.Int64
	p := startReplica(t, server, server.Namespace(t), server.Config(), func() bool { asked.Add(1); return leads.Load() })
	p.apply(shop)
	// follows waits until the Writer has known for a while that it does not lead.
	follows := func(what string) {
		t.Helper()
		p.eventually("the source has "+what, func() error {
			for _, u := range p.updates.seen() {
				if u.Store.Get(source.Ref{Kind: source.KindService, Namespace: p.ns, Name: what}) != nil {
					return nil
				}
			}
			return fmt.Errorf("%d Updates", len(p.updates.seen()))
		})
		start := asked.Load()
		p.eventually("the Writer asks whether it leads", func() error {
			if n := asked.Load() - start; n < 20 {
				return fmt.Errorf("%d times", n)
			}
			return nil
		})
	}
	follows("cart")
	if s := p.said(source.KindHTTPRoute, "cart"); !s.Empty() {
		t.Errorf("a follower wrote %+v", s)
	}
	leads.Store(true)
	p.says(source.KindHTTPRoute, "cart", "Accepted=True(Accepted) Programmed=False(Pending) ResolvedRefs=True(ResolvedRefs)", "")
	leads.Store(false)
	follows("cart")
	p.apply(noSuch + "---\napiVersion: v1\nkind: Service\nmetadata: {name: sentinel}\nspec: {ports: [{port: 1}]}\n")
	follows("sentinel")
	if s := p.said(source.KindHTTPRoute, "cart"); s.Parents[0].Conditions[0].ObservedGeneration != 1 {
		t.Errorf("one that leads no more wrote %+v", s)
	}
}
