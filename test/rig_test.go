// Package test holds the feature tests: files in, traffic out. Every test runs the real program (built
// with the race detector), a real Envoy started from our own bootstrap, and simulated backends on
// loopback addresses, or on addresses of Pods where the objects come from a real API server. No test asserts how long something takes; deadlines are generous and say when a
// thing will never come.
package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
)

// program is the path of the control plane's binary.
var program string

func TestMain(m *testing.M) {
	kubetest.PrivateNetwork()
	dir, err := os.MkdirTemp("", "evenkeel-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "controlplane")
	if out, err := exec.Command("go", "build", "-race", "-o", program, "evenkeel.io/controlplane/cmd/controlplane").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		os.Exit(1)
	}
	code := kubetest.Main(m).Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// network gives every rig addresses of its own, 127.77.N.0/24 or 10.250.N.0/24, so that tests cannot meet.
var network atomic.Uint32

// rig is a directory of objects or a cluster, the program serving it, an Envoy, and backends.
type rig struct {
	t        *testing.T
	net      [3]byte // of the backends, which are .1, .2 ...
	config   string  // directory of objects
	cluster  string  // kubeconfig, in place of the directory
	state    string
	logs     string
	plane    *demo.Process
	envoy    *demo.Envoy
	backends []*demo.Backend
	pods     []*pod // of the backends, in a cluster
	alone    bool   // ask asks on a connection of its own: of several Envoys at the port either may get it
	ports    struct{ xds, admin, listener, envoyAdmin, backend, limits uint16 }
}

// newRig starts nothing but n backends of equal speed, two workers each.
func newRig(t *testing.T, n int) *rig {
	t.Helper()
	return newRigIn(t, [2]byte{127, 77}, n, "")
}

// newClusterRig is newRig with backends that have addresses of Pods, and a cluster that a kubeconfig leads to.
func newClusterRig(t *testing.T, n int, kubeconfig string) *rig {
	t.Helper()
	return newRigIn(t, [2]byte{10, 250}, n, kubeconfig)
}

func newRigIn(t *testing.T, net [2]byte, n int, kubeconfig string) *rig {
	t.Helper()
	r := &rig{
		t: t, net: [3]byte{net[0], net[1], byte(network.Add(1))}, config: t.TempDir(), cluster: kubeconfig, state: t.TempDir(), logs: t.TempDir(),
	}
	for _, port := range []*uint16{&r.ports.xds, &r.ports.admin, &r.ports.listener, &r.ports.envoyAdmin, &r.ports.limits} {
		*port = r.freePort(netip.MustParseAddr("127.0.0.1"))
	}
	var all []netip.Addr
	for i := range n {
		all = append(all, r.address(i))
	}
	if n > 0 {
		r.ports.backend = r.freePort(all...)
	}
	for i := range n {
		r.addBackend(i, demo.BackendConfig{})
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range []string{"controlplane.log", "envoy.log"} {
				if body, err := os.ReadFile(filepath.Join(r.logs, log)); err == nil {
					t.Logf("%s:\n%s", log, tail(string(body), 60))
				}
			}
		}
	})
	return r
}

func (r *rig) freePort(addresses ...netip.Addr) uint16 {
	r.t.Helper()
	port, err := demo.FreePort(0, addresses...)
	if err != nil {
		r.t.Fatal(err)
	}
	return port
}

func (r *rig) address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{r.net[0], r.net[1], r.net[2], byte(i + 1)})
}

// addBackend starts backend i; fields of config that are zero get values that suit most tests.
func (r *rig) addBackend(i int, config demo.BackendConfig) *demo.Backend {
	r.t.Helper()
	config.Address = netip.AddrPortFrom(r.address(i), r.ports.backend)
	config.Seed = uint64(i + 1)
	if config.Workers == 0 {
		config.Workers = 2
	}
	if config.Speed == 0 {
		config.Speed = 1
	}
	if config.Work.Mean == 0 {
		config.Work = demo.Distribution{Shape: demo.Exponential, Mean: 10 * time.Millisecond}
	}
	start := demo.StartBackend
	if r.cluster != "" {
		start = demo.NewBackend // which listens on loopback alone
	}
	b, err := start(config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { b.Close() })
	r.backends = append(r.backends, b)
	if r.cluster == "" {
		return b
	}
	listener, err := net.Listen("tcp", config.Address.String())
	if err != nil {
		r.t.Fatal(err)
	}
	p := &pod{listener: listener, Handler: b}
	server := &http.Server{Handler: p}
	go server.Serve(listener)
	r.t.Cleanup(func() { server.Close() })
	r.pods = append(r.pods, p)
	return b
}

// pod is a backend of a cluster.
type pod struct {
	http.Handler
	listener net.Listener
	ending   atomic.Bool
}

func (p *pod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.ending.Load() {
		w.Header().Set("Connection", "close")
	}
	p.Handler.ServeHTTP(w, r)
}

// end ends Pods of a cluster as servers end that lose no request: they take no new connection, and each that they
// have closes with its next answer. One that closes an idle connection may do so while a request is on its way there.
func (r *rig) end(backends ...int) {
	r.t.Helper()
	for _, i := range backends {
		r.pods[i].ending.Store(true)
		if err := r.pods[i].listener.Close(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// write replaces a file of the directory in one step, as an editor does.
func (r *rig) write(name, content string) {
	r.t.Helper()
	temp := filepath.Join(r.config, "."+name+".swp")
	if err := os.WriteFile(temp, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(temp, filepath.Join(r.config, name)); err != nil {
		r.t.Fatal(err)
	}
}

const gatewayClass = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: evenkeel}
spec: {controllerName: evenkeel.io/controlplane}
---
`

// The objects of most tests. base has a Gateway and a route to Service cart.
func (r *rig) base() string {
	return gatewayClass + fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, annotations: {evenkeel.io/bind-address: 127.0.0.1}}
spec:
  gatewayClassName: evenkeel
  listeners: [{name: http, protocol: HTTP, port: %d}]
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
`, r.ports.listener)
}

func route(rules string) string {
	return `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules:
` + rules
}

const toCart = "  - backendRefs: [{name: cart, port: 80}]\n"

// slice is an EndpointSlice of cart with the given backends, scraped if annotated so.
func (r *rig) slice(annotations string, backends ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: cart-1
  namespace: shop
  labels: {kubernetes.io/service-name: cart}
  annotations: {%s}
addressType: IPv4
ports: [{name: http, port: %d}]
endpoints:
`, annotations, r.ports.backend)
	for _, i := range backends {
		fmt.Fprintf(&b, "- addresses: [%s]\n", r.address(i))
	}
	return b.String()
}

const scraped = `prometheus.io/scrape: "true", evenkeel.io/cpu-limit: "2"`

func policy(spec string) string {
	return `apiVersion: evenkeel.io/v1alpha1
kind: BalancePolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: cart}]
` + spec
}

// start starts the program and waits until it is ready.
func (r *rig) start(args ...string) {
	r.t.Helper()
	r.launch("/readyz", args...)
}

// launch starts the program and waits until that path of its admin port answers 200.
func (r *rig) launch(path string, args ...string) {
	r.t.Helper()
	from := []string{"--config-dir", r.config}
	if r.cluster != "" {
		from = []string{"--kubeconfig", r.cluster}
	}
	argv := slices.Concat([]string{program, "serve"}, from, []string{"--state-dir", r.state,
		"--xds-address", loopback(r.ports.xds), "--admin-address", loopback(r.ports.admin),
		"--rls-address", loopback(r.ports.limits),
	}, args)
	plane, err := demo.StartProcess("controlplane", r.logs, nil, argv...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.plane = plane
	r.t.Cleanup(func() { plane.Stop(5 * time.Second) })
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	if err := demo.WaitHTTP(ctx, plane, r.adminURL(path)); err != nil {
		r.t.Fatal(err)
	}
}

// startEnvoy starts an Envoy of the fleet from the program's own bootstrap and waits until it is live.
func (r *rig) startEnvoy(fleet string) {
	r.t.Helper()
	path, err := demo.FindEnvoy()
	if err != nil {
		r.t.Skip(err)
	}
	r.startEnvoyWith(path, r.bootstrap(fleet, "envoy-1", r.ports.xds))
}

// bootstrap is the program's own for an Envoy of a fleet that finds it at the port.
func (r *rig) bootstrap(fleet, node string, xds uint16) []byte {
	r.t.Helper()
	return r.run("bootstrap", "--fleet", fleet, "--node-id", node, "--concurrency", "2",
		"--xds-address", loopback(xds), "--admin-port", fmt.Sprint(r.ports.envoyAdmin))
}

func (r *rig) startEnvoyWith(path string, bootstrap []byte) {
	r.t.Helper()
	envoy, err := demo.StartEnvoy(demo.EnvoyOptions{
		Path: path, Name: "envoy", Dir: r.logs, Bootstrap: bootstrap, AdminURL: "http://" + loopback(r.ports.envoyAdmin),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { envoy.Stop(3 * time.Second) })
	r.envoy = envoy
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	if err := envoy.WaitReady(ctx); err != nil {
		r.t.Fatal(err)
	}
	r.eventually("the listener accepts connections", func() error {
		c, err := net.Dial("tcp", loopback(r.ports.listener))
		if err == nil {
			c.Close()
		}
		return err
	})
}

// run runs a subcommand of the program and returns what it prints.
func (r *rig) run(args ...string) []byte {
	r.t.Helper()
	out, err := exec.CommandContext(r.t.Context(), program, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			r.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, exit.Stderr)
		}
		r.t.Fatal(err)
	}
	return out
}

func loopback(port uint16) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func (r *rig) adminURL(path string) string { return "http://" + loopback(r.ports.admin) + path }

func (r *rig) url(path string) string { return "http://" + loopback(r.ports.listener) + path }

// eventually asks until the answer is nil, and fails the test with the last answer after 30 s.
func (r *rig) eventually(what string, ask func() error) {
	r.t.Helper()
	r.within(30*time.Second, what, ask)
}

// within is eventually with a deadline that is part of what is promised.
func (r *rig) within(deadline time.Duration, what string, ask func() error) time.Duration {
	r.t.Helper()
	began := time.Now()
	for {
		err := ask()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > deadline {
			r.t.Fatalf("%s: not after %v: %v", what, deadline, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// service is what the admin port says of Service cart.
func (r *rig) service() admin.ServiceView {
	r.t.Helper()
	var view admin.ServicesView
	if err := demo.GetJSON(r.t.Context(), r.adminURL("/services/shop/cart:80"), &view); err != nil {
		r.t.Fatal(err)
	}
	if len(view.Services) != 1 || len(view.Services[0].Endpoints) == 0 {
		r.t.Fatalf("the admin port shows no endpoints of cart: %+v", view)
	}
	return view.Services[0]
}

// untilMeasured waits until every endpoint of cart has a fresh reading in its weight.
func (r *rig) untilMeasured() {
	r.t.Helper()
	r.eventually("all endpoints are measured", func() error {
		for _, e := range r.service().Endpoints {
			if e.State != "Serving" {
				return fmt.Errorf("%s is %s", e.Address, e.State)
			}
		}
		return nil
	})
}

// weights are the published weights of cart by backend.
func (r *rig) weights() map[int]uint32 {
	r.t.Helper()
	weights := map[int]uint32{}
	for _, e := range r.service().Endpoints {
		weights[r.backendOf(e.Address)] = e.Weight
	}
	return weights
}

func (r *rig) backendOf(address string) int {
	return int(netip.MustParseAddrPort(address).Addr().As4()[3]) - 1
}

// hosts are the hosts of cart in Envoy, by backend.
func (r *rig) hosts() map[int]demo.EnvoyHost {
	r.t.Helper()
	return r.hostsOf("shop/cart:80")
}

// hostsOf are the hosts of a cluster in Envoy, by backend.
func (r *rig) hostsOf(cluster string) map[int]demo.EnvoyHost {
	r.t.Helper()
	all, err := r.envoy.Hosts(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	hosts := map[int]demo.EnvoyHost{}
	for _, h := range all {
		if h.Cluster == cluster {
			hosts[r.backendOf(h.Address)] = h
		}
	}
	return hosts
}

// load sends requests to the listener at a rate until stop is called, which returns the report.
func (r *rig) load(rate float64) (stop func() demo.Report) {
	r.t.Helper()
	return r.loadOn(rate, r.url("/"))
}

// loadOn is load on other URLs in turn.
func (r *rig) loadOn(rate float64, urls ...string) (stop func() demo.Report) {
	r.t.Helper()
	load, err := demo.NewLoad(demo.LoadOptions{URLs: urls, Rate: rate, Seed: 1})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		load.Run(ctx)
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	return func() demo.Report {
		cancel()
		<-done
		return load.Report(0, load.Elapsed())
	}
}

// metric is the sum of a metric of the program over its series; none counts as 0.
func (r *rig) metric(name string) float64 {
	r.t.Helper()
	resp, err := http.Get(r.adminURL("/metrics"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		switch families[name].GetType() {
		case dto.MetricType_COUNTER:
			sum += m.GetCounter().GetValue()
		case dto.MetricType_GAUGE:
			sum += m.GetGauge().GetValue()
		}
	}
	return sum
}

// get asks the listener and returns the status, 0 if there was no answer.
func (r *rig) get(path string) int {
	resp, err := http.Get(r.url(path))
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
