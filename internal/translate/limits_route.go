package translate

import (
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// limited has the limits of a route hold for the requests that it sends on. Limits of scope Fleet are in the
// configuration of the filters for the route, where alone Envoy knows quotas and leases; those of scope Proxy
// in its rate_limits, told apart by the stage of their slot. A limit of some backends is in the configuration
// for their weighted clusters, which takes the place of the route's: it holds all limits.
func limited(out *routev3.Route, r *catalog.Route, opts Options) {
	action := out.GetRoute()
	if action == nil || len(r.Limits) == 0 {
		return // no filter describes what is redirected or answered at once
	}
	for _, l := range r.Limits {
		if l.Rule.Scope() == v1alpha1.ScopeProxy {
			slot := bucketSlot(l.Rule)
			for _, actions := range l.Rule.Actions(site(r, l, false)) {
				actions.Stage = wrapperspb.UInt32(uint32(slot))
				action.RateLimits = append(action.RateLimits, actions)
				setFilter(&out.TypedPerFilterConfig, bucketFilter(slot), enable())
			}
		}
	}
	clusters := action.GetWeightedClusters().GetClusters()
	quotas := !opts.NoQuotas && len(clusters) > 1
	filtersOf := func(cluster string) map[string]*anypb.Any {
		return serviceFilters(r, quotas, func(rule *rlsconfig.Rule) bool { return holdsFor(rule, cluster) })
	}
	if len(clusters) == 0 {
		for name, config := range filtersOf(action.GetCluster()) {
			setFilter(&out.TypedPerFilterConfig, name, config)
		}
		return
	}
	everywhere := serviceFilters(r, quotas, func(rule *rlsconfig.Rule) bool { return len(backendsOf(rule)) == 0 })
	for name, config := range everywhere {
		setFilter(&out.TypedPerFilterConfig, name, config)
	}
	for _, c := range clusters {
		for name, config := range filtersOf(c.GetName()) {
			if string(config.GetValue()) != string(everywhere[name].GetValue()) {
				setFilter(&c.TypedPerFilterConfig, name, config)
			}
		}
	}
}

// serviceFilters is the configuration of the filters that ask the service, for the limits of a route that hold.
func serviceFilters(r *catalog.Route, quotas bool, holds func(*rlsconfig.Rule) bool) map[string]*anypb.Any {
	limits := map[string][]*routev3.RateLimit{}
	out := map[string]*anypb.Any{}
	for _, l := range r.Limits {
		if l.Rule.Scope() != v1alpha1.ScopeFleet || !holds(l.Rule) {
			continue
		}
		filter := AllowFilter
		if l.Rule.OnError == v1alpha1.OnErrorDeny {
			filter = DenyFilter
		}
		actions := l.Rule.Actions(site(r, l, quotas))
		limits[filter] = append(limits[filter], actions...)
		if _, other := otherStatus(l.Rule); other && len(actions) > 0 {
			out[CustomResponseFilter] = enable()
		}
	}
	for filter, all := range limits {
		if len(all) > 0 {
			out[filter] = anyOf(&ratelimitv3.RateLimitPerRoute{RateLimits: all})
		}
	}
	return out
}

func setFilter(to *map[string]*anypb.Any, name string, config *anypb.Any) {
	if *to == nil {
		*to = map[string]*anypb.Any{}
	}
	(*to)[name] = config
}

func site(r *catalog.Route, l catalog.RouteLimit, quota bool) rlsconfig.Site {
	rule := r.Name[:max(0, strings.LastIndexByte(r.Name, '/'))] // "<namespace>/<route>/<rule>", without the match
	return rlsconfig.Site{Route: rule, Labels: l.Labels, Quota: quota}
}

func backendsOf(rule *rlsconfig.Rule) []string {
	if rule.Limit.When == nil {
		return nil
	}
	return rule.Limit.When.Backends
}

// holdsFor says whether a rule counts the requests that go to a cluster: "<namespace>/<service>:<port>".
func holdsFor(rule *rlsconfig.Rule, cluster string) bool {
	backends := backendsOf(rule)
	if len(backends) == 0 {
		return true
	}
	_, service, _ := strings.Cut(cluster, "/")
	service, _, _ = strings.Cut(service, ":")
	return slices.Contains(backends, service)
}

// denied are the routes, before the route itself, of requests that lack a part of the key of a limit that
// denies them.
func denied(r *catalog.Route) []*routev3.Route {
	if r.Redirect != nil || !resolvable(r.Backends) {
		return nil // no limit holds there
	}
	var out []*routev3.Route
	for _, l := range r.Limits {
		for _, lacking := range l.Rule.Denied(site(r, l, false)) {
			match := routeMatch(r.Match)
			match.Headers = append(match.Headers, lacking.GetHeaders()...)
			match.QueryParameters = append(match.QueryParameters, lacking.GetQueryParameters()...)
			route := &routev3.Route{Name: r.Name, Match: match}
			reply(route, l.Rule.Limit.Reply)
			out = append(out, route)
		}
	}
	return out
}

// reply answers at once, with 403 if nothing else is said.
func reply(route *routev3.Route, with *v1alpha1.Reply) {
	response := &routev3.DirectResponseAction{Status: 403}
	route.Action = &routev3.Route_DirectResponse{DirectResponse: response}
	if with == nil {
		return
	}
	if with.Status != nil {
		response.Status = uint32(*with.Status)
	}
	if with.Body != nil {
		response.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: *with.Body}}
	}
	var change catalog.HeaderChange
	for _, name := range slices.Sorted(maps.Keys(with.Headers)) {
		change.Set = append(change.Set, catalog.Header{Name: name, Value: with.Headers[name]})
	}
	route.ResponseHeadersToAdd = headersToAdd(change)
}
