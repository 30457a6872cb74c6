package translate

import (
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/catalog"
)

// routeConfiguration makes the routes of one port. Domains match whatever port the Host header
// carries; the header itself goes to the backend as it came.
func routeConfiguration(f *catalog.Fleet, l *catalog.Listener, opts Options) Resource {
	source := f.Object.String()
	rc := &routev3.RouteConfiguration{Name: l.Name, IgnorePortInHostMatching: true}
	for _, vh := range l.VirtualHosts {
		host := &routev3.VirtualHost{Name: vh.Domain, Domains: []string{vh.Domain}, RetryPolicy: retryPolicy(0)}
		for i := range vh.Routes {
			host.Routes = append(host.Routes, denied(&vh.Routes[i])...)
			host.Routes = append(host.Routes, route(l, &vh.Routes[i], opts))
		}
		rc.VirtualHosts = append(rc.VirtualHosts, host)
	}
	for _, vh := range l.VirtualHosts {
		if len(vh.Routes) > 0 {
			source = vh.Routes[0].Object.String()
			break
		}
	}
	return Resource{Type: RDS, Name: l.Name, Message: rc, Source: source}
}

func route(l *catalog.Listener, r *catalog.Route, opts Options) *routev3.Route {
	out := &routev3.Route{
		Name:                    r.Name,
		Match:                   routeMatch(r.Match),
		RequestHeadersToAdd:     headersToAdd(r.RequestHeaders),
		RequestHeadersToRemove:  r.RequestHeaders.Remove,
		ResponseHeadersToAdd:    headersToAdd(r.ResponseHeaders),
		ResponseHeadersToRemove: r.ResponseHeaders.Remove,
	}
	switch {
	case r.Redirect != nil:
		out.Action = &routev3.Route_Redirect{Redirect: redirect(l, r)}
	case resolvable(r.Backends):
		action := forward(r)
		rewrite(action, r)
		out.Action = &routev3.Route_Route{Route: action}
	default:
		out.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 500}}
	}
	limited(out, r, opts)
	return out
}

// resolvable says whether any request can reach a backend.
func resolvable(backends []catalog.Backend) bool {
	for _, b := range backends {
		if b.Service != "" && b.Weight > 0 {
			return true
		}
	}
	return false
}

// forward sends requests to the backends in proportion to their weights. A part that no backend can
// get is sent to a cluster that does not exist, which answers 500 as Gateway API asks: a weighted
// cluster cannot answer by itself.
func forward(r *catalog.Route) *routev3.RouteAction {
	// A timeout of 0 is none; left out, it would be Envoy's 15 s.
	action := &routev3.RouteAction{Timeout: durationpb.New(max(0, r.Timeout))}
	if r.BackendTimeout > 0 {
		action.RetryPolicy = retryPolicy(r.BackendTimeout)
	}
	var parts []*routev3.WeightedCluster_ClusterWeight
	plain := true
	for _, b := range r.Backends {
		if b.Weight == 0 {
			continue
		}
		part := weightedCluster(b)
		if b.Service == "" {
			part.Name = UnresolvedCluster
			action.ClusterNotFoundResponseCode = routev3.RouteAction_INTERNAL_SERVER_ERROR
		}
		plain = plain && !changesHeaders(b)
		parts = append(parts, part)
	}
	if len(parts) == 1 && plain {
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: parts[0].GetName()}
	} else {
		action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{
			WeightedClusters: &routev3.WeightedCluster{Clusters: parts},
		}
	}
	return action
}

func weightedCluster(b catalog.Backend) *routev3.WeightedCluster_ClusterWeight {
	return &routev3.WeightedCluster_ClusterWeight{
		Name:                    b.Service,
		Weight:                  wrapperspb.UInt32(b.Weight),
		RequestHeadersToAdd:     headersToAdd(b.RequestHeaders),
		RequestHeadersToRemove:  b.RequestHeaders.Remove,
		ResponseHeadersToAdd:    headersToAdd(b.ResponseHeaders),
		ResponseHeadersToRemove: b.ResponseHeaders.Remove,
	}
}

func changesHeaders(b catalog.Backend) bool {
	return len(b.RequestHeaders.Set)+len(b.RequestHeaders.Add)+len(b.RequestHeaders.Remove)+
		len(b.ResponseHeaders.Set)+len(b.ResponseHeaders.Add)+len(b.ResponseHeaders.Remove) > 0
}

// retries is how often a request is sent on. With two of them, one request failed in half the times that four of 24
// endpoints ended before we could know.
const retries = 4

// retryPolicy sends a request to another endpoint when no endpoint has seen it: the connection failed,
// the stream was refused, or was reset before the request was on its way. Such a retry cannot do
// anything twice, and it is what hides an endpoint that went away before we knew. It is the virtual
// host's; a route repeats it to add its timeout of one try, because Envoy does not merge the two.
func retryPolicy(perTry time.Duration) *routev3.RetryPolicy {
	p := &routev3.RetryPolicy{
		RetryOn:    "connect-failure,refused-stream,reset-before-request",
		NumRetries: wrapperspb.UInt32(retries),
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: anyOf(&previoushostsv3.PreviousHostsPredicate{}),
			},
		}},
		// So many picks of the balancer find an endpoint that was not tried; then any will do. A dead
		// endpoint has no requests in flight, so least-request likes it best: of two endpoints it is
		// picked three times out of four.
		HostSelectionRetryMaxAttempts: 20,
	}
	if perTry > 0 {
		p.PerTryTimeout = durationpb.New(perTry)
	}
	return p
}
