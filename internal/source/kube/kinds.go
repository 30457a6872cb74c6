package kube

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

// kind is a kind of objects that is watched.
type kind struct {
	name     string // as in a source.Ref
	resource schema.GroupVersionResource
	object   source.Object
	list     func() runtime.Object
	// selector of fields, "" for all.
	selector string
	// install says what to apply where the API server does not have the kind, "" for one that every has.
	install string
}

const (
	installGateway  = "apply the CRDs of Gateway API v1.6 or later, channel standard"
	installEvenkeel = "apply the CRDs in manifests/crds"
)

var gateway = schema.GroupVersion(gatewayv1.GroupVersion)

// kinds are those that are always watched; pods only while a policy needs them.
var (
	kinds = []*kind{
		{name: source.KindNamespace, resource: corev1.SchemeGroupVersion.WithResource("namespaces"),
			object: &corev1.Namespace{}, list: func() runtime.Object { return &corev1.NamespaceList{} }},
		{name: source.KindService, resource: corev1.SchemeGroupVersion.WithResource("services"),
			object: &corev1.Service{}, list: func() runtime.Object { return &corev1.ServiceList{} }},
		{name: source.KindEndpointSlice, resource: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"),
			object: &discoveryv1.EndpointSlice{}, list: func() runtime.Object { return &discoveryv1.EndpointSliceList{} }},
		{name: source.KindGatewayClass, resource: gateway.WithResource("gatewayclasses"), install: installGateway,
			object: &gatewayv1.GatewayClass{}, list: func() runtime.Object { return &gatewayv1.GatewayClassList{} }},
		{name: source.KindGateway, resource: gateway.WithResource("gateways"), install: installGateway,
			object: &gatewayv1.Gateway{}, list: func() runtime.Object { return &gatewayv1.GatewayList{} }},
		{name: source.KindHTTPRoute, resource: gateway.WithResource("httproutes"), install: installGateway,
			object: &gatewayv1.HTTPRoute{}, list: func() runtime.Object { return &gatewayv1.HTTPRouteList{} }},
		{name: source.KindReferenceGrant, resource: gateway.WithResource("referencegrants"), install: installGateway,
			object: &gatewayv1.ReferenceGrant{}, list: func() runtime.Object { return &gatewayv1.ReferenceGrantList{} }},
		{name: source.KindBalancePolicy, resource: v1alpha1.GroupVersion.WithResource("balancepolicies"), install: installEvenkeel,
			object: &v1alpha1.BalancePolicy{}, list: func() runtime.Object { return &v1alpha1.BalancePolicyList{} }},
		{name: source.KindLimitPolicy, resource: v1alpha1.GroupVersion.WithResource("limitpolicies"), install: installEvenkeel,
			object: &v1alpha1.LimitPolicy{}, list: func() runtime.Object { return &v1alpha1.LimitPolicyList{} }},
	}
	pods = &kind{name: source.KindPod, resource: corev1.SchemeGroupVersion.WithResource("pods"),
		object: &corev1.Pod{}, list: func() runtime.Object { return &corev1.PodList{} },
		selector: "status.phase!=Succeeded,status.phase!=Failed"} // what has ended serves nobody
)

// needPods tells whether a policy weighs endpoints, which takes what their Pods say: annotations, CPU
// requests and limits, since when they are ready, and that an address to scrape is theirs.
func needPods(store *source.Store) bool {
	for _, p := range store.BalancePolicies {
		if p.Spec.Mode == nil || *p.Spec.Mode != v1alpha1.ModeEqual {
			return true
		}
	}
	return false
}

// scheme knows the types of the kinds and those that every API server speaks in.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, gatewayv1.Install, v1alpha1.AddToScheme} {
		utilruntime.Must(add(s))
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}()
