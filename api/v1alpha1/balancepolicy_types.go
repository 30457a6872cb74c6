package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// BalancePolicy says how the load of a Service is shared among its endpoints.
//
// It attaches to Services, or to a Gateway as the default for every Service behind it (GEP-713,
// inherited policy). Field by field the more specific policy wins; what no policy says has the
// value of DefaultBalance. A Service that no BalancePolicy reaches has equal endpoints.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=bp,categories={evenkeel,gateway-api}
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Inherited"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[0].name`,description="The first of its targets"
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Strategy",type=string,JSONPath=`.spec.strategy`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`,description="What the first of its ancestors says"
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Programmed")].status`,description="What the first of its ancestors says"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BalancePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what a user writes.
	Spec BalancePolicySpec `json:"spec"`

	// Status says for each Gateway and Service that the policy reaches whether it is accepted and in force.
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// BalancePolicyList is a list of BalancePolicies, as the API server returns it.
//
// +kubebuilder:object:root=true
type BalancePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BalancePolicy `json:"items"`
}

// BalancePolicySpec is what a user writes. Every field but TargetRefs may be left out.
type BalancePolicySpec struct {
	// TargetRefs names the Services (group "") or Gateways (group gateway.networking.k8s.io) of the
	// policy's own namespace. At least one, at most 16.
	//
	// +listType=map
	// +listMapKey=group
	// +listMapKey=kind
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:XValidation:rule="self.kind in ['Gateway', 'Service']",message="must be Gateway or Service",fieldPath=".kind"
	// +kubebuilder:validation:items:XValidation:rule="self.kind != 'Service' || self.group.size() == 0",message="must be empty for a Service",fieldPath=".group"
	// +kubebuilder:validation:items:XValidation:rule="self.kind != 'Gateway' || self.group == 'gateway.networking.k8s.io'",message="must be gateway.networking.k8s.io for a Gateway",fieldPath=".group"
	// +kubebuilder:validation:items:XValidation:rule="self.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="must be the name of an object: lower case letters, digits, - and .",fieldPath=".name"
	TargetRefs []gatewayv1.LocalPolicyTargetReference `json:"targetRefs"`

	// Mode is Enforce (compute weights and publish them), Shadow (compute and explain them, publish
	// the base weights) or Equal (publish equal weights, the switch for an emergency).
	Mode *Mode `json:"mode,omitempty"`

	// Strategy is the law that turns readings into weights: Capacity, RTT or Static.
	Strategy *Strategy `json:"strategy,omitempty"`

	// Blend is the part of the computed weights in the weighted sum with the base weights, 0% to 100%.
	// Begin with 25% to introduce the engine gently.
	Blend *Percent `json:"blend,omitempty"`

	// Base is what an endpoint is taken to be worth before anything was measured: Equal, or CPURequest
	// (in proportion to the Pod's CPU request; Equal for a Service in which an endpoint has none).
	Base *Base `json:"base,omitempty"`

	// Signals says where readings come from.
	Signals *Signals `json:"signals,omitempty"`

	// Capacity are the parameters of the strategy Capacity.
	Capacity *CapacityParameters `json:"capacity,omitempty"`

	// RTT are the parameters of the strategy RTT.
	RTT *RTTParameters `json:"rtt,omitempty"`

	// Publish says when changed weights are sent to the fleet.
	Publish *Publish `json:"publish,omitempty"`
}

// Mode is a BalancePolicy's mode.
// +kubebuilder:validation:Enum=Enforce;Shadow;Equal
type Mode string

// The modes of a BalancePolicy.
const (
	ModeEnforce Mode = "Enforce"
	ModeShadow  Mode = "Shadow"
	ModeEqual   Mode = "Equal"
)

// Strategy names a law of weights.
// +kubebuilder:validation:Enum=Capacity;RTT;Static
type Strategy string

// The strategies of a BalancePolicy.
const (
	StrategyCapacity Strategy = "Capacity"
	StrategyRTT      Strategy = "RTT"
	StrategyStatic   Strategy = "Static"
)

// Base names what an endpoint is worth before anything was measured.
// +kubebuilder:validation:Enum=Equal;CPURequest
type Base string

// The bases of a BalancePolicy.
const (
	BaseEqual      Base = "Equal"
	BaseCPURequest Base = "CPURequest"
)

// Percent is a number with a percent sign, "0%" to "100%", decimals allowed.
// +kubebuilder:validation:Pattern=`^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)%$`
type Percent string

// Signals says where readings come from: the endpoints themselves, or a Prometheus server that scrapes
// them. A policy names one of the two at most, and the most specific policy that names one decides; if
// none does the endpoints are scraped. Envoy's load reports come to either.
//
// +kubebuilder:validation:XValidation:rule="!has(self.scrape) || !has(self.prometheus)",message="must have at most one of scrape and prometheus"
type Signals struct {
	// Scrape reads Prometheus metrics from the endpoints themselves. Which endpoints, and at which
	// port, path and scheme, their annotations prometheus.io/scrape, port, path and scheme say.
	Scrape *Scrape `json:"scrape,omitempty"`
	// Prometheus asks a server that scrapes the endpoints already, in place of scraping them again.
	Prometheus *Prometheus `json:"prometheus,omitempty"`
	// LoadReports asks the Envoys for what they see of each endpoint: requests that succeeded, failed and
	// are in service. Failures are then Envoy's to tell, and what an endpoint says it completes is held
	// against it. Without CPU, which no Envoy knows, they do not make a capacity.
	LoadReports *bool `json:"loadReports,omitempty"`
}

// Scrape says how often the endpoints' metrics are read and which families carry which term.
//
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || !has(self.interval) || duration(self.timeout) <= duration(self.interval)",message="must be at most the interval",fieldPath=".timeout"
type Scrape struct {
	// Interval between two scrapes of a target, 500ms to 1m.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('500ms') && duration(self) <= duration('1m')",message="must be a duration between 500ms and 1m"
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Timeout of one scrape, more than 0, at most the interval.
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="must be a duration of more than 0s"
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// Preset fills what the four terms below leave out, for a well-known exporter.
	Preset *Preset `json:"preset,omitempty"`
	// CPU is the endpoint's use of its CPU limit.
	CPU *CPUMetric `json:"cpu,omitempty"`
	// Requests counts finished requests and which of them failed.
	Requests *RequestsMetric `json:"requests,omitempty"`
	// Latency is the histogram of response times, in seconds.
	Latency *LatencyMetric `json:"latency,omitempty"`
	// InFlight is the number of requests being served.
	InFlight *InFlightMetric `json:"inFlight,omitempty"`
}

// Preset names the metrics of a well-known exporter.
// +kubebuilder:validation:Enum=go;grpc-go;envoy;node;vllm
type Preset string

// The presets of BalancePolicy.spec.signals, scrape.preset and prometheus.preset.
const (
	PresetGo     Preset = "go"
	PresetGRPCGo Preset = "grpc-go"
	PresetEnvoy  Preset = "envoy"
	PresetNode   Preset = "node"
	PresetVLLM   Preset = "vllm"
)

// Prometheus says which server knows the endpoints' metrics, and what it is asked.
//
// A result of a query is about the endpoints of the Pod that its labels namespace and pod name, else
// about the endpoint at the host of its label instance.
type Prometheus struct {
	// Server is the name of a server that was given to serve --prometheus NAME=URL. Required.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Server string `json:"server"`
	// Interval at which the server scrapes the endpoints, 1s to 2m; it is asked as often. Readings
	// cover two intervals, at least 6s, and half an interval more.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('2m')",message="must be a duration between 1s and 2m"
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Preset says which metrics the server is asked for where Queries says nothing.
	Preset *Preset `json:"preset,omitempty"`
	// Queries replace those of the preset, term by term.
	Queries *PrometheusQueries `json:"queries,omitempty"`
}

// PrometheusQueries are expressions that give an instant vector with one result per endpoint, aggregated
// by (namespace, pod) or by instance. $window stands for the span that a reading covers, such as
// 37s500ms.
type PrometheusQueries struct {
	// CPU in use as a part of the endpoint's CPU limit, 0 to 1.
	CPU *PromQL `json:"cpu,omitempty"`
	// Requests finished per second, failed ones included, as rate(...[$window]) gives them.
	Requests *PromQL `json:"requests,omitempty"`
	// Errors are the failed ones of Requests, per second.
	Errors *PromQL `json:"errors,omitempty"`
	// LatencyP50 is the median response time in seconds. It counts together with LatencyP90 alone.
	LatencyP50 *PromQL `json:"latencyP50,omitempty"`
	// LatencyP90 is the 0.9 quantile of the response time in seconds.
	LatencyP90 *PromQL `json:"latencyP90,omitempty"`
	// InFlight is the number of requests being served.
	InFlight *PromQL `json:"inFlight,omitempty"`
}

// PromQL is an expression of Prometheus' query language, at most 4096 bytes.
// +kubebuilder:validation:MaxLength=4096
// +kubebuilder:validation:XValidation:rule="bytes(self).size() <= 4096",message="must have at most 4096 bytes"
// +kubebuilder:validation:XValidation:rule="self.trim().size() > 0 && !self.contains('\\x00')",message="must be a PromQL expression"
type PromQL string

// CPUMetric names the family of CPU use. Exactly one of its fields is set.
//
// +kubebuilder:validation:XValidation:rule="has(self.counter) != has(self.gauge)",message="must have exactly one of counter and gauge"
type CPUMetric struct {
	// Counter of CPU seconds, e.g. process_cpu_seconds_total; its rate is divided by the CPU limit.
	// +kubebuilder:validation:Pattern=`^[a-zA-Z_:][a-zA-Z0-9_:]*$`
	Counter *string `json:"counter,omitempty"`
	// Gauge of utilisation, 0 to 1 of the limit.
	// +kubebuilder:validation:Pattern=`^[a-zA-Z_:][a-zA-Z0-9_:]*$`
	Gauge *string `json:"gauge,omitempty"`
}

// RequestsMetric names the counter of finished requests.
//
// +kubebuilder:validation:XValidation:rule="has(self.counter) || has(self.errors)",message="must name the counter of finished requests"
type RequestsMetric struct {
	// Counter of finished requests, failed ones included; its series are summed.
	// +kubebuilder:validation:Pattern=`^[a-zA-Z_:][a-zA-Z0-9_:]*$`
	Counter *string `json:"counter,omitempty"`
	// Errors selects the series that count as failed: label name to an RE2 expression that must match
	// the label's whole value. All labels must match; at most 8. Example: {code: "5.."}.
	// +kubebuilder:validation:MaxProperties=8
	// +kubebuilder:validation:XValidation:rule="self.all(label, label.matches('^[a-zA-Z_][a-zA-Z0-9_]*$'))",message="must have names of labels as keys: letters, digits and _, not beginning with a digit"
	// +kubebuilder:validation:XValidation:rule="self.all(label, bytes(self[label]).size() <= 256)",message="must have expressions of at most 256 bytes"
	// +kubebuilder:validation:XValidation:rule="self.all(label, 'a'.matches(self[label]) in [true, false])",message="must be RE2 regular expressions"
	Errors map[string]string `json:"errors,omitempty"`
}

// LatencyMetric names the histogram of response times.
type LatencyMetric struct {
	// Histogram of response times in seconds, classic or native; its series are summed.
	// +required
	// +kubebuilder:validation:Pattern=`^[a-zA-Z_:][a-zA-Z0-9_:]*$`
	Histogram *string `json:"histogram,omitempty"`
}

// InFlightMetric names the gauge of requests being served.
type InFlightMetric struct {
	// Gauge of requests being served; its series are summed.
	// +required
	// +kubebuilder:validation:Pattern=`^[a-zA-Z_:][a-zA-Z0-9_:]*$`
	Gauge *string `json:"gauge,omitempty"`
}

// CapacityParameters are the parameters of the strategy Capacity.
type CapacityParameters struct {
	// SlowStart is how long a new endpoint's weight grows from a tenth to the whole, 0s to 15m. 0s turns it off.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('15m')",message="must be a duration between 0s and 15m"
	SlowStart *metav1.Duration `json:"slowStart,omitempty"`
	// Floor is the smallest weight relative to the mean, more than 0, less than 1.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:ExclusiveMinimum=true
	// +kubebuilder:validation:Maximum=1
	// +kubebuilder:validation:ExclusiveMaximum=true
	Floor *float64 `json:"floor,omitempty"`
	// Ceiling is the largest weight relative to the mean, more than 1, at most 100.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:ExclusiveMinimum=true
	// +kubebuilder:validation:Maximum=100
	Ceiling *float64 `json:"ceiling,omitempty"`
	// MaxRatio is how far above its class's median an endpoint's own word may raise its capacity,
	// 1 to 100.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxRatio *float64 `json:"maxRatio,omitempty"`
	// Tilt moves traffic towards endpoints that answer faster, 0 to 1: with 1, one that by nature takes
	// twice as long as the median gets half of the share of its capacity.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1
	Tilt *float64 `json:"tilt,omitempty"`
	// MaxShed is the largest part of the requests that Envoys may refuse (503) while all endpoints together
	// cannot do what is let in, 0% to 90%. 0% turns shedding off.
	// +kubebuilder:validation:XValidation:rule="self.matches('^(90([.]0+)?|[0-8]?[0-9]([.][0-9]+)?)%$')",message="must be between 0% and 90%"
	MaxShed *Percent `json:"maxShed,omitempty"`
	// ConfiguredRequestsPerSecond is the rate the whole Service is provisioned for, the reference of
	// qps_decay_factor. 0: the capacity the endpoint itself has shown.
	// +kubebuilder:validation:Minimum=0
	ConfiguredRequestsPerSecond *float64 `json:"configuredRequestsPerSecond,omitempty"`
}

// RTTParameters are the parameters of the strategy RTT:
// weight = base * (1 + alpha * ref/rtt) * health_score, ref = the median rtt.
type RTTParameters struct {
	// Quantile of the response time that counts as rtt: 0.5 or 0.9.
	// +kubebuilder:validation:XValidation:rule="self == 0.5 || self == 0.9",message="must be 0.5 or 0.9"
	Quantile *float64 `json:"quantile,omitempty"`
	// Alpha is how much the response time may add to the weight, 0 to 10.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	Alpha *float64 `json:"alpha,omitempty"`
	// Window over which the quantile is taken, 2s to 5m.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('2s') && duration(self) <= duration('5m')",message="must be a duration between 2s and 5m"
	Window *metav1.Duration `json:"window,omitempty"`
}

// Publish says when changed weights are sent to the fleet.
type Publish struct {
	// Interval is the shortest time between two routine pushes of a Service's weights, 2s to 10m.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('2s') && duration(self) <= duration('10m')",message="must be a duration between 2s and 10m"
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Deadband is the relative change of one weight below which nothing is sent.
	Deadband *Percent `json:"deadband,omitempty"`
	// Urgent is the relative change of one weight that is sent at once, not waiting for Interval.
	Urgent *Percent `json:"urgent,omitempty"`
	// Metadata says whether endpoints carry health_score and qps_decay_factor under envoy.lb: Always,
	// Never, or Auto (up to 1000 endpoints: a push with metadata costs Envoy two to three times as much).
	Metadata *MetadataMode `json:"metadata,omitempty"`
}

// MetadataMode says whether endpoints carry metadata.
// +kubebuilder:validation:Enum=Auto;Always;Never
type MetadataMode string

// The values of BalancePolicy.spec.publish.metadata.
const (
	MetadataAuto   MetadataMode = "Auto"
	MetadataAlways MetadataMode = "Always"
	MetadataNever  MetadataMode = "Never"
)
