package admit

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func (c *checks) gatewayClass(class *gatewayv1.GatewayClass) {
	path := field.NewPath("spec")
	if name := string(class.Spec.ControllerName); name == "" {
		c.required(path.Child("controllerName"), "must be given")
	} else if !controllerName.MatchString(name) || len(name) > 253 {
		c.invalid(path.Child("controllerName"), name, `must be a domain and a path, such as "evenkeel.io/controlplane"`)
	}
	if d := class.Spec.Description; d != nil && len(*d) > 64 {
		c.errs = append(c.errs, field.TooLong(path.Child("description"), *d, 64))
	}
	if ref := class.Spec.ParametersRef; ref != nil {
		c.objectName(path.Child("parametersRef", "name"), gatewayv1.ObjectName(ref.Name))
		c.group(path.Child("parametersRef", "group"), &ref.Group)
		c.kind(path.Child("parametersRef", "kind"), &ref.Kind)
		c.namespace(path.Child("parametersRef", "namespace"), ref.Namespace)
	}
}

func (c *checks) gateway(gateway *gatewayv1.Gateway) {
	path := field.NewPath("spec")
	c.objectName(path.Child("gatewayClassName"), gateway.Spec.GatewayClassName)
	c.listeners(path.Child("listeners"), gateway.Spec.Listeners)
	c.addresses(path.Child("addresses"), gateway.Spec.Addresses)
	if value, ok := gateway.Annotations["evenkeel.io/bind-address"]; ok {
		if _, err := netip.ParseAddr(value); err != nil {
			c.invalid(field.NewPath("metadata", "annotations").Key("evenkeel.io/bind-address"), value, "must be an IP address")
		}
	}
}

func (c *checks) listeners(path *field.Path, listeners []gatewayv1.Listener) {
	c.between(path, len(listeners), 1, 64)
	names := map[gatewayv1.SectionName]bool{}
	type socket struct {
		port     gatewayv1.PortNumber
		protocol gatewayv1.ProtocolType
		hostname gatewayv1.Hostname
	}
	sockets := map[socket]gatewayv1.SectionName{}
	for i := range listeners {
		at, l := path.Index(i), &listeners[i]
		if l.Name == "" {
			c.required(at.Child("name"), "must be given")
		} else {
			c.sectionName(at.Child("name"), &l.Name)
			if names[l.Name] {
				c.duplicate(at.Child("name"), l.Name)
			}
			names[l.Name] = true
		}
		c.port(at.Child("port"), l.Port)
		if l.Protocol == "" {
			c.required(at.Child("protocol"), "must be HTTP, HTTPS, TLS, TCP or UDP")
		} else if !protocolName.MatchString(string(l.Protocol)) || len(l.Protocol) > 255 {
			c.invalid(at.Child("protocol"), l.Protocol, "must be HTTP, HTTPS, TLS, TCP, UDP or a name with a domain before it")
		}
		s := socket{port: l.Port, protocol: l.Protocol}
		if l.Hostname != nil {
			s.hostname = *l.Hostname
			if *l.Hostname == "" {
				c.invalid(at.Child("hostname"), "", "must be a hostname; leave it out to match all")
			} else {
				c.hostname(at.Child("hostname"), string(*l.Hostname))
			}
		}
		if other, taken := sockets[s]; taken {
			c.invalid(at, field.OmitValueType{}, "must differ from listener "+string(other)+" in port, protocol or hostname")
		} else {
			sockets[s] = l.Name
		}
		c.listenerTLS(at, l)
		c.allowedRoutes(at.Child("allowedRoutes"), l.AllowedRoutes)
	}
}

func (c *checks) listenerTLS(at *field.Path, l *gatewayv1.Listener) {
	path := at.Child("tls")
	switch l.Protocol {
	case gatewayv1.TCPProtocolType, gatewayv1.UDPProtocolType:
		if l.Hostname != nil {
			c.invalid(at.Child("hostname"), *l.Hostname, "must be left out for the protocol "+string(l.Protocol))
		}
		fallthrough
	case gatewayv1.HTTPProtocolType:
		if l.TLS != nil {
			c.invalid(path, field.OmitValueType{}, "must be left out for the protocol "+string(l.Protocol))
		}
		return
	case gatewayv1.TLSProtocolType:
		if l.TLS == nil {
			c.required(path.Child("mode"), "must be Terminate or Passthrough for the protocol TLS")
		}
	}
	if l.TLS == nil {
		return
	}
	oneOf(c, path.Child("mode"), l.TLS.Mode, gatewayv1.TLSModeTerminate, gatewayv1.TLSModePassthrough)
	terminates := l.TLS.Mode == nil || *l.TLS.Mode == gatewayv1.TLSModeTerminate
	if l.Protocol == gatewayv1.HTTPSProtocolType && !terminates {
		c.invalid(path.Child("mode"), *l.TLS.Mode, "must be Terminate for the protocol HTTPS")
	}
	if terminates && len(l.TLS.CertificateRefs) == 0 && len(l.TLS.Options) == 0 {
		c.required(path.Child("certificateRefs"), "must name a certificate for the mode Terminate")
	}
	c.atMost(path.Child("certificateRefs"), len(l.TLS.CertificateRefs), 64)
	for i, ref := range l.TLS.CertificateRefs {
		at := path.Child("certificateRefs").Index(i)
		c.group(at.Child("group"), ref.Group)
		c.kind(at.Child("kind"), ref.Kind)
		c.objectName(at.Child("name"), ref.Name)
		c.namespace(at.Child("namespace"), ref.Namespace)
	}
}

func (c *checks) allowedRoutes(path *field.Path, allowed *gatewayv1.AllowedRoutes) {
	if allowed == nil {
		return
	}
	if n := allowed.Namespaces; n != nil {
		at := path.Child("namespaces")
		oneOf(c, at.Child("from"), n.From, gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSelector, gatewayv1.NamespacesFromSame)
		if n.Selector != nil {
			c.selector(at.Child("selector"), n.Selector)
		}
	}
	c.atMost(path.Child("kinds"), len(allowed.Kinds), 8)
	for i, kind := range allowed.Kinds {
		at := path.Child("kinds").Index(i)
		c.group(at.Child("group"), kind.Group)
		c.kind(at.Child("kind"), &kind.Kind)
	}
}

func (c *checks) addresses(path *field.Path, addresses []gatewayv1.GatewaySpecAddress) {
	c.atMost(path, len(addresses), 16)
	seen := map[string]bool{}
	for i, a := range addresses {
		at := path.Index(i).Child("value")
		switch {
		case a.Value == "":
			continue
		case *a.Type == gatewayv1.IPAddressType:
			if _, err := netip.ParseAddr(a.Value); err != nil {
				c.invalid(at, a.Value, "must be an IP address, or of the type Hostname")
			}
		case *a.Type == gatewayv1.HostnameAddressType:
			c.hostname(at, a.Value)
		}
		if key := string(*a.Type) + " " + a.Value; seen[key] {
			c.duplicate(at, a.Value)
		} else {
			seen[key] = true
		}
	}
}

func (c *checks) referenceGrant(grant *gatewayv1.ReferenceGrant) {
	from, to := field.NewPath("spec", "from"), field.NewPath("spec", "to")
	c.between(from, len(grant.Spec.From), 1, 16)
	for i, f := range grant.Spec.From {
		at := from.Index(i)
		c.group(at.Child("group"), &f.Group)
		c.kind(at.Child("kind"), &f.Kind)
		if f.Namespace == "" {
			c.required(at.Child("namespace"), "must be given")
		} else {
			c.namespace(at.Child("namespace"), &f.Namespace)
		}
	}
	c.between(to, len(grant.Spec.To), 1, 16)
	for i, t := range grant.Spec.To {
		at := to.Index(i)
		c.group(at.Child("group"), &t.Group)
		c.kind(at.Child("kind"), &t.Kind)
		if t.Name != nil {
			c.objectName(at.Child("name"), *t.Name)
		}
	}
}
