package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"text/template"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// balancer is how Envoys with a static configuration share the load. Everything else, outlier detection,
// retries, limits and panic included, is as our control plane configures it.
type balancer struct {
	Policy   string // a load_balancing_policy as YAML
	EDS      string // a folder with the file endpoints.json that the endpoints come from; "": they are in the bootstrap
	weighted bool   // by the true speeds
}

// The load_balancing_policy of Envoy's own balancers. With equal weights LEAST_REQUEST does not use its
// bias; with others ours is 1.5.
const (
	roundRobin   = `{name: envoy.load_balancing_policies.round_robin, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin}}`
	leastRequest = `{name: envoy.load_balancing_policies.least_request, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest,
        active_request_bias: {default_value: 1.5, runtime_key: lb.bias}}}`
	slowStart = `{name: envoy.load_balancing_policies.least_request, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest,
        slow_start_config: {slow_start_window: 30s}}}`
	// The periods are the defaults of gRFC A58 and of Envoy, and so is the penalty of gRFC A58; Envoy's is
	// 0, with which a server that fails fast would look idle.
	clientSideWeighted = `{name: envoy.load_balancing_policies.client_side_weighted_round_robin, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin,
        blackout_period: 10s, weight_expiration_period: 180s, weight_update_period: 1s, error_utilization_penalty: 1.0}}`
)

// static starts Envoys that need nobody.
func static(b balancer) func(context.Context, rig) (*running, error) {
	return func(ctx context.Context, r rig) (*running, error) {
		stop, err := startEnvoys(ctx, r, b)
		if err != nil {
			return nil, err
		}
		return &running{stop: stop}, nil
	}
}

// loadReports lets the servers say with each answer how busy they are.
func loadReports(start func(context.Context, rig) (*running, error)) func(context.Context, rig) (*running, error) {
	return func(ctx context.Context, r rig) (*running, error) {
		for _, s := range r.servers {
			s.SetLoadReports(true)
		}
		return start(ctx, r)
	}
}

// startEnvoys returns when all are ready.
func startEnvoys(ctx context.Context, r rig, b balancer) (stop func(), err error) {
	var envoys []*demo.Envoy
	stop = func() {
		var all sync.WaitGroup
		for _, e := range envoys {
			all.Go(func() { e.Stop(3 * time.Second) })
		}
		all.Wait()
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	for i := range r.listeners {
		admin := r.port(10 + i)
		config, err := b.bootstrap(r, i, admin)
		if err != nil {
			return nil, err
		}
		envoy, err := demo.StartEnvoy(demo.EnvoyOptions{
			Path: r.envoy, Name: fmt.Sprintf("envoy-%d", i), Dir: r.dir, Bootstrap: config,
			AdminURL: fmt.Sprintf("http://127.0.0.1:%d", admin), Concurrency: r.concurrency,
		})
		if err != nil {
			return nil, err
		}
		envoys = append(envoys, envoy)
	}
	for _, e := range envoys {
		if err := e.WaitReady(ctx); err != nil {
			return nil, err
		}
	}
	return stop, nil
}

// bootstrap of the i-th Envoy.
func (b balancer) bootstrap(r rig, i int, admin uint16) ([]byte, error) {
	weights := make([]int, len(r.servers))
	for j, s := range r.servers {
		weights[j] = 1
		if b.weighted {
			weights[j] = int(math.Round(s.Config().Speed * 1000))
		}
	}
	var text bytes.Buffer
	err := bootstrap.Execute(&text, map[string]any{
		"Envoy": i, "Admin": admin, "Listener": r.listeners[i], "Balancer": b, "Port": serverPort, "Addresses": r.addresses(), "Weights": weights,
	})
	return text.Bytes(), err
}

var bootstrap = template.Must(template.New("bootstrap").Parse(strings.TrimLeft(`
node: {id: lb-{{.Envoy}}, cluster: lb}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Admin}}}}}
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: {{.Listener}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          use_remote_address: true
          normalize_path: true
          merge_slashes: true
          server_header_transformation: PASS_THROUGH
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              retry_policy:
                retry_on: connect-failure,refused-stream,reset-before-request
                num_retries: 4
                retry_host_predicate:
                - name: envoy.retry_host_predicates.previous_hosts
                  typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}
                host_selection_retry_max_attempts: 20
              routes: [{match: {prefix: /}, route: {cluster: servers, timeout: 0s}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: servers
    connect_timeout: 2s
    load_balancing_policy:
      policies:
      - typed_extension_config: {{.Balancer.Policy}}
    common_lb_config: {healthy_panic_threshold: {value: 0}}
    outlier_detection: {consecutive_5xx: 5, base_ejection_time: 30s, max_ejection_percent: 20, always_eject_one_host: true}
    circuit_breakers: {thresholds: [{max_connections: 4294967295, max_pending_requests: 4294967295, max_requests: 4294967295, max_retries: 4294967295}]}
{{- if .Balancer.EDS}}
    type: EDS
    ignore_health_on_host_removal: true
    eds_cluster_config:
      eds_config: {resource_api_version: V3, path_config_source: {path: "{{.Balancer.EDS}}/endpoints.json", watched_directory: {path: "{{.Balancer.EDS}}"}}}
{{- else}}
    type: STATIC
    load_assignment:
      cluster_name: servers
      endpoints:
      - lb_endpoints:
{{- range $i, $address := .Addresses}}
        - {load_balancing_weight: {{index $.Weights $i}}, endpoint: {address: {socket_address: {address: {{$address}}, port_value: {{$.Port}}}}}}
{{- end}}
{{- end}}
`, "\n")))
