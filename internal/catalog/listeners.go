package catalog

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/source"
)

// BindAddressAnnotation of a Gateway is the address that its listeners bind, instead of spec.addresses.
const BindAddressAnnotation = "evenkeel.io/bind-address"

// gateway is a Gateway of ours, read.
type gateway struct {
	object    *gatewayv1.Gateway
	accepted  bool
	address   string
	listeners []*listener // those that work
}

// listener is a listener of a Gateway, read.
type listener struct {
	name            string
	hostname        string // anyHost for none
	port            uint32
	takesHTTPRoutes bool
	from            gatewayv1.FromNamespaces
	selector        labels.Selector
}

func (g *gateway) name() string { return nameOf(g.object).String() }

func (g *gateway) ref() source.Ref { return gatewayRef(nameOf(g.object)) }

// parseGateway reads a Gateway and gives a verdict per listener. A listener of a protocol that we do
// not serve is refused by itself. Anything malformed refuses the Gateway: what is returned then are the
// sound listeners, for a Gateway that was never accepted before; none if its address is not sound, so
// that nothing is bound where it was not meant to be.
func parseGateway(object *gatewayv1.Gateway) (g *gateway, verdicts []Verdict, refused *refusal) {
	g = &gateway{object: object}
	names := map[string]bool{}
	for i := range object.Spec.Listeners {
		spec := &object.Spec.Listeners[i]
		field := fmt.Sprintf("spec.listeners[%d]", i)
		v := Verdict{Object: g.ref(), Section: string(spec.Name), Accepted: accepted(), ResolvedRefs: resolved()}
		l, kinds, why := parseListener(field, spec)
		if kinds != nil {
			v.ResolvedRefs = kinds.condition()
		}
		if why == nil && (spec.Name == "" || names[l.name]) {
			why = refuse(ReasonUnsupportedValue, field+".name", "%.80q; expected a name that no other listener has", spec.Name)
		}
		malformed := why != nil && why.Reason == ReasonUnsupportedValue
		if why == nil {
			why = g.conflict(field, l)
		}
		names[string(spec.Name)] = true
		if why != nil {
			v.Accepted = why.condition()
		} else {
			g.listeners = append(g.listeners, l)
		}
		if malformed && refused == nil {
			refused = why
		}
		verdicts = append(verdicts, v)
	}
	var why *refusal
	if g.address, why = bindAddress(object); why != nil {
		g.listeners, refused = nil, why
	}
	g.accepted = refused == nil
	return g, verdicts, refused
}

// conflict says why a listener cannot stand beside those before it: of two for the same hosts the
// first one listed has them.
func (g *gateway) conflict(field string, l *listener) *refusal {
	for _, other := range g.listeners {
		if other.port == l.port && other.hostname == l.hostname {
			return refuse(ReasonHostnameConflict, field+".hostname", "port %d and hostname %s are those of listener %.80q already", l.port, l.hostname, other.name)
		}
	}
	return nil
}

// parseListener reads a listener; kinds is what is wrong with the route kinds it names, which does not
// keep it from working.
func parseListener(field string, spec *gatewayv1.Listener) (l *listener, kinds, why *refusal) {
	l = &listener{name: string(spec.Name), hostname: anyHost, takesHTTPRoutes: true, from: gatewayv1.NamespacesFromSame}
	if spec.Protocol != gatewayv1.HTTPProtocolType {
		return nil, nil, refuse(ReasonUnsupportedProtocol, field+".protocol", "%.80q; expected HTTP", spec.Protocol)
	}
	if spec.Port < 1 || spec.Port > 65535 {
		return nil, nil, unsupported(field+".port", "%d; expected 1 to 65535", spec.Port)
	}
	l.port = uint32(spec.Port)
	if spec.Hostname != nil && *spec.Hostname != "" {
		l.hostname = string(*spec.Hostname)
		if problem := hostnameProblem(l.hostname); problem != "" {
			return nil, nil, unsupported(field+".hostname", "%.80q %s", l.hostname, problem)
		}
	}
	if spec.AllowedRoutes == nil {
		return l, nil, nil
	}
	if wanted := spec.AllowedRoutes.Kinds; len(wanted) > 0 {
		l.takesHTTPRoutes = false
		for i, k := range wanted {
			if (k.Group == nil || *k.Group == gatewayv1.GroupName) && k.Kind == source.KindHTTPRoute {
				l.takesHTTPRoutes = true
			} else if kinds == nil {
				kinds = refuse(ReasonInvalidRouteKinds, fmt.Sprintf("%s.allowedRoutes.kinds[%d]", field, i), "%.80q; expected HTTPRoute", k.Kind)
			}
		}
	}
	if from := spec.AllowedRoutes.Namespaces; from != nil {
		field += ".allowedRoutes.namespaces"
		if from.From != nil {
			l.from = *from.From
		}
		switch l.from {
		case gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromNone:
		case gatewayv1.NamespacesFromSelector:
			if from.Selector == nil {
				return nil, kinds, unsupported(field+".selector", "is missing; expected the labels of the Namespaces")
			}
			selector, err := metav1.LabelSelectorAsSelector(from.Selector)
			if err != nil {
				return nil, kinds, unsupported(field+".selector", "%v", err)
			}
			l.selector = selector
		default:
			return nil, kinds, unsupported(field+".from", "%.80q; expected All, Same, Selector or None", l.from)
		}
	}
	return l, kinds, nil
}

// admits says whether routes of the namespace may attach.
func (l *listener) admits(routes, gateway string, namespaces map[types.NamespacedName]*corev1.Namespace) bool {
	switch l.from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return routes == gateway
	case gatewayv1.NamespacesFromSelector:
		// Every Namespace of a cluster has this label; one in a directory, or one that no file
		// describes, should match by it too.
		set := labels.Set{corev1.LabelMetadataName: routes}
		if ns := namespaces[types.NamespacedName{Name: routes}]; ns != nil {
			set = labels.Merge(ns.Labels, set)
		}
		return l.selector.Matches(set)
	}
	return false
}

// bindAddress is where the Gateway's listeners bind, "" for the address that serve was given.
func bindAddress(object *gatewayv1.Gateway) (string, *refusal) {
	if text, ok := object.Annotations[BindAddressAnnotation]; ok {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return "", refuse(ReasonUnsupportedAddress, "metadata.annotations["+BindAddressAnnotation+"]", "%.80q; expected an IP address", text)
		}
		return addr.String(), nil
	}
	if len(object.Spec.Addresses) == 0 {
		return "", nil
	}
	i := slices.IndexFunc(object.Spec.Addresses, func(a gatewayv1.GatewaySpecAddress) bool {
		return a.Type == nil || *a.Type == gatewayv1.IPAddressType
	})
	if i < 0 {
		return "", refuse(ReasonUnsupportedAddress, "spec.addresses[0].type", "%.80q; expected IPAddress", *object.Spec.Addresses[0].Type)
	}
	addr, err := netip.ParseAddr(object.Spec.Addresses[i].Value)
	if err != nil || addr.Zone() != "" {
		return "", refuse(ReasonUnsupportedAddress, fmt.Sprintf("spec.addresses[%d].value", i), "%.80q; expected an IP address", object.Spec.Addresses[i].Value)
	}
	return addr.String(), nil
}

// virtualDomains are the domains of a port, each with the routes that answer for it, oldest first.
//
// A host belongs to the most specific listener that covers it, and to the routes of no other: a
// listener among several has a domain for its whole hostname, which answers 404 where it has no route,
// and a less specific listener gives up the domains that another one covers.
func virtualDomains(listeners []*listener, attached map[*listener][]*parsedRoute) map[string][]*parsedRoute {
	bySpecificity := slices.SortedFunc(slices.Values(listeners), func(a, b *listener) int {
		return compareDomains(a.hostname, b.hostname)
	})
	domains := map[string][]*parsedRoute{}
	for i, l := range bySpecificity {
		if len(listeners) > 1 {
			domains[l.hostname] = nil
		}
		for _, route := range attached[l] {
			for _, hostname := range route.hostnames {
				domain, ok := intersect(l.hostname, hostname)
				if !ok || slices.ContainsFunc(bySpecificity[:i], func(o *listener) bool { return covers(o.hostname, domain) }) {
					continue
				}
				if !slices.Contains(domains[domain], route) {
					domains[domain] = append(domains[domain], route)
				}
			}
		}
	}
	return domains
}
