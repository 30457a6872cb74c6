package apply

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/status"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// large is a Gateway with n routes to n Services, and ten proxies that took everything.
func large(n int) status.Input {
	store := source.NewStore()
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Generation: 1}
	}
	store.Add(&gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "evenkeel"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: catalog.ControllerName}})
	store.Add(&gatewayv1.Gateway{ObjectMeta: meta("edge"), Spec: gatewayv1.GatewaySpec{
		GatewayClassName: "evenkeel", Listeners: []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
	}})
	for i := range n {
		name := fmt.Sprintf("s%d", i)
		store.Add(&corev1.Service{ObjectMeta: meta(name), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}})
		route := &gatewayv1.HTTPRoute{ObjectMeta: meta(name)}
		route.Spec.Hostnames = []gatewayv1.Hostname{gatewayv1.Hostname(name + ".example.com")}
		route.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: "edge"}}
		backend := gatewayv1.HTTPBackendRef{}
		backend.Name, backend.Port = gatewayv1.ObjectName(name), new(gatewayv1.PortNumber(80))
		route.Spec.Rules = []gatewayv1.HTTPRouteRule{{BackendRefs: []gatewayv1.HTTPBackendRef{backend}}}
		store.Add(route)
	}
	in := status.Input{Store: store, Catalog: catalog.Build(nil, store, catalog.Options{})}
	for i := range 10 {
		p := xds.Proxy{Node: fmt.Sprintf("envoy-%d", i), Fleet: "shop/edge", Types: map[translate.Type]xds.TypeState{}}
		for _, t := range translate.Types {
			p.Types[t] = xds.TypeState{State: xds.Synced}
		}
		in.Proxies = append(in.Proxies, p)
	}
	return in
}

// BenchmarkLook is what a leader does at most once a second, where something changes that these objects do
// not feel. Where nothing does it looks no further than that.
func BenchmarkLook(b *testing.B) {
	in := large(1000)
	s := newSchedule(usual)
	for kind := range resources {
		s.kinds[kind] = true
	}
	news := status.NewNews()
	var kinds status.Kinds
	b.ReportAllocs()
	for b.Loop() {
		objects := status.Conditions(in)
		s.wants(time.Now(), kinds.Stanzas(in, objects))
		news.Of(objects)
	}
}
