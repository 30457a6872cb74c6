package catalog

import (
	"fmt"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/source"
)

// fleetOf is a Store of a Gateway with a route to each of n Services of 10 Pods.
func fleetOf(n int) *source.Store {
	s := &source.Store{
		GatewayClasses: map[types.NamespacedName]*gatewayv1.GatewayClass{},
		Gateways:       map[types.NamespacedName]*gatewayv1.Gateway{},
		HTTPRoutes:     map[types.NamespacedName]*gatewayv1.HTTPRoute{},
		Services:       map[types.NamespacedName]*corev1.Service{},
		EndpointSlices: map[types.NamespacedName]*discoveryv1.EndpointSlice{},
		Pods:           map[types.NamespacedName]*corev1.Pod{},
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	named := func(name string) types.NamespacedName {
		return types.NamespacedName{Namespace: "shop", Name: name}
	}
	s.GatewayClasses[types.NamespacedName{Name: "evenkeel"}] = &gatewayv1.GatewayClass{Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName}}
	s.Gateways[named("edge")] = &gatewayv1.Gateway{ObjectMeta: meta("edge"), Spec: gatewayv1.GatewaySpec{
		GatewayClassName: "evenkeel",
		Listeners:        []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
	}}
	for i := range n {
		name := fmt.Sprintf("service-%d", i)
		s.Services[named(name)] = &corev1.Service{ObjectMeta: meta(name), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		route := &gatewayv1.HTTPRoute{ObjectMeta: meta(name)}
		route.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: "edge"}}
		route.Spec.Hostnames = []gatewayv1.Hostname{gatewayv1.Hostname(name + ".example.com")}
		route.Spec.Rules = []gatewayv1.HTTPRouteRule{{BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{
			BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(name), Port: new(int32(80))},
		}}}}}
		s.HTTPRoutes[named(name)] = route
		slice := &discoveryv1.EndpointSlice{ObjectMeta: meta(name + "-x"), AddressType: discoveryv1.AddressTypeIPv4}
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		slice.Ports = []discoveryv1.EndpointPort{{Port: new(int32(8080))}}
		for e := range 10 {
			pod := fmt.Sprintf("%s-%d", name, e)
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.%d.%d.%d", i/250, i%250, e+1)},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: pod},
			})
			s.Pods[named(pod)] = &corev1.Pod{ObjectMeta: meta(pod), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
		}
		s.EndpointSlices[named(name+"-x")] = slice
	}
	return s
}

// BenchmarkBuild is a Build of 1000 Services with 10 endpoints each, after the change that it names.
func BenchmarkBuild(b *testing.B) {
	store := fleetOf(1000)
	first := Build(nil, store, Options{})
	slice := types.NamespacedName{Namespace: "shop", Name: "service-500-x"}
	oneSlice := func() *source.Store {
		next := *store
		next.EndpointSlices = maps.Clone(store.EndpointSlices)
		changed := store.EndpointSlices[slice].DeepCopy()
		changed.Endpoints = changed.Endpoints[:9]
		next.EndpointSlices[slice] = changed
		return &next
	}
	onePod := func() *source.Store {
		next := *store
		next.Pods = maps.Clone(store.Pods)
		pod := types.NamespacedName{Namespace: "shop", Name: "service-500-5"}
		changed := store.Pods[pod].DeepCopy()
		changed.UID = "new"
		next.Pods[pod] = changed
		return &next
	}
	oneRoute := func() *source.Store {
		next := *store
		next.HTTPRoutes = maps.Clone(store.HTTPRoutes)
		name := types.NamespacedName{Namespace: "shop", Name: "service-500"}
		changed := store.HTTPRoutes[name].DeepCopy()
		changed.Spec.Hostnames = []gatewayv1.Hostname{"other.example.com"}
		next.HTTPRoutes[name] = changed
		return &next
	}
	for _, run := range []struct {
		name  string
		prev  *Catalog
		store *source.Store
	}{{"everything", nil, store}, {"nothing", first, store}, {"slice", first, oneSlice()}, {"pod", first, onePod()}, {"route", first, oneRoute()}} {
		b.Run(run.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Build(run.prev, run.store, Options{})
			}
		})
	}
}
