package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/template"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"evenkeel.io/controlplane/internal/demo"
)

// controlPlane balances by a BalancePolicy of these fields and no others. Each Envoy belongs to a Gateway
// of its own, because Envoys of one would listen on the same port; the weights are the Service's.
func controlPlane(policy ...string) func(context.Context, rig) (*running, error) {
	return func(ctx context.Context, r rig) (*running, error) {
		config := filepath.Join(r.dir, "config")
		if err := os.Mkdir(config, 0o700); err != nil {
			return nil, err
		}
		var text bytes.Buffer
		if err := objects.Execute(&text, map[string]any{
			"Policy": policy, "Listeners": r.listeners, "Port": serverPort, "Workers": r.workers, "Addresses": r.addresses(),
		}); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(config, "lb.yaml"), text.Bytes(), 0o600); err != nil {
			return nil, err
		}
		if err := moveState(r.state, r.lane, time.Now()); err != nil {
			return nil, err
		}
		fleets := make([]string, len(r.listeners))
		for i := range fleets {
			fleets[i] = fmt.Sprintf("lb/edge-%d", i)
		}
		stack, err := demo.StartStack(ctx, demo.StackOptions{
			Binary: r.binary, EnvoyPath: r.envoy, Dir: r.dir, StateDir: r.state, ConfigDir: config, Fleets: fleets,
			Concurrency: r.concurrency, XDSPort: r.port(0), AdminPort: r.port(1), EnvoyAdminPort: r.port(10),
		})
		if err != nil {
			return nil, err
		}
		c := &controlled{stack: stack}
		return &running{stop: stack.Stop, pushes: c.pushes, weights: c.weights, kill: c.kill, revive: c.revive}, nil
	}
}

// controlled is a control plane that may be killed and revived.
type controlled struct {
	mu     sync.Mutex // guards what follows
	stack  *demo.Stack
	dead   bool
	before float64 // pushes of those that were killed
}

// pushes of weights and endpoints of the Service since the first start.
func (c *controlled) pushes(ctx context.Context) (float64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pushesSoFar(ctx)
}

func (c *controlled) pushesSoFar(ctx context.Context) (float64, error) {
	if c.dead {
		return c.before, nil
	}
	families, err := metricsPage(ctx, c.stack.AdminURL+"/metrics")
	if err != nil {
		return 0, err
	}
	sum := c.before
	for _, m := range families["evenkeel_weight_pushes_total"].GetMetric() {
		sum += m.GetCounter().GetValue()
	}
	return sum, nil
}

// weights are the updates of weights that the control plane remembers, the newest first.
func (c *controlled) weights(ctx context.Context) ([]published, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return nil, errors.New("the control plane is dead")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.stack.AdminURL+"/history?service=lb/servers:80", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var history struct{ Pushes []published }
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, maxMetricsPage)).Decode(&history); err != nil {
		return nil, fmt.Errorf("/history: %s: %w", response.Status, err)
	}
	return history.Pushes, nil
}

// kill ends the control plane without warning.
func (c *controlled) kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, err := c.pushesSoFar(context.Background())
	c.stack.ControlPlane.Kill()
	c.before, c.dead = before, true
	return err
}

// revive starts it again as it was started, on the state that the dead one left.
func (c *controlled) revive(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dead {
		return errors.New("the control plane is alive")
	}
	if err := c.stack.StartControlPlane(ctx); err != nil {
		return err
	}
	c.dead = false
	return nil
}

// maxMetricsPage bounds what is read of a metrics page.
const maxMetricsPage = 1 << 20

// metricsPage reads metrics in the text format.
func metricsPage(ctx context.Context, url string) (map[string]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(http.MaxBytesReader(nil, response.Body, maxMetricsPage))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return families, nil
}

// addresses of the servers, without the port.
func (r rig) addresses() []string {
	var list []string
	for _, s := range r.servers {
		list = append(list, s.Address().Addr().String())
	}
	return list
}

var objects = template.Must(template.New("objects").Parse(strings.TrimLeft(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: evenkeel}
spec: {controllerName: evenkeel.io/controlplane}
{{- range $i, $port := .Listeners}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge-{{$i}}, namespace: lb, annotations: {evenkeel.io/bind-address: 127.0.0.1}}
spec:
  gatewayClassName: evenkeel
  listeners: [{name: http, protocol: HTTP, port: {{$port}}}]
{{- end}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: lb}
spec:
  parentRefs: [{{range $i, $_ := .Listeners}}{{if $i}}, {{end}}{name: edge-{{$i}}}{{end}}]
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
{{- range .Policy}}
  {{.}}
{{- end}}
`, "\n")))
