package translate

import (
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// A gRPC library refuses a route configuration over one path matcher or action that it does not know,
// takes no notice of what it has no use for, and cannot change a request. So that no request goes where
// it would not go through an Envoy:
//
//   - what an Envoy would not match of any gRPC request (they are POSTs without a query) is left out;
//   - what an Envoy would send on changed (a rewrite, other request headers) or answer itself (a redirect,
//     an error) fails with UNAVAILABLE;
//   - changes of response headers, and retries of what no backend has seen, which gRPC has of its own,
//     are left out.

// grpcRoutes renders the routes of a port. A channel's authority is matched as it is, with the port if it
// has one.
func grpcRoutes(rc *routev3.RouteConfiguration, port string) *routev3.RouteConfiguration {
	out := &routev3.RouteConfiguration{Name: rc.GetName()}
	for _, vh := range rc.GetVirtualHosts() {
		host := &routev3.VirtualHost{Name: vh.GetName()}
		for _, d := range vh.GetDomains() {
			host.Domains = append(host.Domains, d)
			if d != "*" {
				host.Domains = append(host.Domains, d+":"+port)
			}
		}
		for _, r := range vh.GetRoutes() {
			host.Routes = append(host.Routes, grpcRoute(r)...)
		}
		out.VirtualHosts = append(out.VirtualHosts, host)
	}
	return out
}

// grpcRoute is none, one or two routes that do for gRPC requests what r does.
func grpcRoute(r *routev3.Route) []*routev3.Route {
	if len(r.GetMatch().GetQueryParameters()) > 0 {
		return nil
	}
	var headers []*routev3.HeaderMatcher
	for _, h := range r.GetMatch().GetHeaders() {
		switch {
		case h.GetName() != ":method":
			headers = append(headers, h)
		case h.GetStringMatch().GetExact() != "POST":
			return nil
		}
	}
	route := func(m *routev3.RouteMatch) *routev3.Route {
		m.Headers = headers
		out := &routev3.Route{Name: r.GetName(), Match: m, Action: &routev3.Route_NonForwardingAction{NonForwardingAction: &routev3.NonForwardingAction{}}}
		if action := r.GetRoute(); action != nil && !changesRequest(r) && !rewrites(action) {
			out.Action = &routev3.Route_Route{Route: grpcForward(action)}
		}
		return out
	}
	prefix, separated := r.GetMatch().GetPathSpecifier().(*routev3.RouteMatch_PathSeparatedPrefix)
	if !separated {
		return []*routev3.Route{route(&routev3.RouteMatch{PathSpecifier: r.GetMatch().GetPathSpecifier()})}
	}
	return []*routev3.Route{
		route(&routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: prefix.PathSeparatedPrefix}}),
		route(&routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: strings.TrimRight(prefix.PathSeparatedPrefix, "/") + "/"}}),
	}
}

// requestChanges are the messages of a route that may change the headers of a request.
type requestChanges interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
}

func changesRequest(c requestChanges) bool {
	return len(c.GetRequestHeadersToAdd())+len(c.GetRequestHeadersToRemove()) > 0
}

func rewrites(a *routev3.RouteAction) bool {
	return a.GetPrefixRewrite() != "" || a.GetRegexRewrite() != nil || a.GetHostRewriteSpecifier() != nil
}

func grpcForward(a *routev3.RouteAction) *routev3.RouteAction {
	out := &routev3.RouteAction{ClusterSpecifier: a.GetClusterSpecifier(), MaxStreamDuration: maxStreamDuration(a)}
	if parts := a.GetWeightedClusters().GetClusters(); parts != nil {
		weighted := &routev3.WeightedCluster{}
		for _, p := range parts {
			part := &routev3.WeightedCluster_ClusterWeight{Name: p.GetName(), Weight: p.GetWeight()}
			if changesRequest(p) {
				part.Name = UnresolvedCluster
			}
			weighted.Clusters = append(weighted.Clusters, part)
		}
		out.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	}
	return out
}

// maxStreamDuration is how long a request may take: the shorter of the timeouts of all tries and of one,
// as there is one; nil for as long as it likes.
func maxStreamDuration(a *routev3.RouteAction) *routev3.RouteAction_MaxStreamDuration {
	var shortest time.Duration
	for _, d := range []*durationpb.Duration{a.GetTimeout(), a.GetRetryPolicy().GetPerTryTimeout()} {
		if t := d.AsDuration(); t > 0 && (shortest == 0 || t < shortest) {
			shortest = t
		}
	}
	if shortest == 0 {
		return nil
	}
	return &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(shortest)}
}
