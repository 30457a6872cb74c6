package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// TestAFileReachesEnvoy edits a route, an endpoint and a weight, and waits for Envoy to act on each.
// The times are logged, not judged: go test ./test -run AFileReachesEnvoy -v.
func TestAFileReachesEnvoy(t *testing.T) {
	r := newRig(t, 3)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice("", 0, 1))
	r.start()
	r.startEnvoy("shop/edge")
	r.eventually("the first request is answered", func() error { return status(r.get("/"), 200) })

	r.write("route.yaml", route(`  - matches: [{path: {type: PathPrefix, value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /}}}]
`+toCart))
	took := r.within(30*time.Second, "the edited route answers", func() error {
		stats, err := r.envoy.Stats(t.Context(), `^http\..*\.downstream_rq_3xx$`)
		if err != nil {
			return err
		}
		r.get("/moved") // follows the redirect to /
		after, err := r.envoy.Stats(t.Context(), `^http\..*\.downstream_rq_3xx$`)
		if err != nil {
			return err
		}
		for name, n := range after {
			if n > stats[name] {
				return nil
			}
		}
		return errors.New("no redirect yet")
	})
	t.Logf("edited route to Envoy: %v", took)

	r.write("slice.yaml", r.slice("", 0, 1, 2))
	took = r.within(30*time.Second, "the new endpoint is in Envoy", func() error {
		if _, ok := r.hosts()[2]; !ok {
			return errors.New("not yet")
		}
		return nil
	})
	t.Logf("edited endpoint to Envoy: %v", took)

	// A weight by hand: the annotation multiplies, and under Static nothing else is computed.
	r.write("policy.yaml", policy("  strategy: Static\n"))
	r.write("slice-2.yaml", strings.NewReplacer("cart-1", "cart-2", "annotations: {}", `annotations: {evenkeel.io/weight: "3"}`).Replace(r.slice("", 2)))
	r.write("slice.yaml", r.slice("", 0, 1))
	took = r.within(30*time.Second, "the edited weight is in Envoy", func() error {
		hosts := r.hosts()
		if ratio := float64(hosts[2].Weight) / float64(hosts[0].Weight); !(ratio > 2.97 && ratio < 3.03) {
			return fmt.Errorf("weights %d, %d, %d", hosts[0].Weight, hosts[1].Weight, hosts[2].Weight)
		}
		return nil
	})
	t.Logf("edited weight to Envoy: %v", took)
}

// TestASlowBackendLosesItsShare makes one of three backends three times slower, CPU showing it: under the
// policy of examples/demo its published weight and its requests fall by more than a third.
func TestASlowBackendLosesItsShare(t *testing.T) {
	r := newRig(t, 3)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice(scraped, 0, 1, 2))
	r.write("policy.yaml", r.example("demo/policy.yaml", "name: shop", "name: cart", "namespace: demo", "namespace: shop"))
	r.start()
	r.startEnvoy("shop/edge")
	stop := r.load(120)
	r.untilMeasured()
	before, share := r.share(2), r.requestShare(2)
	if err := r.backends[2].SetSpeed(1. / 3); err != nil {
		t.Fatal(err)
	}
	took := r.within(60*time.Second, "the slow backend's weight falls by more than a third", func() error {
		if now := r.share(2); now > before*2/3 {
			return fmt.Errorf("share of weight %.3f, it was %.3f", now, before)
		}
		return nil
	})
	t.Logf("share of weight fell from %.3f to %.3f in %v", before, r.share(2), took)
	r.eventually("its requests follow", func() error {
		if now := r.requestShare(2); now > share*2/3 {
			return fmt.Errorf("share of requests %.3f, it was %.3f", now, share)
		}
		return nil
	})
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
}

// share is a backend's part of the published weights.
func (r *rig) share(backend int) float64 {
	r.t.Helper()
	sum := 0.0
	weights := r.weights()
	for _, w := range weights {
		sum += float64(w)
	}
	return float64(weights[backend]) / sum
}

// requestShare is a backend's part of the requests of one second.
func (r *rig) requestShare(backend int) float64 {
	r.t.Helper()
	before := r.hosts()
	time.Sleep(time.Second) // a window to count in, not a wait for something
	sum, mine := 0.0, 0.0
	for i, h := range r.hosts() {
		n := float64(h.Requests - before[i].Requests)
		sum += n
		if i == backend {
			mine = n
		}
	}
	return mine / sum
}

// TestARemovedBackendGetsNothingMore takes a backend out of its slice under 200 requests/s.
func TestARemovedBackendGetsNothingMore(t *testing.T) {
	r := newRig(t, 3)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice(scraped, 0, 1, 2))
	r.write("policy.yaml", policy("  publish: {interval: 2s}\n"))
	r.start()
	r.startEnvoy("shop/edge")
	stop := r.load(200)
	r.eventually("all backends get requests", func() error {
		for i, b := range r.backends {
			if b.Usage().Served == 0 {
				return fmt.Errorf("backend %d got none", i)
			}
		}
		return nil
	})
	r.write("slice.yaml", r.slice(scraped, 0, 1))
	settle(t, func() string { return fmt.Sprint(r.backends[2].Usage().Served) }) // under load: it gets nothing any more
	r.backends[2].Close()
	time.Sleep(time.Second)
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
}

// TestABadFileChangesNothingElse breaks one file of the directory: its objects stay, edits of the others
// act, and the admin port says what is wrong and where.
func TestABadFileChangesNothingElse(t *testing.T) {
	r := newRig(t, 2)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice("", 0))
	r.start()
	r.startEnvoy("shop/edge")
	r.eventually("the first request is answered", func() error { return status(r.get("/"), 200) })

	r.write("route.yaml", route("  - backendRef: [{name: cart, port: 80}]\n"))
	var page string
	r.eventually("the problem is reported", func() error {
		page = r.body("/status")
		if !strings.Contains(page, "backendRefs") { // the near field name
			return errors.New(page)
		}
		return nil
	})
	if !strings.Contains(page, "route.yaml") || !strings.Contains(page, "LastKnownGood") {
		t.Errorf("the status names neither the file nor what is kept:\n%s", page)
	}
	r.write("slice.yaml", r.slice("", 0, 1))
	r.eventually("an edit beside it acts", func() error {
		if _, ok := r.hosts()[1]; !ok {
			return errors.New("the endpoint is not in Envoy")
		}
		return nil
	})
	if err := status(r.get("/"), 200); err != nil {
		t.Errorf("the route's last good version is gone: %v", err)
	}
	out := string(r.run("snapshot", "shop/edge", "--admin", r.adminURL("")))
	if !strings.Contains(out, "shop/edge") {
		t.Errorf("snapshot prints:\n%s", out)
	}
}

// TestAnEDSOnlyClientGetsWeights serves the Envoy of examples/eds-only, which has a listener and a cluster
// of its own and takes only the endpoints from here.
func TestAnEDSOnlyClientGetsWeights(t *testing.T) {
	path, err := demo.FindEnvoy()
	if err != nil {
		t.Skip(err)
	}
	r := newRig(t, 3)
	port := fmt.Sprint(r.ports.backend)
	objects := r.example("eds-only/config/cart.yaml",
		`prometheus.io/port: "8080"`, `prometheus.io/port: "`+port+`"`,
		"addressType: IPv4\nports:\n- name: http\n  port: 8080", "addressType: IPv4\nports:\n- name: http\n  port: "+port,
		"127.0.2.1", r.address(0).String(), "127.0.2.2", r.address(1).String(), "127.0.2.3", r.address(2).String())
	r.write("cart.yaml", objects)
	if err := r.backends[2].SetSpeed(0.4); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.startEnvoyWith(path, []byte(r.example("eds-only/envoy.yaml", "18000", fmt.Sprint(r.ports.xds),
		"10081", fmt.Sprint(r.ports.listener), "9902", fmt.Sprint(r.ports.envoyAdmin))))
	r.load(100)
	r.eventually("the slow endpoint weighs less in Envoy", func() error {
		hosts, err := r.envoy.Hosts(t.Context())
		if err != nil {
			return err
		}
		weights := map[int]uint64{}
		for _, h := range hosts {
			if h.Cluster == "cart" {
				weights[r.backendOf(h.Address)] = h.Weight
			}
		}
		if len(weights) != 3 || weights[2]*10 > weights[0]*8 {
			return fmt.Errorf("weights %v", weights)
		}
		return nil
	})
	out := string(r.run("proxies", "--admin", r.adminURL("")))
	if !strings.Contains(out, "eds:shop") || !strings.Contains(out, "SYNCED") {
		t.Errorf("proxies prints:\n%s", out)
	}
}

// example is a file of examples/ with replacements, each of which must be found.
func (r *rig) example(name string, oldnew ...string) string {
	r.t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "examples", name))
	if err != nil {
		r.t.Fatal(err)
	}
	out := string(content)
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(out, oldnew[i]) {
			r.t.Fatalf("examples/%s does not have %q", name, oldnew[i])
		}
		out = strings.ReplaceAll(out, oldnew[i], oldnew[i+1])
	}
	return out
}

// TestServeRefusesToStartOnNonsense checks what a new user meets first.
func TestServeRefusesToStartOnNonsense(t *testing.T) {
	for args, want := range map[string]string{
		"serve":                              "--config-dir",
		"serve --config-dir /does/not/exist": "/does/not/exist",
		"serve --config-dir . --xds-address 0.0.0.0:1":                    "plaintext",
		"serve --config-dir . --prometheus main=prom":                     "--prometheus main",
		"serve --config-dir . --xds-tls-dir /does/not/exist":              "tls.crt",
		"serve --config-dir . --xds-identity dns:a=shop/edge":             "--xds-tls-dir",
		"serve --config-dir . --xds-tls-dir . --xds-identity a=shop/edge": "dns: or uri: at its beginning",
		"serve --config-dir . --xds-tls-dir . --xds-trust-domain A/B":     "--xds-trust-domain",
		"serve --config-dir . --xds-tls-dir . --xds-allow-plaintext":      "exclude each other",
		"check":       "DIR",
		"frobnicate":  "frobnicate",
		"serve --nix": "--nix",
	} {
		t.Run(args, func(t *testing.T) {
			p, err := demo.StartProcess("controlplane", t.TempDir(), nil, append([]string{program}, strings.Fields(args)...)...)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-p.Done():
			case <-time.After(time.Minute):
				p.Kill()
				t.Fatal("it runs")
			}
			body, err := os.ReadFile(p.LogFile())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(body), want) || strings.Contains(string(body), "panic") {
				t.Errorf("it prints:\n%s\nwant a message with %q", body, want)
			}
		})
	}
}

func status(got, want int) error {
	if got != want {
		return fmt.Errorf("status %d, want %d", got, want)
	}
	return nil
}

// TestTheExamplesAreAccepted runs check over the examples, each of which can be served as it is.
func TestTheExamplesAreAccepted(t *testing.T) {
	r := newRig(t, 0)
	for _, dir := range []string{"demo", "quickstart", "eds-only/config"} {
		out := string(r.run("check", filepath.Join("..", "examples", dir)))
		if !strings.Contains(out, "none refused") {
			t.Errorf("%s:\n%s", dir, out)
		}
	}
}
