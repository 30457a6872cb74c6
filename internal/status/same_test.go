package status

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// TestSame: an endpoint that comes or goes, and that a proxy is sent it, make no status of an object; what
// does is never taken for the same.
func TestSame(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "cart"}
	slice := func(addresses ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}}}
		s.Labels = map[string]string{discoveryv1.LabelServiceName: "cart"}
		for _, a := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
		}
		return s
	}
	route := func(backend string) *gatewayv1.HTTPRoute {
		r := &gatewayv1.HTTPRoute{ObjectMeta: meta}
		r.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: "edge"}}
		ref := gatewayv1.HTTPBackendRef{}
		ref.Name, ref.Port = gatewayv1.ObjectName(backend), new(gatewayv1.PortNumber(80))
		r.Spec.Rules = []gatewayv1.HTTPRouteRule{{BackendRefs: []gatewayv1.HTTPBackendRef{ref}}}
		return r
	}
	gateway := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "edge"}}
	gateway.Spec.GatewayClassName = "evenkeel"
	gateway.Spec.Listeners = []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}}
	class := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "evenkeel"}}
	class.Spec.ControllerName = catalog.ControllerName
	service := &corev1.Service{ObjectMeta: meta}
	service.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}}
	policy := &v1alpha1.BalancePolicy{ObjectMeta: meta, Spec: v1alpha1.DefaultBalance()}
	policy.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReference{{Kind: "Service", Name: "cart"}}

	connected := func(eds xds.SyncState) []xds.Proxy {
		return []xds.Proxy{{Node: "envoy-1", Fleet: "shop/edge", Types: map[translate.Type]xds.TypeState{
			translate.RDS: {State: xds.Synced}, translate.EDS: {State: eds},
		}}}
	}
	for name, test := range map[string]struct {
		change func(*source.Editor)
		eds    xds.SyncState
		policy bool
		same   bool
	}{
		"nothing":                            {eds: xds.Synced, same: true},
		"an endpoint comes":                  {change: func(e *source.Editor) { e.Put(slice("10.0.0.1", "10.0.0.2")) }, eds: xds.Synced, same: true},
		"an endpoint is being sent":          {eds: xds.Pending, same: true},
		"an endpoint is being sent, weighed": {eds: xds.Pending, policy: true},
		"endpoints are refused":              {eds: xds.Nacked},
		"an endpoint is wrong":               {change: func(e *source.Editor) { e.Put(slice("10.0.0.1", "cart")) }, eds: xds.Synced},
		"a route changes":                    {change: func(e *source.Editor) { e.Put(route("lost")) }, eds: xds.Synced},
		"a service goes":                     {change: func(e *source.Editor) { e.Remove(source.RefOf(service)) }, eds: xds.Synced},
		"a policy comes":                     {change: func(e *source.Editor) { e.Put(policy) }, eds: xds.Synced},
		"something is wrong":                 {change: func(e *source.Editor) { e.SetProblems([]source.Problem{{File: "a.yaml"}}) }, eds: xds.Synced},
	} {
		t.Run(name, func(t *testing.T) {
			editor := source.NewEditor()
			for _, o := range []source.Object{class, gateway, service, slice("10.0.0.1"), route("cart")} {
				editor.Put(o)
			}
			if test.policy {
				editor.Put(policy)
			}
			store := editor.Store()
			before := Input{Store: store, Catalog: catalog.Build(nil, store, catalog.Options{}), Proxies: connected(xds.Synced)}
			if !before.Same(before) {
				t.Error("it is not the same as itself")
			}
			if test.change != nil {
				test.change(editor)
			}
			store = editor.Store()
			after := Input{Store: store, Catalog: catalog.Build(before.Catalog, store, catalog.Options{}), Proxies: connected(test.eds)}
			if same := after.Same(before); same != test.same {
				t.Errorf("same is %v, want %v", same, test.same)
			}
		})
	}
}
