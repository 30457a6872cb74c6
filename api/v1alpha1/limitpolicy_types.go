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
// +kubebuilder:printcolumn:name="Limit",type=string,JSONPath=`.spec.limits[0].name`,description="The first of its limits"
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
//
// +kubebuilder:validation:XValidation:rule="!has(self.override) || !self.override || self.targetRefs.all(t, t.kind == 'Gateway')",message="must be left out where a target is no Gateway: a route's limits have nothing to override",fieldPath=".override"
type LimitPolicySpec struct {
	// TargetRefs names the HTTPRoutes, or Gateways, of the policy's own namespace (group
	// gateway.networking.k8s.io). A sectionName names one rule of an HTTPRoute. GRPCRoutes may be named, but
	// nothing is done for them yet. At least one, at most 16.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.kind == b.kind && a.name == b.name && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))",message="must name each target once"
	// +kubebuilder:validation:items:XValidation:rule="self.kind in ['Gateway', 'HTTPRoute', 'GRPCRoute']",message="must be Gateway, HTTPRoute or GRPCRoute",fieldPath=".kind"
	// +kubebuilder:validation:items:XValidation:rule="self.group == 'gateway.networking.k8s.io'",message="must be gateway.networking.k8s.io",fieldPath=".group"
	// +kubebuilder:validation:items:XValidation:rule="self.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="must be the name of an object: lower case letters, digits, - and .",fieldPath=".name"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.sectionName) || self.kind != 'Gateway'",message="must be left out for a Gateway: limits hold on all of its listeners",fieldPath=".sectionName"
	TargetRefs []gatewayv1.LocalPolicyTargetReferenceWithSectionName `json:"targetRefs"`

	// Override, of a policy for Gateways alone: its limits replace the routes' of the same name, where
	// otherwise the routes' replace its. Default false.
	Override *bool `json:"override,omitempty"`

	// OnError is what becomes of a request when the rate limit service cannot be asked: Allow or Deny (503).
	// Default Allow.
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
//
// +kubebuilder:validation:XValidation:rule="has(self.rate) != has(self.concurrency)",message="must have exactly one of rate and concurrency"
// +kubebuilder:validation:XValidation:rule="!has(self.values) || self.values.size() == 0 || has(self.key) && self.key.size() > 0",message="must be left out of a limit without a key",fieldPath=".values"
// +kubebuilder:validation:XValidation:rule="!has(self.values) || self.values.all(v, (!has(v.rate) || has(self.rate)) && (!has(v.concurrency) || has(self.concurrency)))",message="must have rate or concurrency as the limit itself has it",fieldPath=".values"
// +kubebuilder:validation:XValidation:rule="!has(self.scope) || self.scope != 'Proxy' || !has(self.concurrency)",message="must be left out with scope Proxy: a single Envoy's buckets do not have it",fieldPath=".concurrency"
// +kubebuilder:validation:XValidation:rule="!has(self.scope) || self.scope != 'Proxy' || !has(self.adapt)",message="must be left out with scope Proxy: a single Envoy's buckets do not have it",fieldPath=".adapt"
// +kubebuilder:validation:XValidation:rule="!has(self.scope) || self.scope != 'Proxy' || !has(self.reply)",message="must be left out with scope Proxy: a single Envoy's buckets do not have it",fieldPath=".reply"
// +kubebuilder:validation:XValidation:rule="!has(self.scope) || self.scope != 'Proxy' || !has(self.when) || !has(self.when.backends) || self.when.backends.size() == 0",message="must leave out backends with scope Proxy: a single Envoy's buckets do not have it",fieldPath=".when"
type Limit struct {
	// Name of the limit, unique in the policy, a DNS label.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`

	// When selects the requests that count. Left out, all of the target do.
	When *When `json:"when,omitempty"`

	// Key says which requests share a counter: those with the same value of every part. Left out, all do.
	// The parts: header:NAME, a request header; query:NAME, a parameter of the query; ip, the client's
	// address, of IPv6 its /64; ip/N, the first 8 to 32 bits of an IPv4 address; method; path, without the
	// query; route, the rule that the request matched; namespace:LABEL, a label of the route's namespace;
	// cel:EXPRESSION, of Envoy's attributes, such as cel:request.host.
	// At most 4 parts. Claims of tokens are none of them: tokens are not verified here.
	//
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:MaxLength=516
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a == b || a.startsWith('header:') && a.lowerAscii() == b.lowerAscii()))",message="must name each part once"
	// +kubebuilder:validation:items:XValidation:rule="!self.startsWith('claim:')",message="must not be a claim: tokens are not verified here, and an unverified claim is whatever the client says; use a header that whoever verifies the token sets"
	// +kubebuilder:validation:items:XValidation:rule="self.startsWith('claim:') || self.matches('^(ip|ip/([89]|[12][0-9]|3[0-2])|method|path|route|header:[A-Za-z0-9!#$%&\\'*+.^_`|~-]{1,256}|query:[!-~]{1,256}|namespace:([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?|cel:[^\\\\x00\\r\\n]*[^\\\\x00\\r\\n\\t ][^\\\\x00\\r\\n]*)$')",message="must be header:NAME, query:NAME, ip, ip/N with an N of 8 to 32, method, path, route, namespace:LABEL or cel:EXPRESSION"
	Key []string `json:"key,omitempty"`

	// Missing is what becomes of a request that lacks a part of the key: Global (all of them share one
	// counter, with the same rate), Skip (the limit does not hold for it) or Deny (it is answered with 403,
	// or with Reply). Default Global, and Skip with a CEL expression in the key, of which an Envoy cannot
	// tell whether it is missing.
	Missing *Missing `json:"missing,omitempty"`

	// Rate bounds how many requests begin. Exactly one of Rate and Concurrency is set.
	Rate *Rate `json:"rate,omitempty"`

	// Concurrency bounds how many requests are in service at a time, streams until they end, 1 to 1,000,000.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Concurrency *int32 `json:"concurrency,omitempty"`

	// Values are other bounds for some values of the key; the first that matches is taken. At most 64.
	//
	// +kubebuilder:validation:MaxItems=64
	Values []ValueLimit `json:"values,omitempty"`

	// Scope is Fleet (counted once for all Envoys, by the rate limit service) or Proxy (each Envoy counts
	// for itself, without asking anybody; such a limit has no Concurrency, When.Backends, Adapt and Reply).
	// Default Fleet.
	Scope *Scope `json:"scope,omitempty"`

	// Adapt has the bound follow what the backends can do.
	Adapt *Adapt `json:"adapt,omitempty"`

	// Mode is Enforce, Shadow (count and report, refuse nothing) or "Off", with the quotes, for YAML reads
	// a bare Off as false. Default Enforce.
	Mode *LimitMode `json:"mode,omitempty"`

	// Reply is what a refused request is answered with. Left out: 429, or RESOURCE_EXHAUSTED for gRPC.
	Reply *Reply `json:"reply,omitempty"`
}

// When selects requests. All that is set must hold.
//
// +kubebuilder:object:generate=false
type When struct {
	// Methods are HTTP methods, any of which is meant. At most 16.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=32
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[A-Z]([A-Z_-]{0,30}[A-Z])?$')",message="must be a method in capitals, such as GET"
	Methods []string `json:"methods,omitempty"`
	// Paths, any of which is meant: a prefix by path element ("/v1" is "/v1" and "/v1/a", not "/v11"),
	// "=/exact" or "~expression" (RE2, of the whole path). Without the query. At most 16.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^(=?/[!-\\\\x22$->@-~]*|~[^\\\\x00\\r\\n]+)$')",message="must be /prefix, =/exact or ~expression, without a query; what is not ASCII is written with %"
	// +kubebuilder:validation:items:XValidation:rule="!self.startsWith('~') || bytes(self).size() <= 257 && 'a'.matches(self.substring(1)) in [true, false]",message="must be an RE2 regular expression of at most 256 bytes"
	Paths []string `json:"paths,omitempty"`
	// Headers, all of which must be as they say, by name: an exact value, "*" (present), "!*" (absent) or
	// "~expression" (RE2, of the whole value). At most 16.
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(name, name.matches('^[A-Za-z0-9!#$%&\\'*+.^_`|~-]{1,256}$'))",message="must have names of headers as keys"
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.lowerAscii() == b.lowerAscii()))",message="must name each header once, in upper or lower case"
	Headers map[string]HeaderMatch `json:"headers,omitempty"`
	// Backends are names of Services that the rule sends to: the limit counts the requests that went to
	// one of them, such as a canary. At most 16.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be the name of a Service"
	Backends []string `json:"backends,omitempty"`
	// CEL is an expression of Envoy's attributes (those of request, source and destination) that must be
	// true; one that has no value, as of a header that is not there, is not. At most 512 characters.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^\\\\x00\\r\\n]+$') && self.trim().size() > 0",message="must be one line with an expression"
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

// HeaderMatch is what the value of a header must be.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
// +kubebuilder:validation:XValidation:rule="!self.startsWith('!') || self == '!*'",message="must be a value, * (present), !* (absent) or ~expression; a value that begins with ! is written ~!value"
// +kubebuilder:validation:XValidation:rule="!self.startsWith('~') || bytes(self).size() <= 257 && self.size() > 1 && 'a'.matches(self.substring(1)) in [true, false]",message="must be an RE2 regular expression of at most 256 bytes"
type HeaderMatch = string

// Text is what may stand in a header as it is: 1 to 1024 characters, none of them for control.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
type Text = string

// Rate is so many requests in so much time, and how many of them may come at once.
type Rate struct {
	// Requests, 1 to 1,000,000,000.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	Requests int64 `json:"requests"`
	// Per, 1s to 24h, whole seconds.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h') && duration(self).getMilliseconds() == duration(self).getSeconds() * 1000",message="must be a duration between 1s and 24h, in whole seconds"
	Per metav1.Duration `json:"per"`
	// Burst is how many may come at once after a pause, 1 to 1,000,000,000. Default: Requests.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	Burst *int64 `json:"burst,omitempty"`
}

// ValueLimit is another bound for the requests whose key has these values. Exactly one of Rate,
// Concurrency and Unlimited is set, Rate or Concurrency as the limit itself has it.
//
// +kubebuilder:validation:XValidation:rule="[has(self.rate), has(self.concurrency), has(self.unlimited)].filter(set, set).size() == 1",message="must have exactly one of rate, concurrency and unlimited"
// +kubebuilder:object:generate=false
type ValueLimit struct {
	// Match gives values to parts of the key, by the part as the key has it, or by what comes after its
	// colon ("X-Tenant" for header:X-Tenant). Parts that it leaves out may have any value.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=4
	Match map[string]Text `json:"match"`
	// Rate in place of the limit's.
	Rate *Rate `json:"rate,omitempty"`
	// Concurrency in place of the limit's.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Concurrency *int32 `json:"concurrency,omitempty"`
	// Unlimited: true sets no bound.
	// +kubebuilder:validation:XValidation:rule="self",message="must be true, or left out for a rate"
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
//
// +kubebuilder:validation:XValidation:rule="(has(self.floor) ? self.floor : 0.2) <= (has(self.ceil) ? self.ceil : 1.0)",message="must be at most the ceil",fieldPath=".floor"
// +kubebuilder:validation:XValidation:rule="(self.by == 'Replicas') == has(self.replicas)",message="must be set with by: Replicas, and with it alone",fieldPath=".replicas"
// +kubebuilder:validation:XValidation:rule="(self.by == 'Metric') == has(self.metric)",message="must be set with by: Metric, and with it alone",fieldPath=".metric"
type Adapt struct {
	// By is what the factor follows: Health (what the endpoints can do of what they could, weighted by
	// traffic), Replicas (ready endpoints of the number in Replicas) or Metric (a query to Prometheus).
	By AdaptBy `json:"by"`
	// Floor of the factor, more than 0, at most Ceil. Default 0.2.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:ExclusiveMinimum=true
	// +kubebuilder:validation:Maximum=10
	Floor *float64 `json:"floor,omitempty"`
	// Ceil of the factor, up to 10. Default 1.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:ExclusiveMinimum=true
	// +kubebuilder:validation:Maximum=10
	Ceil *float64 `json:"ceil,omitempty"`
	// Step between two factors, 0.01 to 1. Default 0.05.
	// +kubebuilder:validation:Minimum=0.01
	// +kubebuilder:validation:Maximum=1
	Step *float64 `json:"step,omitempty"`
	// Hold is how long the factor stands before it rises, 1s to 1h. Default 10s.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="must be a duration between 1s and 1h"
	Hold *metav1.Duration `json:"hold,omitempty"`
	// Replicas, with By Replicas: how many ready endpoints the configured bound is meant for, 1 to 100,000.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
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
//
// +kubebuilder:validation:XValidation:rule="self.up <= self.down",message="must be at most down",fieldPath=".up"
type AdaptMetric struct {
	// Server is one that the operator named with serve --prometheus NAME=URL.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Server string `json:"server"`
	// Query in PromQL; its result is one number. At most 1024 bytes.
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="bytes(self).size() <= 1024 && self.trim().size() > 0 && !self.contains('\\x00')",message="must be a PromQL expression of at most 1024 bytes"
	Query string `json:"query"`
	// Down is above what the factor falls.
	Down float64 `json:"down"`
	// Up is below what it rises; at most Down.
	Up float64 `json:"up"`
	// For is how long the number must have been so, 0s to 1h. Default 0s.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('1h')",message="must be a duration between 0s and 1h"
	For *metav1.Duration `json:"for,omitempty"`
}

// Reply is what a refused request is answered with.
//
// +kubebuilder:object:generate=false
type Reply struct {
	// Status, 400 to 599. Default 429, and 403 where Missing denies. A gRPC request gets RESOURCE_EXHAUSTED whatever it says.
	// +kubebuilder:validation:Minimum=400
	// +kubebuilder:validation:Maximum=599
	Status *int32 `json:"status,omitempty"`
	// Headers to set, taken literally. At most 16, none of those by which HTTP is framed.
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(name, name.matches('^[A-Za-z0-9!#$%&\\'*+.^_`|~-]{1,256}$'))",message="must have names of headers as keys"
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.lowerAscii() == b.lowerAscii()))",message="must name each header once, in upper or lower case"
	// +kubebuilder:validation:XValidation:rule="!self.exists(name, name.lowerAscii() in ['connection', 'content-length', 'host', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'])",message="must leave out the headers that are Envoy's to set"
	Headers map[string]Text `json:"headers,omitempty"`
	// Body, at most 4096 bytes.
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="bytes(self).size() <= 4096",message="must have at most 4096 bytes"
	Body *string `json:"body,omitempty"`
}
