package catalog

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/source"
)

// serviceName is the name of a Service's port, as clusters and endpoints are named.
func serviceName(service types.NamespacedName, port int32) string {
	return service.Namespace + "/" + service.Name + ":" + strconv.Itoa(int(port))
}

// resolveRoute finds the backends of each rule. All of a rule that cannot be resolved leave their part
// of the requests to a 500.
func (r *router) resolveRoute(route *parsedRoute) [][]Backend {
	all := make([][]Backend, len(route.rules))
	for i := range route.rules {
		for _, b := range route.rules[i].backends {
			service, _ := r.resolve(route.object.Namespace, b.field, &b.ref)
			all[i] = append(all[i], Backend{
				Service: service, Weight: b.weight,
				RequestHeaders: b.requestHeaders, ResponseHeaders: b.responseHeaders,
			})
		}
	}
	return all
}

// judgeBackends says whether the route's references resolve, those of weight 0 included.
func (r *router) judgeBackends(object *gatewayv1.HTTPRoute) Condition {
	var first *refusal
	more := 0
	for i := range object.Spec.Rules {
		for j := range object.Spec.Rules[i].BackendRefs {
			ref := &object.Spec.Rules[i].BackendRefs[j].BackendObjectReference
			_, why := r.resolve(object.Namespace, fmt.Sprintf("spec.rules[%d].backendRefs[%d]", i, j), ref)
			switch {
			case why == nil:
			case first == nil:
				first = why
			default:
				more++
			}
		}
	}
	if first == nil {
		return resolved()
	}
	c := first.condition()
	c.Message += "; its part of the requests is answered with 500"
	if more > 0 {
		c.Message += fmt.Sprintf("; so it is with %d more", more)
	}
	return c
}

// resolve finds the Service that a backendRef names. Permission comes before all looking: whoever may
// not refer to a Service must not learn whether it exists.
func (r *router) resolve(namespace, field string, ref *gatewayv1.BackendObjectReference) (service string, why *refusal) {
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != source.KindService {
		return "", refuse(ReasonInvalidKind, field+".kind", "%s; expected a Service of the core group", kindOf(ref))
	}
	name := types.NamespacedName{Namespace: namespace, Name: string(ref.Name)}
	if ref.Namespace != nil && *ref.Namespace != "" {
		name.Namespace = string(*ref.Namespace)
	}
	if !r.now.grants.permits(gatewayv1.GroupName, source.KindHTTPRoute, namespace, name) {
		return "", refuse(ReasonRefNotPermitted, field+".namespace",
			"no ReferenceGrant in namespace %s permits HTTPRoutes of namespace %s to refer to its Service %s", name.Namespace, namespace, name.Name)
	}
	object := r.store.Services[name]
	if object == nil {
		return "", refuse(ReasonBackendNotFound, field+".name", "Service %s does not exist", name)
	}
	if object.Spec.Type == corev1.ServiceTypeExternalName {
		return "", refuse(ReasonBackendNotFound, field+".name", "Service %s is an ExternalName; expected one with endpoints", name)
	}
	if ref.Port == nil {
		return "", refuse(ReasonBackendNotFound, field+".port", "is missing; expected %s", portsOf(object))
	}
	why = refuse(ReasonBackendNotFound, field+".port", "Service %s has no port %d; expected %s", name, *ref.Port, portsOf(object))
	for i := range object.Spec.Ports {
		port := &object.Spec.Ports[i]
		if port.Port != *ref.Port {
			continue
		}
		if !isTCP(port.Protocol) {
			why = refuse(ReasonUnsupportedProtocol, field+".port", "port %d of Service %s is %s; expected TCP", port.Port, name, port.Protocol)
			continue
		}
		if speaksTLS(port.AppProtocol) {
			return "", refuse(ReasonUnsupportedProtocol, field+".port", "port %d of Service %s has the appProtocol %s; expected one without TLS", port.Port, name, *port.AppProtocol)
		}
		return serviceName(name, port.Port), nil
	}
	return "", why
}

func isTCP(p corev1.Protocol) bool { return p == "" || p == corev1.ProtocolTCP }

// The appProtocols of Kubernetes and IANA that we act on (KEP-3726).
func speaksHTTP2(appProtocol *string) bool {
	return appProtocol != nil && *appProtocol == "kubernetes.io/h2c"
}

func speaksTLS(appProtocol *string) bool {
	return appProtocol != nil && (*appProtocol == "https" || *appProtocol == "kubernetes.io/wss")
}

func kindOf(ref *gatewayv1.BackendObjectReference) string {
	var parts []string
	if ref.Group != nil && *ref.Group != "" {
		parts = append(parts, string(*ref.Group))
	}
	if ref.Kind != nil {
		parts = append(parts, string(*ref.Kind))
	} else {
		parts = append(parts, source.KindService)
	}
	return strings.Join(parts, "/")
}

func portsOf(s *corev1.Service) string {
	var ports []string
	for i := range s.Spec.Ports {
		ports = append(ports, strconv.Itoa(int(s.Spec.Ports[i].Port)))
	}
	if len(ports) == 0 {
		return "a Service with ports"
	}
	return "one of " + strings.Join(ports, ", ")
}
