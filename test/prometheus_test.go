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

// startPrometheus starts a real Prometheus that scrapes the backends every second, and returns its URL.
func (r *rig) startPrometheus() string {
	r.t.Helper()
	path, err := exec.LookPath(filepath.Join("..", ".tools", "bin", "prometheus"))
	if err != nil {
		if path, err = exec.LookPath("prometheus"); err != nil {
			r.t.Skip("no Prometheus: hack/tools.sh prometheus fetches one where it can")
		}
	}
	var targets []string
	for i := range r.backends {
		targets = append(targets, fmt.Sprintf("'%s:%d'", r.address(i), r.ports.backend))
	}
	config := filepath.Join(r.t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: cart
  static_configs: [{targets: [%s]}]
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
// knows them from a Prometheus server alone: its weight falls as it does with scraping.
func TestPrometheusInPlaceOfScraping(t *testing.T) {
	r := newRig(t, 3)
	server := r.startPrometheus()
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	// One limit is known, the others Prometheus knows.
	r.write("slice.yaml", r.slice("", 0, 1))
	r.write("slice-2.yaml", strings.Replace(r.slice(`evenkeel.io/cpu-limit: "2"`, 2), "cart-1", "cart-2", 1))
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
