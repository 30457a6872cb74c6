package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/signals"
)

// startPrometheus starts a real Prometheus that scrapes the backends every second, and returns its URL. The
// first so many backends have the labels of Pods, as discovery in a cluster gives them.
func (r *rig) startPrometheus(pods int) string {
	r.t.Helper()
	path, err := exec.LookPath(filepath.Join("..", ".tools", "bin", "prometheus"))
	if err != nil {
		if path, err = exec.LookPath("prometheus"); err != nil {
			r.t.Skip("no Prometheus: hack/tools.sh prometheus fetches one where it can")
		}
	}
	var targets []string
	for i := range r.backends {
		labels := ""
		if i < pods {
			labels = fmt.Sprintf(", labels: {namespace: shop, pod: cart-%d}", i)
		}
		targets = append(targets, fmt.Sprintf("{targets: ['%s:%d']%s}", r.address(i), r.ports.backend, labels))
	}
	config := filepath.Join(r.t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: cart
  static_configs: [%s]
`, strings.Join(targets, ", ")), 0o644); err != nil {
		r.t.Fatal(err)
	}
	address := loopback(r.freePort(r.address(0)))
	process, err := demo.StartProcess("prometheus", r.logs, nil, path, "--config.file="+config,
		"--storage.tsdb.path="+filepath.Join(r.t.TempDir(), "data"), "--web.listen-address="+address, "--log.level=warn")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { process.Stop(5 * time.Second) })
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	if err := demo.WaitHTTP(ctx, process, "http://"+address+"/-/ready"); err != nil {
		r.t.Fatal(err)
	}
	return "http://" + address
}

func (r *rig) targets() []admin.TargetView {
	r.t.Helper()
	var view admin.TargetsView
	if err := demo.GetJSON(r.t.Context(), r.adminURL("/targets"), &view); err != nil {
		r.t.Fatal(err)
	}
	return view.Targets
}

// TestPrometheusInPlaceOfScraping serves three backends of which one has 0.4 times the speed of the others, and
// knows them from a Prometheus server alone: its weight falls as it does with scraping. Two are Pods, the
// third is known by its address.
func TestPrometheusInPlaceOfScraping(t *testing.T) {
	r := newRig(t, 3)
	server := r.startPrometheus(2)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	slice := r.slice("", 0, 1)
	for i := range 2 {
		pod := fmt.Sprintf("cart-%d", i)
		at := fmt.Sprintf("- addresses: [%s]\n", r.address(i))
		slice = strings.Replace(slice, at, at+"  targetRef: {kind: Pod, name: "+pod+"}\n", 1)
		r.write(pod+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop}
spec: {containers: [{name: app, resources: {limits: {cpu: "2"}}}]}
status: {podIP: %s}
`, pod, r.address(i)))
	}
	r.write("slice.yaml", slice)
	r.write("slice-2.yaml", strings.Replace(r.slice("", 2), "name: cart-1", "name: cart-2", 1)) // its limit is what it exports
	const using = `  signals: {prometheus: {server: %s, interval: 1s}}
  capacity: {slowStart: 0s}
  publish: {interval: 2s}
`
	r.write("policy.yaml", policy(fmt.Sprintf(using, "elsewhere")))
	if err := r.backends[2].SetSpeed(0.4); err != nil {
		t.Fatal(err)
	}
	r.start("--prometheus", "main="+server)
	r.startEnvoy("shop/edge")
	r.load(100)

	r.eventually("an unknown server is said to be one", func() error {
		for _, target := range r.targets() {
			if target.State == signals.Down && strings.Contains(target.LastError, "no server named elsewhere: serve --prometheus elsewhere=URL") {
				return nil
			}
		}
		return fmt.Errorf("targets %+v", r.targets())
	})
	r.write("policy.yaml", policy(fmt.Sprintf(using, "main")))
	r.eventually("every query is answered", func() error {
		targets := r.targets()
		for _, target := range targets {
			if target.State != signals.Up || len(target.Missing)+len(target.Rejected) > 0 || target.Samples != 3 {
				return fmt.Errorf("%+v", target)
			}
		}
		if len(targets) != 7 {
			return fmt.Errorf("%d targets, want the six terms and the CPU limit", len(targets))
		}
		return nil
	})
	r.eventually("the slow backend weighs less than two thirds of the others", func() error {
		w := r.weights()
		if fast := min(w[0], w[1]); w[2]*3 > fast*2 {
			return fmt.Errorf("weights %v", w)
		}
		return nil
	})
	for _, e := range r.service().Endpoints {
		if e.Reading == nil || e.Reading.CPU == nil || e.Reading.P50 == nil || e.Reading.InFlight == nil || e.Reading.ErrorRatio == nil {
			t.Errorf("the reading of %s lacks a term: %+v", e.Address, e.Reading)
		}
	}
	r.eventually("Envoy has the weights", func() error {
		if hosts := r.hosts(); hosts[2].Weight*3 > hosts[0].Weight*2 {
			return errors.New("not yet")
		}
		return nil
	})
}
