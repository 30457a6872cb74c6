package v1alpha1

import "maps"

// Terms are the four families of a Scrape. A nil term is one the exporter does not have.
type Terms struct {
	CPU      *CPUMetric
	Requests *RequestsMetric
	Latency  *LatencyMetric
	InFlight *InFlightMetric
}

// Presets are the families of well-known exporters.
//
//   - go: client_golang's process collector, and the customary names of HTTP server instrumentation.
//   - grpc-go: go-grpc-middleware's Prometheus provider. Its failures are the status codes that HTTP
//     maps to 5xx, without Unimplemented, which is the caller's mistake. It has no gauge of requests in flight.
//   - envoy: an Envoy in front of the server. It exports no CPU time, and its histogram of request
//     times counts milliseconds, so neither is named.
//   - node: prom-client's default metrics and the histogram of express-prom-bundle, whose count is
//     the number of requests. It has no gauge of requests in flight.
//   - vllm: the engine's own metrics. The use of the KV cache stands for CPU: it is what runs out first.
func Presets(p Preset) (Terms, bool) {
	terms, ok := presets[p]
	return terms, ok
}

var presets = map[Preset]Terms{
	PresetGo: {
		CPU:      &CPUMetric{Counter: new("process_cpu_seconds_total")},
		Requests: &RequestsMetric{Counter: new("http_requests_total"), Errors: map[string]string{"code": "5.."}},
		Latency:  &LatencyMetric{Histogram: new("http_request_duration_seconds")},
		InFlight: &InFlightMetric{Gauge: new("http_requests_in_flight")},
	},
	PresetGRPCGo: {
		CPU: &CPUMetric{Counter: new("process_cpu_seconds_total")},
		Requests: &RequestsMetric{Counter: new("grpc_server_handled_total"), Errors: map[string]string{
			"grpc_code": "Unknown|DeadlineExceeded|Internal|Unavailable|DataLoss",
		}},
		Latency: &LatencyMetric{Histogram: new("grpc_server_handling_seconds")},
	},
	PresetEnvoy: {
		Requests: &RequestsMetric{Counter: new("envoy_http_downstream_rq_xx"), Errors: map[string]string{
			"envoy_response_code_class": "5",
		}},
		InFlight: &InFlightMetric{Gauge: new("envoy_http_downstream_rq_active")},
	},
	PresetNode: {
		CPU: &CPUMetric{Counter: new("process_cpu_seconds_total")},
		Requests: &RequestsMetric{Counter: new("http_request_duration_seconds_count"), Errors: map[string]string{
			"status_code": "5..",
		}},
		Latency: &LatencyMetric{Histogram: new("http_request_duration_seconds")},
	},
	PresetVLLM: {
		CPU: &CPUMetric{Gauge: new("vllm:kv_cache_usage_perc")},
		Requests: &RequestsMetric{Counter: new("vllm:request_success_total"), Errors: map[string]string{
			"finished_reason": "abort|error",
		}},
		Latency:  &LatencyMetric{Histogram: new("vllm:e2e_request_latency_seconds")},
		InFlight: &InFlightMetric{Gauge: new("vllm:num_requests_running")},
	},
}

// expanded is s with the terms of its own preset where it says nothing itself. A preset is a short way
// to write its terms: in a merge they count as written in the policy that names the preset.
func (s Scrape) expanded() Scrape {
	if s.Preset == nil {
		return s
	}
	terms := presets[*s.Preset]
	if s.CPU == nil && terms.CPU != nil {
		s.CPU = terms.CPU.DeepCopy()
	}
	if terms.Requests != nil {
		s.Requests = s.Requests.over(terms.Requests)
	}
	if s.Latency == nil && terms.Latency != nil {
		s.Latency = terms.Latency.DeepCopy()
	}
	if s.InFlight == nil && terms.InFlight != nil {
		s.InFlight = terms.InFlight.DeepCopy()
	}
	return s
}

// over is r with what it leaves out taken from general. Errors is one field: expressions written for
// one exporter's labels are not mixed with those of another's.
func (r *RequestsMetric) over(general *RequestsMetric) *RequestsMetric {
	if general == nil {
		return r
	}
	if r == nil {
		r = &RequestsMetric{}
	}
	errors := r.Errors
	if errors == nil {
		errors = general.Errors
	}
	return &RequestsMetric{Counter: first(r.Counter, general.Counter), Errors: maps.Clone(errors)}
}
