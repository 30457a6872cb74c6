package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// LimitPolicy says how much may come in.
//
// It attaches to HTTPRoutes, to single rules of them, or to a Gateway for everything behind it (GEP-713,
// inherited policy). Limits are merged by name: that of the more specific policy replaces the others of the
// same name, unless a Gateway's policy says override. Limits of other names all hold.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=lp,categories={evenkeel,gateway-api}
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Inherited"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[0].name`,description="The first of its targets"
// +kubebuilder:printcolumn:name="Limits",type=string,JSONPath=`.spec.limits[*].name`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`,description="What the first of its ancestors says"
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Programmed")].status`,description="What the first of its ancestors says"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type LimitPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what a user writes.
	Spec LimitPolicySpec `json:"spec"`

	// Status says for each target whether the policy is accepted and in force.
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// LimitPolicyList is a list of LimitPolicies, as the API server returns it.
//
// +kubebuilder:object:root=true
type LimitPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LimitPolicy `json:"items"`
}

// LimitPolicySpec is what a user writes.
type LimitPolicySpec struct {
	// TargetRefs names the HTTPRoutes, or Gateways, of the policy's own namespace (group
	// gateway.networking.k8s.io). A sectionName names one rule of an HTTPRoute. At least one, at most 16.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	TargetRefs []gatewayv1.LocalPolicyTargetReferenceWithSectionName `json:"targetRefs"`

	// Override, of a Gateway's policy: its limits replace the routes' of the same name, where otherwise
	// the routes' replace its.
	Override *bool `json:"override,omitempty"`

	// OnError is what becomes of a request when the rate limit service cannot be asked: Allow or Deny.
	OnError *OnError `json:"onError,omitempty"`

	// Limits by name. At least one, at most 32.
	//
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Limits []Limit `json:"limits"`
}

// OnError is what becomes of a request when the rate limit service cannot be asked.
// +kubebuilder:validation:Enum=Allow;Deny
type OnError string

// The values of OnError.
const (
	OnErrorAllow OnError = "Allow"
	OnErrorDeny  OnError = "Deny"
)

// Limit bounds the requests that it selects, counted apart for each value of its key: by rate, or by how
// many are in service at a time.
type Limit struct {
	// Name of the limit, unique in the policy, a DNS label.
	Name string `json:"name"`

	// When selects the requests that count. Left out, all of the target do.
	When *When `json:"when,omitempty"`

	// Key says which requests share a counter: those with the same value of every part. Left out, all do.
	// A part is one of
	//
	//	header:NAME      a request header
	//	query:NAME       a parameter of the query
	//	ip               the client's address, of IPv6 the /64 of it
	//	ip/N             the first N bits of an IPv4 address, 8 to 32; of IPv6 the /64
	//	method           GET, POST, ...
	//	path             without the query
	//	route            the rule of the HTTPRoute that the request matched
	//	namespace:LABEL  a label of the route's namespace
	//	cel:EXPRESSION   of Envoy's attributes, such as cel:request.host
	//
	// At most 4 parts.
	//
	// +kubebuilder:validation:MaxItems=4
	Key []string `json:"key,omitempty"`

	// Missing is what becomes of a request that lacks a part of the key: Global (all of them share one
	// counter, with the same rate), Skip (the limit does not hold for it) or Deny (it is answered with 403,
	// or with Reply).
	Missing *Missing `json:"missing,omitempty"`

	// Rate bounds how many requests begin. Exactly one of Rate and Concurrency is set.
	Rate *Rate `json:"rate,omitempty"`

	// Concurrency bounds how many requests are in service at a time, streams until they end, 1 to 1,000,000.
	Concurrency *int32 `json:"concurrency,omitempty"`

	// Values are other bounds for some values of the key; the first that matches is taken. At most 64.
	//
	// +kubebuilder:validation:MaxItems=64
	Values []ValueLimit `json:"values,omitempty"`

	// Scope is Fleet (counted once for all Envoys, by the rate limit service) or Proxy (each Envoy counts
	// for itself, without asking anybody).
	Scope *Scope `json:"scope,omitempty"`

	// Adapt has the bound follow what the backends can do.
	Adapt *Adapt `json:"adapt,omitempty"`

	// Mode is Enforce, Shadow (count and report, refuse nothing) or Off.
	Mode *LimitMode `json:"mode,omitempty"`

	// Reply is what a refused request is answered with. Left out: 429, or RESOURCE_EXHAUSTED for gRPC.
	Reply *Reply `json:"reply,omitempty"`
}

// When selects requests. All that is set must hold.
type When struct {
	// Methods are HTTP methods, any of which is meant. At most 16.
	// +kubebuilder:validation:MaxItems=16
	Methods []string `json:"methods,omitempty"`
	// Paths, any of which is meant: a prefix by path element ("/v1" is "/v1" and "/v1/a", not "/v11"),
	// "=/exact" or "~expression" (RE2, of the whole path). At most 16.
	// +kubebuilder:validation:MaxItems=16
	Paths []string `json:"paths,omitempty"`
	// Headers, all of which must be as they say, by name: an exact value, "*" (present), "!*" (absent) or
	// "~expression" (RE2, of the whole value). At most 16.
	// +kubebuilder:validation:MaxProperties=16
	Headers map[string]string `json:"headers,omitempty"`
	// Backends are names of Services that the rule sends to: the limit counts the requests that went to
	// one of them, such as a canary. At most 16.
	// +kubebuilder:validation:MaxItems=16
	Backends []string `json:"backends,omitempty"`
	// CEL is an expression of Envoy's attributes that must be true. At most 512 characters.
	CEL *string `json:"cel,omitempty"`
}

// Missing is what becomes of a request that lacks a part of a key.
// +kubebuilder:validation:Enum=Global;Skip;Deny
type Missing string

// The values of Missing.
const (
	MissingGlobal Missing = "Global"
	MissingSkip   Missing = "Skip"
	MissingDeny   Missing = "Deny"
)

// Rate is so many requests in so much time, and how many of them may come at once.
type Rate struct {
	// Requests, 1 to 1,000,000,000.
	Requests int64 `json:"requests"`
	// Per, 1s to 24h, whole seconds.
	Per metav1.Duration `json:"per"`
	// Burst is how many may come at once after a pause, 1 to 1,000,000,000. Default: Requests.
	Burst *int64 `json:"burst,omitempty"`
}

// ValueLimit is another bound for the requests whose key has these values. Exactly one of Rate,
// Concurrency and Unlimited is set, Rate or Concurrency as the limit itself has it.
type ValueLimit struct {
	// Match gives values to parts of the key, by the part as the key has it, or by what comes after its
	// colon ("X-Tenant" for header:X-Tenant). Parts that it leaves out may have any value.
	Match map[string]string `json:"match"`
	// Rate in place of the limit's.
	Rate *Rate `json:"rate,omitempty"`
	// Concurrency in place of the limit's.
	Concurrency *int32 `json:"concurrency,omitempty"`
	// Unlimited, where true, sets no bound.
	Unlimited *bool `json:"unlimited,omitempty"`
}

// Scope is where a limit is counted.
// +kubebuilder:validation:Enum=Fleet;Proxy
type Scope string

// The scopes of a limit.
const (
	ScopeFleet Scope = "Fleet"
	ScopeProxy Scope = "Proxy"
)

// LimitMode is a limit's mode.
// +kubebuilder:validation:Enum=Enforce;Shadow;Off
type LimitMode string

// The modes of a limit.
const (
	LimitEnforce LimitMode = "Enforce"
	LimitShadow  LimitMode = "Shadow"
	LimitOff     LimitMode = "Off"
)

// Adapt has a bound follow what the backends can do: the bound in force is the configured one times a
// factor between Floor and Ceil, a multiple of Step. The factor falls at once and rises by one step at a
// time, not before Hold has passed since it last moved.
type Adapt struct {
	// By is what the factor follows: Health (what the endpoints can do of what they could, weighted by
	// traffic), Replicas (ready endpoints of the number in Replicas) or Metric (a query to Prometheus).
	By AdaptBy `json:"by"`
	// Floor of the factor, more than 0. Default 0.2.
	Floor *float64 `json:"floor,omitempty"`
	// Ceil of the factor, up to 10. Default 1.
	Ceil *float64 `json:"ceil,omitempty"`
	// Step between two factors, 0.01 to 1. Default 0.05.
	Step *float64 `json:"step,omitempty"`
	// Hold is how long the factor stands before it rises, 1s to 1h. Default 10s.
	Hold *metav1.Duration `json:"hold,omitempty"`
	// Replicas, with By Replicas: how many ready endpoints the configured bound is meant for.
	Replicas *int32 `json:"replicas,omitempty"`
	// Metric, with By Metric.
	Metric *AdaptMetric `json:"metric,omitempty"`
}

// AdaptBy is what a factor follows.
// +kubebuilder:validation:Enum=Health;Replicas;Metric
type AdaptBy string

// The values of AdaptBy.
const (
	AdaptByHealth   AdaptBy = "Health"
	AdaptByReplicas AdaptBy = "Replicas"
	AdaptByMetric   AdaptBy = "Metric"
)

// AdaptMetric is a query of one number. While it has been above Down for For, the factor falls by a step;
// while below Up, it rises by one.
type AdaptMetric struct {
	// Server is one that the operator named with serve --prometheus NAME=URL.
	Server string `json:"server"`
	// Query in PromQL; its result is one number. At most 1024 characters.
	Query string `json:"query"`
	// Down is above what the factor falls.
	Down float64 `json:"down"`
	// Up is below what it rises; at most Down.
	Up float64 `json:"up"`
	// For is how long the number must have been so, 0s to 1h. Default 0s.
	For *metav1.Duration `json:"for,omitempty"`
}

// Reply is what a refused request is answered with.
type Reply struct {
	// Status, 400 to 599. Default 429. A gRPC request gets RESOURCE_EXHAUSTED whatever it says.
	Status *int32 `json:"status,omitempty"`
	// Headers to set, taken literally. At most 16.
	// +kubebuilder:validation:MaxProperties=16
	Headers map[string]string `json:"headers,omitempty"`
	// Body, at most 4096 bytes.
	Body *string `json:"body,omitempty"`
}
