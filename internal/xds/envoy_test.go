package xds

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/signals"
	loadreports "evenkeel.io/controlplane/internal/signals/lrs"
	"evenkeel.io/controlplane/internal/translate"
)

// envoyBinary is $ENVOY, the one under .tools, or the one on PATH.
func envoyBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("ENVOY"); path != "" {
		return path
	}
	if path, err := filepath.Abs("../../.tools/bin/envoy"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		t.Skip("no Envoy: set ENVOY to one, or put it on PATH")
	}
	return path
}

// envoy is a real one, started from our bootstrap.
type envoy struct {
	t           *testing.T
	log         string // file
	admin, http string // URLs
	listener    uint32 // the port that its listener shall take
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	return int(port)
}

// lasting is an address where a control plane may listen, end, and listen again.
func lasting(t *testing.T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
}

// startEnvoy starts one from the bootstrap of opts, towards a control plane, with more YAML after it.
func startEnvoy(t *testing.T, xdsAddress string, opts translate.BootstrapOptions, more func(listener int) string) *envoy {
	t.Helper()
	binary := envoyBinary(t)
	host, port, err := net.SplitHostPort(xdsAddress)
	if err != nil {
		t.Fatal(err)
	}
	xdsPort, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	admin, listener := freePort(t), freePort(t)
	opts.NodeID, opts.XDSHost, opts.XDSPort, opts.AdminPort, opts.Workers, opts.Zone = "envoy-1", host, xdsPort, admin, 2, "a"
	text, err := translate.Bootstrap(opts)
	if err != nil {
		t.Fatal(err)
	}
	if more != nil {
		text = append(text, more(listener)...)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", config, "--concurrency", "2", "--disable-hot-restart", "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("Envoy's log:\n%s", text)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return &envoy{t: t, log: log.Name(), admin: fmt.Sprintf("http://127.0.0.1:%d", admin), http: fmt.Sprintf("http://127.0.0.1:%d", listener), listener: uint32(listener)}
}

// get returns "" where there is no answer with 200.
func get(url string) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return strings.TrimSpace(string(body))
}

func (e *envoy) until(what string, holds func() bool) {
	e.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.t.Fatalf("never: %s", what)
		}
	}
}

// stat is a counter or gauge of Envoy's, -1 where there is none.
func (e *envoy) stat(name string) int {
	e.t.Helper()
	var stats struct {
		Stats []struct {
			Name  string
			Value int
		}
	}
	if err := json.Unmarshal([]byte(get(e.admin+"/stats?format=json&filter="+url.QueryEscape("^"+name+"$"))), &stats); err != nil || len(stats.Stats) == 0 {
		return -1
	}
	return stats.Stats[0].Value
}

// endpoint is an assignment with the address of a backend's URL.
func (e *envoy) endpoint(name, backend string, weight uint32) types.Resource {
	e.t.Helper()
	u, err := url.Parse(backend)
	if err != nil {
		e.t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		e.t.Fatal(err)
	}
	return assignment(name, weight, uint32(port))
}

// configuration is a listener that routes everything to one cluster with one endpoint.
func (e *envoy) configuration(backend string, weight uint32) map[resource.Type][]types.Resource {
	e.t.Helper()
	packed := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			e.t.Fatal(err)
		}
		return a
	}
	resources := resourcesOf("shop/cart:80", 1)
	resources[resource.EndpointType] = []types.Resource{e.endpoint("shop/cart:80", backend, weight)}
	resources[resource.RuntimeType] = []types.Resource{&runtimev3.Runtime{Name: translate.RuntimeLayer, Layer: &structpb.Struct{}}}
	resources[resource.ListenerType] = []types.Resource{&listenerv3.Listener{
		Name: "http", Address: loopback(e.listener),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "http",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(&hcmv3.HttpConnectionManager{
				StatPrefix:     "http",
				RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: adsSource(), RouteConfigName: "web"}},
				HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&routerv3.Router{})}}},
			})},
		}}}},
	}}
	return resources
}

func TestRealEnvoy(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	t.Cleanup(backend.Close)
	cache := newCache()
	p := startPlaneOf(t, cache, lasting(t), Options{Identifier: "replica-0"})
	e := startEnvoy(t, p.address, translate.BootstrapOptions{Fleet: fleet}, nil)
	p.set(fleet, "1", e.configuration(backend.URL, 1))

	e.until("LIVE", func() bool { return get(e.admin+"/ready") == "LIVE" })
	e.until("a request flows", func() bool { return get(e.http) == "hello" })
	for _, kind := range []translate.Type{translate.CDS, translate.EDS, translate.LDS, translate.RDS, translate.RTDS} {
		p.untilState("envoy-1", kind, Synced)
	}
	proxy := p.Registry().Proxies()[0]
	if proxy.Fleet != fleet || !strings.HasPrefix(proxy.Build, "1.") || proxy.Agent != "envoy" || proxy.Zone != "a" || proxy.Workers != 2 || proxy.Protocol != delta {
		t.Errorf("%+v", proxy)
	}
	if got := p.Registry().Workers(fleet); got != 2 {
		t.Errorf("%d workers, want 2", got)
	}
	if got := get(e.admin + "/stats?type=TextReadouts"); !strings.Contains(got, "replica-0") {
		t.Error("Envoy does not know which replica it listens to")
	}
	e.until("a load report stream", func() bool { return p.counter("evenkeel_xds_streams", lrs) == 1 })

	// A push of weights takes effect.
	p.set(fleet, "2", e.configuration(backend.URL, 7))
	p.until("the weights are acknowledged", func() bool {
		s := p.state("envoy-1", translate.EDS)
		return s.State == Synced && s.Version == p.at("2", translate.EDS)
	})
	e.until("weight 7", func() bool { return strings.Contains(get(e.admin+"/clusters"), "::weight::7") })

	// A refusal names its resource, and is not answered.
	sent := p.counter("evenkeel_xds_responses_total")
	p.set(fleet, "3", e.configuration(backend.URL, 0))
	p.untilState("envoy-1", translate.EDS, Nacked)
	n := p.Registry().Nacks()[0]
	if n.Resource != "shop/cart:80" || n.Type != translate.EDS || !strings.Contains(n.Message, "cluster_name") || n.Count != 1 {
		t.Errorf("%+v", n)
	}
	if get(e.http) != "hello" {
		t.Error("the refused endpoints took the accepted ones with them")
	}
	p.set(fleet, "4", e.configuration(backend.URL, 9))
	p.untilState("envoy-1", translate.EDS, Synced)
	p.until("both responses are counted", func() bool { return p.counter("evenkeel_xds_responses_total")-sent >= 2 })
	if got := p.counter("evenkeel_xds_responses_total") - sent; got != 2 {
		t.Errorf("%v responses for the refused version and its successor, want 2", got)
	}
	if n := p.Registry().Nacks(); len(n) != 1 {
		t.Errorf("%d refusals, want 1", len(n))
	}
	if got := p.counter("evenkeel_xds_streams", lrs); got != 1 || e.stat("load_reporter.requests") > 0 {
		t.Errorf("%v load report streams, %d requests for reports; want one silent stream", got, e.stat("load_reporter.requests"))
	}

	// The control plane goes and comes back with the same configuration: Envoy serves on and is sent
	// no resource again.
	updates := e.stat("cluster.shop/cart_80.update_success")
	p.stop()
	if get(e.http) != "hello" {
		t.Error("requests fail without the control plane")
	}
	again := startPlaneOf(t, cache, p.address, Options{})
	for _, kind := range []translate.Type{translate.CDS, translate.EDS, translate.LDS, translate.RDS, translate.RTDS} {
		again.untilState("envoy-1", kind, Synced)
	}
	if got := again.counter("evenkeel_xds_resources_total"); got != 0 {
		t.Errorf("%v resources sent after the return, want none", got)
	}
	if got := e.stat("cluster.shop/cart_80.update_success"); got != updates || got < 1 {
		t.Errorf("update_success %d, before %d", got, updates)
	}
	if get(e.http) != "hello" {
		t.Error("requests fail after the return")
	}
}

// TestRealEnvoyForEndpointsOnly is the smallest way in: an Envoy with a listener and a cluster of its
// own, the cluster as the comment in the bootstrap shows it.
func TestRealEnvoyForEndpointsOnly(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	t.Cleanup(backend.Close)
	p := startPlane(t, Options{})
	bootstrap, err := translate.Bootstrap(translate.BootstrapOptions{Fleet: "eds:shop"})
	if err != nil {
		t.Fatal(err)
	}
	var cluster strings.Builder
	for line := range strings.Lines(string(bootstrap)) {
		if example, ok := strings.CutPrefix(line, "#   "); ok {
			cluster.WriteString("  " + example)
		}
	}
	e := startEnvoy(t, p.address, translate.BootstrapOptions{Fleet: "eds:shop"}, func(port int) string {
		// static_resources.clusters is what our bootstrap ends with.
		return cluster.String() + fmt.Sprintf(`
  listeners:
  - name: mine
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: mine
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: cart}}]}]}
`, port)
	})
	p.set("eds:shop", "1", map[resource.Type][]types.Resource{
		resource.EndpointType: {e.endpoint("shop/cart:8080", backend.URL, 3), assignment("shop/pay:80", 1, 1)},
	})
	e.until("LIVE", func() bool { return get(e.admin+"/ready") == "LIVE" })
	e.until("a request flows", func() bool { return get(e.http) == "hello" })
	p.untilState("envoy-1", translate.EDS, Synced)
	if s := p.state("envoy-1", translate.CDS); s.State != NotSubscribed {
		t.Errorf("clusters: %+v, want NOT_SUBSCRIBED", s)
	}
}

// TestRealEnvoyReportsLoad: what an Envoy reports of two endpoints is, request for request, what they
// served; it is asked when something is wanted and is silent before and after.
func TestRealEnvoyReportsLoad(t *testing.T) {
	var served [2]atomic.Int64
	backend := func(i, status int) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			served[i].Add(1)
			w.WriteHeader(status)
		}))
		t.Cleanup(s.Close)
		return s
	}
	good, bad := backend(0, http.StatusNotFound), backend(1, http.StatusInternalServerError)
	p, reports := startReporting(t)
	e := startEnvoy(t, p.address, translate.BootstrapOptions{Fleet: fleet}, nil)
	resources := e.configuration(good.URL, 1)
	cla := resources[resource.EndpointType][0].(*endpointv3.ClusterLoadAssignment)
	more := e.endpoint("shop/cart:80", bad.URL, 1).(*endpointv3.ClusterLoadAssignment)
	cla.Endpoints[0].LbEndpoints = append(cla.Endpoints[0].LbEndpoints, more.Endpoints[0].LbEndpoints...)
	cla.Endpoints[0].LoadBalancingWeight.Value = 2
	p.set(fleet, "1", resources)
	e.until("requests flow", func() bool {
		resp, err := http.Get(e.http)
		return err == nil && resp.Body.Close() == nil && served[0].Load() > 0
	})
	e.until("a load report stream", func() bool { return p.counter("evenkeel_xds_streams", lrs) == 1 })
	if n := e.stat("load_reporter.requests"); n > 0 {
		t.Errorf("%d requests for reports that nobody wants", n)
	}

	addresses := [2]string{strings.TrimPrefix(good.URL, "http://"), strings.TrimPrefix(bad.URL, "http://")}
	want := loadreports.Spec{Service: "shop/cart:80", Fleets: []string{fleet}, Endpoints: addresses[:]}
	reports.addresses = addresses
	reports.SetTargets([]loadreports.Spec{want})
	reports.until("an idle report", func(n [2]signals.Reported) bool { return n[0].All && n[1].All })
	// A burst that two intervals share is counted twice or not at all where a turn falls between: another one.
	match := func(n [2]signals.Reported) bool {
		return n[0].Done == float64(served[0].Load()) && n[0].Failed == 0 && n[0].Issued == n[0].Done &&
			n[1].Failed == float64(served[1].Load()) && n[1].Done == 0
	}
	for attempt := 0; ; attempt++ {
		reports.until("silence", func(n [2]signals.Reported) bool { return n[0].Issued+n[1].Issued == 0 })
		served[0].Store(0)
		served[1].Store(0)
		for range 60 {
			if resp, err := http.Get(e.http); err == nil {
				resp.Body.Close()
			}
		}
		var got [2]signals.Reported
		reports.until("the burst is reported", func(n [2]signals.Reported) bool { got = n; return n[0].Issued > 0 })
		if match(got) {
			break
		}
		if attempt == 5 {
			t.Fatalf("%+v; served %d and %d", got, served[0].Load(), served[1].Load())
		}
	}

	reports.SetTargets(nil)
	e.until("it was told to stop", func() bool { return e.stat("load_reporter.requests") == 2 })
	reports.SetTargets([]loadreports.Spec{want})
	reports.until("reports again", func(n [2]signals.Reported) bool { return n[0].All })
	if n := e.stat("cluster_manager.cluster_modified"); n > 0 {
		t.Errorf("%d clusters were modified", n)
	}
	if n := e.stat("load_reporter.errors"); n > 0 {
		t.Errorf("%d errors of the load reporter", n)
	}
}
