package admit

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *checks) service(service *corev1.Service) {
	path := field.NewPath("spec")
	spec := &service.Spec
	oneOf(c, path.Child("type"), &spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	external := spec.Type == corev1.ServiceTypeExternalName
	if external && spec.ExternalName == "" {
		c.required(path.Child("externalName"), "must be given for the type ExternalName")
	}
	if spec.ClusterIP != "" && spec.ClusterIP != corev1.ClusterIPNone {
		if _, err := netip.ParseAddr(spec.ClusterIP); err != nil {
			c.invalid(path.Child("clusterIP"), spec.ClusterIP, `must be an IP address or "None"`)
		}
	}
	c.errs = append(c.errs, metavalidation.ValidateLabels(spec.Selector, path.Child("selector"))...)
	for i := range spec.IPFamilies {
		oneOf(c, path.Child("ipFamilies").Index(i), &spec.IPFamilies[i], corev1.IPv4Protocol, corev1.IPv6Protocol)
	}
	if len(spec.Ports) == 0 && !external && spec.ClusterIP != corev1.ClusterIPNone {
		c.required(path.Child("ports"), "must have at least 1")
	}
	c.servicePorts(path.Child("ports"), spec.Ports)
}

func (c *checks) servicePorts(path *field.Path, ports []corev1.ServicePort) {
	type number struct {
		port     int32
		protocol corev1.Protocol
	}
	names, numbers := map[string]bool{}, map[number]bool{}
	for i := range ports {
		at, p := path.Index(i), &ports[i]
		if p.Name == "" && len(ports) > 1 {
			c.required(at.Child("name"), "must be given when there are several ports")
		}
		c.portName(at.Child("name"), p.Name, names)
		c.port(at.Child("port"), p.Port)
		oneOf(c, at.Child("protocol"), &p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if n := (number{p.Port, p.Protocol}); numbers[n] {
			c.duplicate(at, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		} else {
			numbers[n] = true
		}
		if p.TargetPort.Type == intstr.String {
			c.format(at.Child("targetPort"), p.TargetPort.StrVal, validation.IsValidPortName)
		} else if p.TargetPort.IntVal != p.Port {
			c.port(at.Child("targetPort"), p.TargetPort.IntVal)
		}
		if p.AppProtocol != nil {
			c.format(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName)
		}
	}
}

// portName checks the name of one of several ports; "" is a name as well, of at most one of them.
func (c *checks) portName(path *field.Path, name string, taken map[string]bool) {
	if name != "" {
		c.format(path, name, validation.IsDNS1123Label)
	}
	if taken[name] && name != "" {
		c.duplicate(path, name)
	}
	taken[name] = true
}

func (c *checks) endpointSlice(slice *discoveryv1.EndpointSlice) {
	switch slice.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	case discoveryv1.AddressTypeFQDN:
		c.invalid(field.NewPath("addressType"), slice.AddressType, "must be IPv4 or IPv6: load can be shared among addresses, not among what a name resolves to")
	case "":
		c.required(field.NewPath("addressType"), "must be IPv4 or IPv6")
	default:
		c.errs = append(c.errs, field.NotSupported(field.NewPath("addressType"), slice.AddressType,
			[]discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}))
	}
	path := field.NewPath("endpoints")
	c.atMost(path, len(slice.Endpoints), 1000)
	for i := range slice.Endpoints {
		at := path.Index(i).Child("addresses")
		c.between(at, len(slice.Endpoints[i].Addresses), 1, 100)
		for j, address := range slice.Endpoints[i].Addresses {
			c.endpointAddress(at.Index(j), address, slice.AddressType)
		}
	}
	path = field.NewPath("ports")
	c.atMost(path, len(slice.Ports), 20000)
	names := map[string]bool{}
	for i := range slice.Ports {
		at, p := path.Index(i), &slice.Ports[i]
		if *p.Name == "" && names[""] {
			c.duplicate(at.Child("name"), "")
		}
		c.portName(at.Child("name"), *p.Name, names)
		oneOf(c, at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		c.optionalPort(at.Child("port"), p.Port)
	}
}

// endpointAddress is what an API server takes, and loopback, which in a directory is a backend on the
// same machine.
func (c *checks) endpointAddress(path *field.Path, address string, family discoveryv1.AddressType) {
	ip, err := netip.ParseAddr(address)
	switch {
	case family == discoveryv1.AddressTypeIPv4 && (err != nil || !ip.Is4()):
		c.invalid(path, address, "must be an IPv4 address, without port")
	case family == discoveryv1.AddressTypeIPv6 && (err != nil || !ip.Is6() || ip.Is4In6() || ip.Zone() != ""):
		c.invalid(path, address, "must be an IPv6 address, without port, brackets or zone")
	case err == nil && (ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast()):
		c.invalid(path, address, "must be the address of one host: not unspecified, link-local or multicast")
	}
}

func (c *checks) pod(pod *corev1.Pod) {
	path := field.NewPath("spec", "containers")
	if len(pod.Spec.Containers) == 0 {
		c.required(path, "must have at least 1")
	}
	names := map[string]bool{}
	for i := range pod.Spec.Containers {
		at, container := path.Index(i), &pod.Spec.Containers[i]
		if container.Name == "" {
			c.required(at.Child("name"), "must be given")
		}
		c.portName(at.Child("name"), container.Name, names)
		for j, p := range container.Ports {
			c.port(at.Child("ports").Index(j).Child("containerPort"), p.ContainerPort)
			if p.Name != "" {
				c.format(at.Child("ports").Index(j).Child("name"), p.Name, validation.IsValidPortName)
			}
		}
		c.resources(at.Child("resources"), container.Resources)
	}
	status := field.NewPath("status")
	if pod.Status.PodIP != "" {
		if _, err := netip.ParseAddr(pod.Status.PodIP); err != nil {
			c.invalid(status.Child("podIP"), pod.Status.PodIP, "must be an IP address")
		}
	}
	for i, s := range pod.Status.ContainerStatuses {
		if s.RestartCount < 0 {
			c.invalid(status.Child("containerStatuses").Index(i).Child("restartCount"), s.RestartCount, "must be 0 or more")
		}
	}
}

func (c *checks) resources(path *field.Path, r corev1.ResourceRequirements) {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request, limit := r.Requests[name], r.Limits[name]
		if request.Sign() < 0 {
			c.invalid(path.Child("requests").Key(string(name)), request.String(), "must be 0 or more")
		}
		if limit.Sign() < 0 {
			c.invalid(path.Child("limits").Key(string(name)), limit.String(), "must be 0 or more")
		}
		if _, limited := r.Limits[name]; limited && request.Cmp(limit) > 0 {
			c.invalid(path.Child("requests").Key(string(name)), request.String(), "must be at most the limit, "+limit.String())
		}
	}
}
