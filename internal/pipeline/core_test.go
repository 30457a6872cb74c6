package pipeline

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/source/dir"
	"evenkeel.io/controlplane/internal/translate"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const gateway = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: evenkeel}
spec: {controllerName: evenkeel.io/controlplane}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: evenkeel
  listeners: [{name: http, protocol: HTTP, port: 80}]
`

// shop is a Service with two endpoints, a policy and a route.
func shop(name string, n int) string {
	return strings.NewReplacer("NAME", name, "NET", fmt.Sprint(n)).Replace(`apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: NAME-1
  namespace: shop
  labels: {kubernetes.io/service-name: NAME}
  annotations: {prometheus.io/scrape: "true", evenkeel.io/cpu-limit: "1"}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.NET.1]}, {addresses: [10.0.NET.2]}]
---
apiVersion: evenkeel.io/v1alpha1
kind: BalancePolicy
metadata: {name: NAME, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: NAME}]
  capacity: {slowStart: 0s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: NAME, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /NAME}}]
    backendRefs: [{name: NAME, port: 80}]
`)
}

// store reads documents as the directory source does.
func store(t testing.TB, documents ...string) *source.Store {
	t.Helper()
	folder := t.TempDir()
	for i, d := range documents {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.yaml", i)), []byte(d), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := dir.Load(folder)
	if err != nil || len(s.Problems) > 0 {
		t.Fatal(err, s.Problems)
	}
	return s
}

func testCore(restored lastgood.State) *core {
	return newCore(Options{Catalog: catalog.Options{AllowLoopback: true}, Log: slog.New(slog.DiscardHandler)}, newMetrics(nil), restored)
}

// measured are readings of both endpoints of a service in the window before now, the second endpoint
// with twice the CPU for the same work.
func measured(service string, n int, now time.Time) []signals.Reading {
	var out []signals.Reading
	for i, cpu := range []float64{0.3, 0.6} {
		out = append(out, signals.Reading{
			Endpoint: signals.Key{Service: service, Address: fmt.Sprintf("10.0.%d.%d:8080", n, i+1)},
			From:     now.Add(-6 * time.Second), To: now, SourceInterval: 2 * time.Second,
			Terms: signals.TermRequests | signals.TermErrors | signals.TermCPU, Done: 600, CPU: cpu,
		})
	}
	return out
}

func weightsIn(r *snapshot.Resource) []uint32 {
	var out []uint32
	for _, locality := range r.Message().(*endpointv3.ClusterLoadAssignment).GetEndpoints() {
		for _, e := range locality.GetLbEndpoints() {
			out = append(out, e.GetLoadBalancingWeight().GetValue())
		}
	}
	return out
}

// TestATickTouchesOnlyItsAssignment: readings of one service change its load assignment, in the fleet
// and for EDS-only clients, and nothing else, not even the identity of what stays.
func TestATickTouchesOnlyItsAssignment(t *testing.T) {
	c := testCore(lastgood.State{})
	c.rebuild(start, source.Update{Store: store(t, gateway, shop("cart", 1), shop("pay", 2))})
	before := c.fleets["shop/edge"].served
	c.takeOutgoing()
	now := start
	for range 5 {
		now = now.Add(Tick)
		c.step(now, measured("shop/cart:80", 1, now))
	}
	after := c.fleets["shop/edge"].served
	if w := weightsIn(after.Get(translate.EDS, "shop/cart:80")); len(w) != 2 || w[0] < w[1]*3/2 {
		t.Errorf("weights %v, want the first near twice the second", w)
	}
	for _, kind := range translate.Types {
		for name, r := range after.Resources(kind) {
			if changed := r != before.Get(kind, name); changed != (kind == translate.EDS && name == "shop/cart:80") {
				t.Errorf("%s %s: changed is %v", kind, name, changed)
			}
		}
	}
	if len(c.fleets["shop/edge"].history) != 1 {
		t.Errorf("%d generations, want weights to make none", len(c.fleets["shop/edge"].history))
	}
	keys := map[string]bool{}
	for _, o := range c.takeOutgoing() {
		keys[o.key] = true
		if o.snapshot.Get(translate.EDS, "shop/cart:80") == before.Get(translate.EDS, "shop/cart:80") {
			t.Errorf("%s was handed a snapshot with nothing new", o.key)
		}
		if want := map[string]uint64{"shop/edge": 1}[o.key]; o.snapshot.Generation() != want {
			t.Errorf("%s was handed a snapshot of generation %d, want %d", o.key, o.snapshot.Generation(), want)
		}
	}
	if got := slices.Sorted(maps.Keys(keys)); !slices.Equal(got, []string{"eds:shop", "shop/edge"}) {
		t.Errorf("handed to %q", got)
	}
	if pushes := c.services["shop/cart:80"].pushes; len(pushes) < 2 || pushes[len(pushes)-1].Why == "" {
		t.Errorf("pushes %v, want the first and at least one with its cause", pushes)
	}
	if pushes := c.services["shop/pay:80"].pushes; len(pushes) != 1 {
		t.Errorf("%d pushes of the other service, want the first alone", len(pushes))
	}
}

// TestAGatewayThatGoesTakesItsListenersAway, and one that comes back gets them again.
func TestAGatewayThatGoesTakesItsListenersAway(t *testing.T) {
	c := testCore(lastgood.State{})
	full := store(t, gateway, shop("cart", 1))
	c.rebuild(start, source.Update{Store: full})
	c.takeOutgoing()
	c.rebuild(start, source.Update{Store: store(t, shop("cart", 1)), Changes: []source.Change{
		{Object: source.Ref{Kind: source.KindGateway, Namespace: "shop", Name: "edge"}, Op: source.Removed, Evidence: source.EvidenceFile}}})
	out := c.takeOutgoing()
	last := out[len(out)-1].snapshot
	for _, kind := range translate.Types {
		if n := len(last.Resources(kind)); n > 0 {
			t.Errorf("%d %s are left", n, kind)
		}
	}
	history := c.view(nil).Generations("shop/edge")
	if last.Generation() != 2 {
		t.Errorf("it is handed out as generation %d, want 2", last.Generation())
	}
	if len(history) != 2 || !strings.Contains(history[1].Why, "Gateway shop/edge removed") {
		t.Errorf("history %v", history)
	}
	c.rebuild(start, source.Update{Store: full})
	if out := c.takeOutgoing(); len(out) == 0 || len(out[len(out)-1].snapshot.Resources(translate.LDS)) != 1 {
		t.Error("the Gateway that came back has no listener")
	}
}

// TestARefusedResourceKeepsTheOneBefore: a resource that does not pass validation is not served, the one
// before is, and the refusal is shown until a sound one comes.
func TestARefusedResourceKeepsTheOneBefore(t *testing.T) {
	c := testCore(lastgood.State{})
	resource := func(address string) translate.Resource {
		s := &catalog.Service{Name: "shop/cart:80", Endpoints: []catalog.Endpoint{{Address: address, Base: 1, Multiplier: 1}}}
		return translate.Assignment(s, nil)
	}
	good := c.encode(resource("10.0.0.1:80"), nil)
	if good == nil {
		t.Fatal("a sound resource was refused")
	}
	if kept := c.encode(resource("not an address"), good); kept != good {
		t.Error("the one before was not kept")
	}
	if none := c.encode(resource("not an address"), nil); none != nil {
		t.Error("a refused resource is served")
	}
	if len(c.refused) != 1 {
		t.Errorf("refusals %v", c.refused)
	}
	if next := c.encode(resource("10.0.0.2:80"), good); next == nil || next == good || len(c.refused) != 0 {
		t.Errorf("a sound one does not take its place; refusals %v", c.refused)
	}
}

func TestAPanicIsContained(t *testing.T) {
	c := testCore(lastgood.State{})
	c.guard("a test", func() { panic("as one has to expect") })
	if n := testutil.ToFloat64(c.metrics.panics); n != 1 {
		t.Errorf("%v panics counted, want 1", n)
	}
}

// TestARestartGoesOn: from its saved state a new core serves the same bytes, under the same generation
// number as long as nothing changed.
func TestARestartGoesOn(t *testing.T) {
	objects := store(t, gateway, shop("cart", 1))
	c := testCore(lastgood.State{})
	c.rebuild(start, source.Update{Store: store(t, gateway, shop("pay", 2))})
	c.rebuild(start, source.Update{Store: objects})
	now := start
	for range 5 {
		now = now.Add(Tick)
		c.step(now, measured("shop/cart:80", 1, now))
	}
	state, ok := c.takeState(now)
	if !ok {
		t.Fatal("there is nothing to save")
	}
	if _, again := c.takeState(now); again {
		t.Error("an unchanged state is to be saved again")
	}

	again := testCore(state)
	again.rebuild(now.Add(time.Minute), source.Update{Store: objects})
	if !again.fleets["shop/edge"].served.Equal(c.fleets["shop/edge"].served) {
		t.Errorf("it serves other bytes: %v", snapshot.Diff(c.fleets["shop/edge"].served, again.fleets["shop/edge"].served))
	}
	if a, b := c.fleets["shop/edge"].number, again.fleets["shop/edge"].number; a != 2 || b != 2 {
		t.Errorf("generation %d became %d, want 2", a, b)
	}
	other := testCore(state)
	other.rebuild(now.Add(time.Minute), source.Update{Store: store(t, gateway, shop("pay", 2))})
	if n := other.fleets["shop/edge"].number; n != 3 {
		t.Errorf("what changed while it was down is generation %d, want 3", n)
	}
}

// TestFreezeReachesServicesToCome, also over a restart.
func TestFreezeReachesServicesToCome(t *testing.T) {
	c := testCore(lastgood.State{})
	c.rebuild(start, source.Update{Store: store(t, gateway, shop("cart", 1))})
	if err := c.freeze("a test", "", true); err != nil {
		t.Fatal(err)
	}
	c.rebuild(start, source.Update{Store: store(t, gateway, shop("cart", 1), shop("pay", 2))})
	state, _ := c.takeState(start)
	again := testCore(state)
	again.rebuild(start, source.Update{Store: store(t, gateway, shop("cart", 1), shop("pay", 2), shop("late", 3))})
	for name, core := range map[string]*core{"shop/cart:80": c, "shop/pay:80": c, "shop/late:80": again} {
		if core.services[name].machine.Frozen() == "" {
			t.Errorf("%s is not frozen", name)
		}
	}
	if err := again.freeze("a test", "", false); err != nil {
		t.Fatal(err)
	}
	if again.frozen || again.services["shop/cart:80"].machine.Frozen() != "" {
		t.Error("a frozen service was not released")
	}
}

// TestWhatIsWrongIsLoggedOnce: a problem and a verdict are logged when they come, not with every change.
func TestWhatIsWrongIsLoggedOnce(t *testing.T) {
	var log strings.Builder
	c := newCore(Options{Catalog: catalog.Options{AllowLoopback: true}, Log: slog.New(slog.NewTextHandler(&log, nil))}, newMetrics(nil), lastgood.State{})
	lost := strings.Replace(shop("cart", 1), "backendRefs: [{name: cart, port: 80}]", "backendRefs: [{name: lost, port: 80}]", 1)
	with := func(more ...string) *source.Store {
		s := store(t, append([]string{gateway, lost}, more...)...)
		s.Problems = []source.Problem{{File: "bad.yaml", Line: 3, Message: "is no YAML", Kept: "nothing"}}
		return s
	}
	c.rebuild(start, source.Update{Store: with()})
	c.rebuild(start, source.Update{Store: with(shop("pay", 2))})
	for _, want := range []string{"bad.yaml:3: is no YAML", "BackendNotFound"} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%q is logged %d times, want once:\n%s", want, n, log.String())
		}
	}
}

// TestPrometheusTargets: a Service whose policy names a server is asked about and not scraped.
func TestPrometheusTargets(t *testing.T) {
	asking := func(more string) string {
		return strings.Replace(shop("cart", 1), "capacity: {slowStart: 0s}", "signals: {prometheus: {server: main, interval: 20s}}\n"+more, 1)
	}
	for _, test := range []struct {
		policy string
		window time.Duration
	}{
		{asking(""), 40 * time.Second},
		{asking("  strategy: RTT\n"), 40 * time.Second}, // 5 s would not hold two of the server's scrapes
		{asking("  strategy: RTT\n  rtt: {window: 1m}\n"), time.Minute},
	} {
		c := testCore(lastgood.State{})
		c.rebuild(start, source.Update{Store: store(t, gateway, test.policy, shop("pay", 2))})
		specs := prometheusSpecs(c.catalog)
		if len(specs) != 1 || specs[0].Service != "shop/cart:80" || specs[0].Prometheus.Server != "main" || specs[0].Window != test.window {
			t.Fatalf("%s\ngives %+v", test.policy, specs)
		}
		if e := specs[0].Endpoints; len(e) != 2 || e[0].Address != "10.0.1.1:8080" || e[0].CPULimit != 1 {
			t.Errorf("endpoints %+v", e)
		}
		for _, s := range scrapeSpecs(c.catalog) {
			if s.Endpoints[0].Service != "shop/pay:80" {
				t.Errorf("scraped too: %+v", s)
			}
		}
	}
}

// TestReportedServices: load is reported of a Service whose policy says so, by the fleets that are served it,
// whatever else the policy reads.
func TestReportedServices(t *testing.T) {
	reporting := func(name string, n int, signals string) string {
		return strings.Replace(shop(name, n), "capacity: {slowStart: 0s}", "signals: {"+signals+"}", 1)
	}
	c := testCore(lastgood.State{})
	c.rebuild(start, source.Update{Store: store(t, gateway,
		reporting("cart", 1, "loadReports: true"), reporting("pay", 2, "loadReports: true, prometheus: {server: main}"), shop("ship", 3),
		strings.Replace(reporting("lone", 4, "loadReports: true"), "backendRefs: [{name: lone", "backendRefs: [{name: ship", 1))})
	specs := reportSpecs(c.catalog)
	var got []string
	for _, s := range specs {
		got = append(got, fmt.Sprint(s.Service, s.Fleets, s.Endpoints))
	}
	want := []string{
		"shop/cart:80[eds:shop shop/edge] [10.0.1.1:8080 10.0.1.2:8080]",
		"shop/lone:80[eds:shop] [10.0.4.1:8080 10.0.4.2:8080]",
		"shop/pay:80[eds:shop shop/edge] [10.0.2.1:8080 10.0.2.2:8080]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if n := len(scrapeSpecs(c.catalog)); n != 6 || len(prometheusSpecs(c.catalog)) != 1 {
		t.Errorf("%d pages and %d servers are read too, want 6 and 1", n, len(prometheusSpecs(c.catalog)))
	}
}

// TestSourcesAreMerged: a step takes what the page and Envoys say as one reading, and forgets both with the
// endpoint.
func TestSourcesAreMerged(t *testing.T) {
	c := testCore(lastgood.State{})
	documents := store(t, gateway, shop("cart", 1))
	c.rebuild(start, source.Update{Store: documents})
	now := start.Add(10 * time.Second)
	pages := measured("shop/cart:80", 1, now)
	reports := make([]signals.Reading, len(pages))
	for i, r := range pages {
		n := signals.Reported{From: now.Add(-5 * time.Second), To: now, SourceInterval: 5 * time.Second, All: true, Done: float64(10 + i)}
		reports[i] = signals.Reading{Endpoint: r.Endpoint, From: n.From, To: n.To, SourceInterval: n.SourceInterval, Reported: n}
	}
	b := newBatch()
	b.add(pages)
	b.add(reports)
	stranger := reports[0]
	stranger.Endpoint.Address = "10.9.9.9:1"
	b.add([]signals.Reading{stranger})
	c.step(now, b.take())
	if len(c.readings) != len(pages) {
		t.Errorf("%d readings are kept, want %d", len(c.readings), len(pages))
	}
	for i, r := range pages {
		got := c.readings[r.Endpoint]
		if got.CPU != r.CPU || !got.To.Equal(r.To) || got.Reported.Done != float64(10+i) {
			t.Errorf("%+v, want the page's with what is reported", got)
		}
	}
	c.rebuild(now, source.Update{Store: store(t, gateway, strings.Replace(shop("cart", 1), "{addresses: [10.0.1.1]}, ", "", 1))})
	if len(c.readings) != 1 || len(c.services["shop/cart:80"].sources) != 1 {
		t.Errorf("%d readings and %d sources after an endpoint left", len(c.readings), len(c.services["shop/cart:80"].sources))
	}
}

// TestScrapeTargets: endpoints without a policy are not scraped, and Static or not, the policy's window
// is the scraper's.
func TestScrapeTargets(t *testing.T) {
	c := testCore(lastgood.State{})
	c.rebuild(start, source.Update{Store: store(t, gateway, shop("cart", 1), strings.Replace(shop("pay", 2), "kind: Service, name: pay", "kind: Service, name: none", 1))})
	specs := scrapeSpecs(c.catalog)
	if len(specs) != 2 {
		t.Fatalf("%d targets, want the two of cart: %v", len(specs), specs)
	}
	for _, s := range specs {
		if s.Endpoints[0].Service != "shop/cart:80" || s.Window != 6*time.Second || s.CPULimit != 1 {
			t.Errorf("target %+v", s)
		}
	}
}
