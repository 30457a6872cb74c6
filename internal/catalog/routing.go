package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/source"
)

// routing is the stage of GatewayClasses, Gateways and HTTPRoutes.
type routing struct {
	grants   *grants // of which it was made
	fleets   map[string]*Fleet
	verdicts []Verdict
	// gateways and routes are those in force, the last accepted version of each.
	gateways map[types.NamespacedName]*gateway
	routes   map[types.NamespacedName]*parsedRoute
}

func buildRouting(wasStore *source.Store, was *routing, store *source.Store, grants *grants) *routing {
	if was.fleets != nil && was.grants == grants &&
		sameObjects(wasStore.GatewayClasses, store.GatewayClasses) &&
		sameObjects(wasStore.Gateways, store.Gateways) &&
		sameObjects(wasStore.HTTPRoutes, store.HTTPRoutes) &&
		sameObjects(wasStore.Services, store.Services) &&
		sameObjects(wasStore.Namespaces, store.Namespaces) {
		return was
	}
	r := &router{
		was:   was,
		store: store,
		now: &routing{
			grants:   grants,
			fleets:   map[string]*Fleet{},
			gateways: map[types.NamespacedName]*gateway{},
			routes:   map[types.NamespacedName]*parsedRoute{},
		},
	}
	r.readClasses()
	r.readGateways()
	r.readRoutes()
	r.buildFleets()
	slices.SortFunc(r.now.verdicts, compareVerdicts)
	return r.now
}

// router is the work on one routing stage.
type router struct {
	was   *routing
	store *source.Store
	now   *routing
}

func (r *router) say(v Verdict) { r.now.verdicts = append(r.now.verdicts, v) }

func (r *router) readClasses() {
	for name, class := range r.store.GatewayClasses {
		if class.Spec.ControllerName != ControllerName {
			continue
		}
		v := Verdict{
			Object:   source.Ref{Kind: source.KindGatewayClass, Name: name.Name},
			Accepted: accepted(), ResolvedRefs: resolved(),
		}
		if class.Spec.ParametersRef != nil {
			v.Accepted = refuse(ReasonInvalidParameters, "spec.parametersRef",
				"a GatewayClass of ours has no parameters; expected none; its Gateways work without them").condition()
		}
		r.say(v)
	}
}

// ours says whether we answer for Gateways of the class, and whether the class exists at all.
func (r *router) ours(class gatewayv1.ObjectName) (ours, exists bool) {
	c, exists := r.store.GatewayClasses[types.NamespacedName{Name: string(class)}]
	return exists && c.Spec.ControllerName == ControllerName, exists
}

func (r *router) readGateways() {
	for name, object := range r.store.Gateways {
		ref := source.Ref{Kind: source.KindGateway, Namespace: name.Namespace, Name: name.Name}
		ours, exists := r.ours(object.Spec.GatewayClassName)
		if !ours {
			if !exists {
				r.say(Verdict{Object: ref, ResolvedRefs: resolved(), Accepted: refuse(ReasonPending, "spec.gatewayClassName",
					"GatewayClass %s does not exist; expected one with the controllerName %s", object.Spec.GatewayClassName, ControllerName).condition()})
			}
			continue
		}
		g, listeners, refusal := parseGateway(object)
		v := Verdict{Object: ref, Accepted: accepted(), ResolvedRefs: resolved()}
		refused := 0
		for _, l := range listeners {
			if !l.Accepted.OK {
				refused++
			}
		}
		switch {
		case refusal != nil:
			kept := r.was.gateways[name]
			if kept != nil && kept.accepted {
				g = kept
			}
			otherwise := "its other listeners work"
			if len(g.listeners) == 0 {
				otherwise = "it has no listener that works"
			}
			v.Accepted = refusal.conditionKept(g == kept, otherwise)
		case refused > 0:
			v.Accepted.Reason = ReasonListenersNotValid
			v.Accepted.Message = fmt.Sprintf("%d of %d listeners are refused; the others work", refused, len(listeners))
		}
		r.now.gateways[name] = g
		r.say(v)
		for _, l := range listeners {
			r.say(l)
		}
	}
}

func (r *router) readRoutes() {
	for name, object := range r.store.HTTPRoutes {
		was := r.was.routes[name]
		route, refusal := was, (*refusal)(nil)
		if was == nil || was.object != object {
			route, refusal = parseRoute(object)
		}
		if refusal != nil {
			route = was
		}
		if route != nil {
			r.now.routes[name] = route
		}
		r.judgeRoute(object, route, refusal)
	}
}

// judgeRoute gives a verdict per parent that is ours.
func (r *router) judgeRoute(object *gatewayv1.HTTPRoute, inForce *parsedRoute, refused *refusal) {
	ref := source.Ref{Kind: source.KindHTTPRoute, Namespace: object.Namespace, Name: object.Name}
	if len(object.Spec.ParentRefs) == 0 {
		r.say(Verdict{Object: ref, ResolvedRefs: resolved(), Accepted: refuse(ReasonNoMatchingParent, "spec.parentRefs",
			"is empty; expected the Gateways that the route is for").condition()})
		return
	}
	refs := r.judgeBackends(object)
	for i, parent := range object.Spec.ParentRefs {
		if !isGateway(parent) {
			continue
		}
		v := Verdict{Object: ref, Parent: gatewayRef(parentName(object, parent)), Accepted: accepted(), ResolvedRefs: refs}
		if parent.SectionName != nil {
			v.Section = string(*parent.SectionName)
		}
		if parent.Port != nil {
			v.Port = uint32(*parent.Port)
		}
		gateway, stranger := r.findGateway(object, parent)
		if stranger {
			continue
		}
		switch field := fmt.Sprintf("spec.parentRefs[%d]", i); {
		case refused != nil:
			v.Accepted = refused.conditionKept(inForce != nil, noEffect)
		case gateway == nil:
			v.Accepted = refuse(ReasonNoMatchingParent, field+".name",
				"%s does not exist, or its GatewayClass does not", v.Parent).condition()
		default:
			if _, why := r.attach(inForce, gateway, parent); why != nil {
				why.Field = field + why.Field
				v.Accepted = why.condition()
			}
		}
		r.say(v)
	}
}

// findGateway finds the parent. A stranger is a Gateway that another controller answers for.
func (r *router) findGateway(route *gatewayv1.HTTPRoute, parent gatewayv1.ParentReference) (g *gateway, stranger bool) {
	name := parentName(route, parent)
	if g := r.now.gateways[name]; g != nil {
		return g, false
	}
	if object := r.store.Gateways[name]; object != nil {
		_, exists := r.ours(object.Spec.GatewayClassName)
		return nil, exists
	}
	return nil, false
}

// attach finds the listeners that take the route, or says why none does.
func (r *router) attach(route *parsedRoute, g *gateway, parent gatewayv1.ParentReference) (listeners []*listener, why *refusal) {
	named, permitted := false, false
	for _, l := range g.listeners {
		if parent.SectionName != nil && *parent.SectionName != "" && string(*parent.SectionName) != l.name ||
			parent.Port != nil && uint32(*parent.Port) != l.port {
			continue
		}
		named = true
		if !l.takesHTTPRoutes || !l.admits(route.object.Namespace, g.object.Namespace, r.store.Namespaces) {
			continue
		}
		permitted = true
		if slices.ContainsFunc(route.hostnames, func(h string) bool { _, ok := intersect(l.hostname, h); return ok }) {
			listeners = append(listeners, l)
		}
	}
	switch {
	case len(listeners) > 0:
		return listeners, nil
	case permitted:
		return nil, refuse(ReasonNoMatchingListenerHostname, "", "none of spec.hostnames is within the hostname of a listener of %s", g.ref())
	case named:
		return nil, refuse(ReasonNotAllowedByListeners, "", "the listeners' allowedRoutes do not admit HTTPRoutes of namespace %s", route.object.Namespace)
	case parent.SectionName != nil && parent.Port != nil:
		return nil, refuse(ReasonNoMatchingParent, ".sectionName", "%s has no working listener %.80q on port %d", g.ref(), *parent.SectionName, *parent.Port)
	case parent.SectionName != nil:
		return nil, refuse(ReasonNoMatchingParent, ".sectionName", "%s has no working listener %.80q", g.ref(), *parent.SectionName)
	case parent.Port != nil:
		return nil, refuse(ReasonNoMatchingParent, ".port", "%s has no working listener on port %d", g.ref(), *parent.Port)
	}
	return nil, refuse(ReasonNoMatchingParent, "", "%s has no working listener", g.ref())
}

func (r *router) buildFleets() {
	attached := map[*listener][]*parsedRoute{}
	routes := slices.SortedFunc(maps.Values(r.now.routes), func(a, b *parsedRoute) int { return older(a.object, b.object) })
	for _, route := range routes {
		for _, parent := range route.object.Spec.ParentRefs {
			if !isGateway(parent) {
				continue
			}
			g, _ := r.findGateway(route.object, parent)
			if g == nil {
				continue
			}
			listeners, _ := r.attach(route, g, parent)
			for _, l := range listeners {
				// Two parentRefs may name one listener.
				if last := attached[l]; len(last) == 0 || last[len(last)-1] != route {
					attached[l] = append(last, route)
				}
			}
		}
	}
	backends := map[*parsedRoute][][]Backend{}
	for _, g := range r.now.gateways {
		fleet := r.buildFleet(g, attached, backends)
		r.now.fleets[fleet.Name] = share(r.was.fleets[fleet.Name], fleet)
	}
}

func (r *router) buildFleet(g *gateway, attached map[*listener][]*parsedRoute, backends map[*parsedRoute][][]Backend) *Fleet {
	fleet := &Fleet{Name: g.name(), Object: g.ref(), Attached: make(map[string]int, len(g.listeners))}
	ports := map[uint32][]*listener{}
	for _, l := range g.listeners {
		ports[l.port] = append(ports[l.port], l)
		fleet.Attached[l.name] = len(attached[l])
	}
	services := map[string]bool{}
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		listener := Listener{Name: fmt.Sprintf("%s/%d", fleet.Name, port), Address: g.address, Port: port}
		domains := virtualDomains(ports[port], attached)
		for _, domain := range slices.SortedFunc(maps.Keys(domains), compareDomains) {
			vhost := VirtualHost{Domain: domain}
			for _, route := range domains[domain] {
				if _, known := backends[route]; !known {
					backends[route] = r.resolveRoute(route)
				}
				vhost.Routes = append(vhost.Routes, route.routes(port, backends[route])...)
			}
			sortRoutes(vhost.Routes)
			for i := range vhost.Routes {
				for _, b := range vhost.Routes[i].Backends {
					if b.Service != "" {
						services[b.Service] = true
					}
				}
			}
			listener.VirtualHosts = append(listener.VirtualHosts, vhost)
		}
		fleet.Listeners = append(fleet.Listeners, listener)
	}
	fleet.Services = slices.Sorted(maps.Keys(services))
	return fleet
}

func isGateway(p gatewayv1.ParentReference) bool {
	return (p.Group == nil || *p.Group == gatewayv1.GroupName) && (p.Kind == nil || *p.Kind == source.KindGateway)
}

func parentName(route *gatewayv1.HTTPRoute, p gatewayv1.ParentReference) types.NamespacedName {
	name := types.NamespacedName{Namespace: route.Namespace, Name: string(p.Name)}
	if p.Namespace != nil {
		name.Namespace = cmp.Or(string(*p.Namespace), route.Namespace)
	}
	return name
}

func gatewayRef(name types.NamespacedName) source.Ref {
	return source.Ref{Kind: source.KindGateway, Namespace: name.Namespace, Name: name.Name}
}
