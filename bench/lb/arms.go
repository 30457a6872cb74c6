package main

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// arms that can be compared. The first two differ in one word of the BalancePolicy; the others are what
// an Envoy can do without a control plane. The oracle knows what nobody is told: the true speeds.
var arms = []arm{
	{name: "LEAST_REQUEST", start: controlPlane("Equal")},
	{name: "Capacity", warms: true, start: controlPlane("Enforce")},
	{name: "ROUND_ROBIN", start: static(staticBalancer{Policy: "ROUND_ROBIN"})},
	{name: "oracle", start: static(staticBalancer{Policy: "LEAST_REQUEST", Bias: 1.5, weighted: true})},
}

func armNames() []string {
	var names []string
	for _, a := range arms {
		names = append(names, a.name)
	}
	return names
}

func armsOf(list string) ([]arm, error) {
	var chosen []arm
next:
	for name := range strings.SplitSeq(list, ",") {
		for _, a := range arms {
			if a.name == name {
				chosen = append(chosen, a)
				continue next
			}
		}
		return nil, fmt.Errorf("arm %q: want one of %s", name, strings.Join(armNames(), ", "))
	}
	return chosen, nil
}

// controlPlane balances by a BalancePolicy of the given mode that says nothing else: the defaults.
func controlPlane(mode string) func(context.Context, rig) (*running, error) {
	return func(ctx context.Context, r rig) (*running, error) {
		config := filepath.Join(r.dir, "config")
		if err := os.Mkdir(config, 0o700); err != nil {
			return nil, err
		}
		var text strings.Builder
		if err := objects.Execute(&text, map[string]any{
			"Mode": mode, "Listener": r.listeners[0], "Port": serverPort, "Workers": r.workers, "Addresses": addresses(r.servers),
		}); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(config, "lb.yaml"), []byte(text.String()), 0o600); err != nil {
			return nil, err
		}
		stack, err := demo.StartStack(ctx, demo.StackOptions{
			Binary: r.binary, EnvoyPath: r.envoy, Dir: r.dir, ConfigDir: config, Fleet: "lb/edge",
		})
		if err != nil {
			return nil, err
		}
		return &running{stop: stack.Stop}, nil
	}
}

// staticBalancer is a cluster of an Envoy with a static configuration.
type staticBalancer struct {
	Policy   string
	Bias     float64
	weighted bool // by the true speeds
}

func static(b staticBalancer) func(context.Context, rig) (*running, error) {
	return func(ctx context.Context, r rig) (*running, error) {
		admin, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			return nil, err
		}
		weights := make([]int, len(r.servers))
		for i, config := range r.serverConfigs(r.lane, 0) {
			weights[i] = 1
			if b.weighted {
				weights[i] = int(math.Round(config.Speed * 1000))
			}
		}
		var text strings.Builder
		if err := bootstrap.Execute(&text, map[string]any{
			"Admin": admin, "Listener": r.listeners[0], "Balancer": b, "Port": serverPort, "Addresses": addresses(r.servers), "Weights": weights,
		}); err != nil {
			return nil, err
		}
		envoy, err := demo.StartEnvoy(demo.EnvoyOptions{
			Path: r.envoy, Name: "envoy", Dir: r.dir, Bootstrap: []byte(text.String()), AdminURL: fmt.Sprintf("http://127.0.0.1:%d", admin),
		})
		if err != nil {
			return nil, err
		}
		stop := func() { envoy.Stop(3 * time.Second) }
		if err := envoy.WaitReady(ctx); err != nil {
			stop()
			return nil, err
		}
		return &running{stop: stop}, nil
	}
}

func addresses(servers demo.Fleet) []string {
	var list []string
	for _, s := range servers {
		list = append(list, s.Address().Addr().String())
	}
	return list
}

var objects = template.Must(template.New("objects").Parse(`apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: evenkeel}
spec: {controllerName: evenkeel.io/controlplane}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: lb, annotations: {evenkeel.io/bind-address: 127.0.0.1}}
spec:
  gatewayClassName: evenkeel
  listeners: [{name: http, protocol: HTTP, port: {{.Listener}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: lb}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: servers, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: servers, namespace: lb}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: servers-1
  namespace: lb
  labels: {kubernetes.io/service-name: servers}
  annotations: {prometheus.io/scrape: "true", prometheus.io/port: "{{.Port}}", evenkeel.io/cpu-limit: "{{.Workers}}"}
addressType: IPv4
ports: [{name: http, port: {{.Port}}}]
endpoints:
{{- range .Addresses}}
- addresses: [{{.}}]
{{- end}}
---
apiVersion: evenkeel.io/v1alpha1
kind: BalancePolicy
metadata: {name: servers, namespace: lb}
spec:
  targetRefs: [{group: "", kind: Service, name: servers}]
  mode: {{.Mode}}
`))

var bootstrap = template.Must(template.New("bootstrap").Parse(`admin: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Admin}}}}}
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
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: servers, timeout: 0s}}]}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: servers
    type: STATIC
    connect_timeout: 1s
    lb_policy: {{.Balancer.Policy}}
{{- if .Balancer.Bias}}
    least_request_lb_config: {active_request_bias: {default_value: {{.Balancer.Bias}}, runtime_key: lb.bias}}
{{- end}}
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
    load_assignment:
      cluster_name: servers
      endpoints:
      - lb_endpoints:
{{- range $i, $address := .Addresses}}
        - {load_balancing_weight: {{index $.Weights $i}}, endpoint: {address: {socket_address: {address: {{$address}}, port_value: {{$.Port}}}}}}
{{- end}}
`))
