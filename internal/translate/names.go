package translate

import "slices"

// Names that the resources, the bootstrap and later policies share. They are on the wire of running
// fleets: changing one of those before UnresolvedCluster drains every listener.
const (
	// XDSCluster is the bootstrap's static cluster of the control plane itself.
	XDSCluster = "xds"
	// RuntimeLayer is the RTDS layer of the bootstrap.
	RuntimeLayer = "evenkeel"
	// AccessLogKey is the runtime key of the part of requests that are reported, 0 % without it.
	AccessLogKey = "evenkeel.access_log"
	// CustomResponseFilter is the HTTP filter, and the extension configuration, that may replace replies.
	CustomResponseFilter = "evenkeel.custom_response"
	// BucketFilter, with the number of a slot after it, is the HTTP filter, and the extension configuration,
	// of the limits of scope Proxy of a part of the policies: 1 to BucketSlots.
	BucketFilter = "evenkeel.bucket."
	// AllowFilter and DenyFilter are the HTTP filters, and the extension configurations, that ask the rate
	// limit service: for the limits that let pass what it does not answer, and for those that refuse it.
	AllowFilter = "evenkeel.limit.allow"
	DenyFilter  = "evenkeel.limit.deny"
	// RLSCluster is the bootstrap's cluster of the rate limit service, and its load assignment. It gets the
	// access log too: leases are renewed by it.
	RLSCluster = "rls"
	// UnresolvedCluster is named by routes for the part of requests that no backend can get. It never
	// exists, and cannot be mistaken for a Service: those have a slash.
	UnresolvedCluster = "unresolved"
	// RLSFleet is the key under which reference rate limit services are served the limits of all fleets. It
	// cannot be mistaken for a Gateway's: those have a slash.
	RLSFleet = "rls"
	// ActiveRequestBiasKey is the runtime key that overrides the active request bias of all clusters.
	ActiveRequestBiasKey = "evenkeel.active_request_bias"
	// MetadataNamespace is the filter metadata under which endpoints carry health_score and
	// qps_decay_factor; Envoy's subset balancer and formatters read it there.
	MetadataNamespace = "envoy.lb"
)

// Type names an xDS resource type by its usual short name.
type Type string

// The types we make.
const (
	CDS  Type = "cds"
	EDS  Type = "eds"
	LDS  Type = "lds"
	RDS  Type = "rds"
	ECDS Type = "ecds"
	RTDS Type = "rtds"
	// Limits is the list of a fleet's rules (rlsconfig.Encode), one resource of the fleet's name, for our own
	// rate limit service. No Envoy subscribes to it.
	Limits Type = "limits"
	// RLS is what the reference rate limit service (github.com/envoyproxy/ratelimit) is served: one
	// RateLimitConfig for each fleet, named as its domain. No Envoy subscribes to it.
	RLS Type = "rls"
)

// Types are all types in make-before-break order.
var Types = []Type{CDS, EDS, LDS, RDS, ECDS, RTDS, Limits, RLS}

var typeURLs = map[Type]string{
	CDS:  "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	EDS:  "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	LDS:  "type.googleapis.com/envoy.config.listener.v3.Listener",
	RDS:  "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	ECDS: "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
	RTDS: "type.googleapis.com/envoy.service.runtime.v3.Runtime",

	Limits: "type.googleapis.com/google.protobuf.Struct",
	RLS:    "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig",
}

// URL is the type URL on the wire, "" for a type that is not in Types.
func (t Type) URL() string { return typeURLs[t] }

// TypeOf is the type of a type URL, "" for one that we do not make.
func TypeOf(url string) Type {
	for t, u := range typeURLs {
		if u == url {
			return t
		}
	}
	return ""
}

func (t Type) order() int { return slices.Index(Types, t) }
