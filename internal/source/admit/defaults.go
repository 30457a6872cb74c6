package admit

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// fill sets *p if it is nil.
func fill[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func defaultGateway(gateway *gatewayv1.Gateway) {
	for i := range gateway.Spec.Listeners {
		l := &gateway.Spec.Listeners[i]
		fill(&l.AllowedRoutes, gatewayv1.AllowedRoutes{})
		fill(&l.AllowedRoutes.Namespaces, gatewayv1.RouteNamespaces{})
		fill(&l.AllowedRoutes.Namespaces.From, gatewayv1.NamespacesFromSame)
		for j := range l.AllowedRoutes.Kinds {
			fill(&l.AllowedRoutes.Kinds[j].Group, gatewayv1.GroupName)
		}
		if l.TLS != nil {
			fill(&l.TLS.Mode, gatewayv1.TLSModeTerminate)
			for j := range l.TLS.CertificateRefs {
				fill(&l.TLS.CertificateRefs[j].Group, "")
				fill(&l.TLS.CertificateRefs[j].Kind, "Secret")
			}
		}
	}
	for i := range gateway.Spec.Addresses {
		fill(&gateway.Spec.Addresses[i].Type, gatewayv1.IPAddressType)
	}
}

func defaultHTTPRoute(route *gatewayv1.HTTPRoute) {
	for i := range route.Spec.ParentRefs {
		fill(&route.Spec.ParentRefs[i].Group, gatewayv1.GroupName)
		fill(&route.Spec.ParentRefs[i].Kind, "Gateway")
	}
	if route.Spec.Rules == nil {
		route.Spec.Rules = []gatewayv1.HTTPRouteRule{{}}
	}
	for i := range route.Spec.Rules {
		rule := &route.Spec.Rules[i]
		if len(rule.Matches) == 0 {
			rule.Matches = []gatewayv1.HTTPRouteMatch{{}}
		}
		for j := range rule.Matches {
			m := &rule.Matches[j]
			fill(&m.Path, gatewayv1.HTTPPathMatch{})
			fill(&m.Path.Type, gatewayv1.PathMatchPathPrefix)
			fill(&m.Path.Value, "/")
			for k := range m.Headers {
				fill(&m.Headers[k].Type, gatewayv1.HeaderMatchExact)
			}
			for k := range m.QueryParams {
				fill(&m.QueryParams[k].Type, gatewayv1.QueryParamMatchExact)
			}
		}
		defaultFilters(rule.Filters)
		for j := range rule.BackendRefs {
			b := &rule.BackendRefs[j]
			defaultBackend(&b.BackendObjectReference)
			fill(&b.Weight, 1)
			defaultFilters(b.Filters)
		}
	}
}

func defaultFilters(filters []gatewayv1.HTTPRouteFilter) {
	for i := range filters {
		if r := filters[i].RequestRedirect; r != nil {
			fill(&r.StatusCode, 302)
		}
		if m := filters[i].RequestMirror; m != nil {
			defaultBackend(&m.BackendRef)
			if m.Fraction != nil {
				fill(&m.Fraction.Denominator, 100)
			}
		}
	}
}

func defaultBackend(ref *gatewayv1.BackendObjectReference) {
	fill(&ref.Group, "")
	fill(&ref.Kind, "Service")
}

func defaultService(service *corev1.Service) {
	if service.Spec.Type == "" {
		service.Spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

func defaultEndpointSlice(slice *discoveryv1.EndpointSlice) {
	for i := range slice.Ports {
		fill(&slice.Ports[i].Name, "")
		fill(&slice.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// defaultPod gives a container that has a limit and no request the limit as its request.
func defaultPod(pod *corev1.Pod) {
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		for j := range container.Ports {
			if container.Ports[j].Protocol == "" {
				container.Ports[j].Protocol = corev1.ProtocolTCP
			}
		}
		for name, limit := range container.Resources.Limits {
			if _, ok := container.Resources.Requests[name]; ok {
				continue
			}
			if container.Resources.Requests == nil {
				container.Resources.Requests = corev1.ResourceList{}
			}
			container.Resources.Requests[name] = limit.DeepCopy()
		}
	}
}
