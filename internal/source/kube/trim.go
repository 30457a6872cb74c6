package kube

import (
	"maps"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

// trim is what is kept of an object: the fields that package catalog reads. What is repeated in many
// objects is one string or one bool for all of them. It may use parts of obj.
//
// The resource version is not kept: with it an object of which only the status changed would be another.
func trim(obj source.Object) source.Object {
	switch o := obj.(type) {
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: written(trimMeta(o, o.Labels), o)}
	case *corev1.Service:
		return trimService(o)
	case *discoveryv1.EndpointSlice:
		return trimSlice(o)
	case *corev1.Pod:
		return trimPod(o)
	case *gatewayv1.GatewayClass:
		return &gatewayv1.GatewayClass{ObjectMeta: written(trimMeta(o, nil), o), Spec: o.Spec}
	case *gatewayv1.Gateway:
		return &gatewayv1.Gateway{ObjectMeta: written(trimMeta(o, nil), o), Spec: o.Spec}
	case *gatewayv1.HTTPRoute:
		return &gatewayv1.HTTPRoute{ObjectMeta: written(trimMeta(o, nil), o), Spec: o.Spec}
	case *gatewayv1.ReferenceGrant:
		return &gatewayv1.ReferenceGrant{ObjectMeta: written(trimMeta(o, nil), o), Spec: o.Spec}
	case *v1alpha1.BalancePolicy:
		return &v1alpha1.BalancePolicy{ObjectMeta: written(trimMeta(o, nil), o), Spec: o.Spec}
	case *v1alpha1.LimitPolicy:
		return &v1alpha1.LimitPolicy{ObjectMeta: written(trimMeta(o, nil), o), Spec: o.Spec}
	}
	return obj
}

func trimMeta(o metav1.Object, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: shared(o.GetNamespace()), Name: o.GetName(), UID: o.GetUID(), Generation: o.GetGeneration(),
		CreationTimestamp: o.GetCreationTimestamp(), Labels: labels, Annotations: annotations(o.GetAnnotations()),
	}
}

// written adds who wrote the object last, and when, of all that managedFields tell.
func written(meta metav1.ObjectMeta, o metav1.Object) metav1.ObjectMeta {
	for _, f := range o.GetManagedFields() {
		if f.Subresource != "" || f.Time == nil || len(meta.ManagedFields) > 0 && f.Time.Before(meta.ManagedFields[0].Time) {
			continue
		}
		meta.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: shared(f.Manager), Time: f.Time}}
	}
	return meta
}

// annotations are those that say something to us.
func annotations(all map[string]string) map[string]string {
	var ours map[string]string
	for name, value := range all {
		if strings.HasPrefix(name, v1alpha1.GroupName+"/") || strings.HasPrefix(name, "prometheus.io/") {
			if ours == nil {
				ours = map[string]string{}
			}
			ours[shared(name)] = shared(value)
		}
	}
	return ours
}

func trimService(o *corev1.Service) *corev1.Service {
	s := &corev1.Service{ObjectMeta: written(trimMeta(o, nil), o)}
	s.Spec.Type = corev1.ServiceType(shared(string(o.Spec.Type)))
	for _, family := range o.Spec.IPFamilies {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPFamily(shared(string(family))))
	}
	s.Spec.Ports = make([]corev1.ServicePort, len(o.Spec.Ports))
	for i, p := range o.Spec.Ports {
		s.Spec.Ports[i] = corev1.ServicePort{
			Name: shared(p.Name), Protocol: corev1.Protocol(shared(string(p.Protocol))), Port: p.Port, AppProtocol: p.AppProtocol,
		}
	}
	return s
}

func trimSlice(o *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: trimMeta(o, nil)}
	if service, ok := o.Labels[discoveryv1.LabelServiceName]; ok {
		s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	}
	s.AddressType = discoveryv1.AddressType(shared(string(o.AddressType)))
	s.Ports = make([]discoveryv1.EndpointPort, len(o.Ports))
	for i, p := range o.Ports {
		s.Ports[i] = discoveryv1.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: p.Port}
	}
	s.Endpoints = trimEndpoints(o.Endpoints)
	return s
}

// trimEndpoints makes copies that share their memory: there are many endpoints, and they come and go together. What
// they were read into becomes garbage as a whole, where single strings of it would keep pages of it.
func trimEndpoints(all []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	var text strings.Builder
	addresses := 0
	for i := range all {
		addresses += len(all[i].Addresses)
		for _, address := range all[i].Addresses {
			text.WriteString(address)
		}
		if ref := all[i].TargetRef; ref != nil {
			text.WriteString(ref.Name)
		}
	}
	rest := text.String()
	next := func(like string) (copied string) {
		copied, rest = rest[:len(like)], rest[len(like):]
		return copied
	}
	var (
		kept      = make([]discoveryv1.Endpoint, len(all))
		addressed = make([]string, 0, addresses)
		zones     = make([]string, len(all))
		refs      = make([]corev1.ObjectReference, len(all))
	)
	for i := range all {
		e, k, first := &all[i], &kept[i], len(addressed)
		k.Conditions = discoveryv1.EndpointConditions{
			Ready: sharedBool(e.Conditions.Ready), Serving: sharedBool(e.Conditions.Serving), Terminating: sharedBool(e.Conditions.Terminating),
		}
		for _, address := range e.Addresses {
			addressed = append(addressed, next(address))
		}
		k.Addresses = addressed[first:len(addressed):len(addressed)]
		if e.Zone != nil {
			zones[i] = shared(*e.Zone)
			k.Zone = &zones[i]
		}
		if ref := e.TargetRef; ref != nil {
			refs[i] = corev1.ObjectReference{Kind: shared(ref.Kind), Namespace: shared(ref.Namespace), Name: next(ref.Name)}
			k.TargetRef = &refs[i]
		}
	}
	return kept
}

func trimPod(o *corev1.Pod) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: trimMeta(o, nil)}
	if o.Spec.Resources != nil {
		p.Spec.Resources = new(cpuOf(*o.Spec.Resources))
	}
	p.Spec.Containers = make([]corev1.Container, len(o.Spec.Containers))
	for i := range o.Spec.Containers {
		c := &o.Spec.Containers[i]
		kept := corev1.Container{Name: shared(c.Name), Resources: cpuOf(c.Resources)}
		for _, port := range c.Ports {
			kept.Ports = append(kept.Ports, corev1.ContainerPort{ContainerPort: port.ContainerPort})
		}
		p.Spec.Containers[i] = kept
	}
	p.Status.PodIP, p.Status.PodIPs = o.Status.PodIP, o.Status.PodIPs
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionStatus(shared(string(c.Status))), LastTransitionTime: c.LastTransitionTime}}
		}
	}
	for _, c := range o.Status.ContainerStatuses {
		kept := corev1.ContainerStatus{Name: shared(c.Name), RestartCount: c.RestartCount}
		if c.Resources != nil {
			kept.Resources = new(cpuOf(*c.Resources))
		}
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, kept)
	}
	return p
}

// cpuOf leaves out memory, and whatever else a Pod may ask for.
func cpuOf(r corev1.ResourceRequirements) corev1.ResourceRequirements {
	only := func(list corev1.ResourceList) corev1.ResourceList {
		kept := maps.Clone(list)
		maps.DeleteFunc(kept, func(name corev1.ResourceName, _ resource.Quantity) bool { return name != corev1.ResourceCPU })
		if len(kept) == 0 {
			return nil
		}
		return kept
	}
	return corev1.ResourceRequirements{Requests: only(r.Requests), Limits: only(r.Limits)}
}

func shared(s string) string { return unique.Make(s).Value() }

var isTrue, isFalse = true, false

func sharedBool(b *bool) *bool {
	switch {
	case b == nil:
		return nil
	case *b:
		return &isTrue
	}
	return &isFalse
}
