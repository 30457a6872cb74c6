package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/signals"
)

// reported is what load reports say of each backend of cart.
func (r *rig) reported() map[int]admin.ReportedView {
	r.t.Helper()
	reported := map[int]admin.ReportedView{}
	for _, e := range r.service().Endpoints {
		if e.Reading != nil && e.Reading.LoadReports != nil && !e.Reading.LoadReports.Stale {
			reported[r.backendOf(e.Address)] = *e.Reading.LoadReports
		}
	}
	return reported
}

// TestLoadReports: one of three backends answers every fourth request with 500, and its metrics do not tell
// these from others. What Envoy sees of it takes its weight. The policy is then changed back and forth
// under load, of which Envoy's clusters and its clients notice nothing.
func TestLoadReports(t *testing.T) {
	const blind = `  capacity: {slowStart: 0s}
  signals:
    loadReports: %v
    scrape: {requests: {counter: http_requests_total, errors: {code: "599"}}}
`
	r := newRig(t, 3)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice(scraped, 0, 1, 2))
	r.write("policy.yaml", policy(fmt.Sprintf(blind, false)))
	r.start("--load-report-interval", "1s")
	r.startEnvoy("shop/edge")
	stop := r.load(120)
	r.untilMeasured()
	if n := r.metric("evenkeel_load_reports_total"); n != 0 {
		t.Errorf("%v load reports that nobody asked for", n)
	}
	settle(t, r.clusters)
	before := r.clusters()

	r.write("policy.yaml", policy(fmt.Sprintf(blind, true)))
	r.eventually("Envoy reports each backend", func() error {
		reported := r.reported()
		total := 0.0
		for i := range r.backends {
			n, ok := reported[i]
			if !ok || !n.All || *n.RPS < 5 || n.ErrorRatio == nil || *n.ErrorRatio > 0 {
				return fmt.Errorf("backend %d: %+v", i, n)
			}
			total += *n.RPS
		}
		if total < 90 || total > 150 {
			return fmt.Errorf("%v requests/s of 120", total)
		}
		return nil
	})
	r.eventually("what the pages and Envoy count agrees", func() error {
		for i, n := range r.reported() {
			if n.Claim == nil || *n.Claim < 0.8 || *n.Claim > 1.25 {
				return fmt.Errorf("backend %d: %+v", i, n)
			}
		}
		return nil
	})
	shown := false
	for _, target := range r.targets() {
		shown = shown || target.URL == "load reports" && target.Owner == "shop/cart:80" && target.State == signals.Up
	}
	if !shown {
		t.Errorf("no load reports among the targets %+v", r.targets())
	}
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}

	stop = r.load(120)
	if err := r.backends[1].SetErrorRate(0.25); err != nil {
		t.Fatal(err)
	}
	r.eventually("the failing backend has lost weight", func() error {
		if w := r.weights(); w[1]*2 > w[0] {
			return fmt.Errorf("weights %v", w)
		}
		return nil
	})
	explained := string(r.run("explain", "shop/cart:80", fmt.Sprintf("%s:%d", r.address(1), r.ports.backend), "--admin", r.adminURL("")))
	if !strings.Contains(explained, "as Envoys saw it") || !strings.Contains(explained, "load reports of all Envoys") {
		t.Errorf("explain does not name its source:\n%s", explained)
	}
	if err := r.backends[1].SetErrorRate(0); err != nil {
		t.Fatal(err)
	}
	stop()

	stop = r.load(120)
	r.write("policy.yaml", policy(fmt.Sprintf(blind, false)))
	r.eventually("nothing is reported any more", func() error {
		if n := len(r.reported()); n > 0 || r.metric("evenkeel_load_reporters") > 0 {
			return fmt.Errorf("%d reports are fresh, %v nodes are asked", n, r.metric("evenkeel_load_reporters"))
		}
		return nil
	})
	count := r.metric("evenkeel_load_reports_total")
	time.Sleep(2 * time.Second) // two intervals, if it were asked still
	if now := r.metric("evenkeel_load_reports_total"); now != count {
		t.Errorf("%v reports after Envoy was asked for none", now-count)
	}
	r.write("policy.yaml", policy(fmt.Sprintf(blind, true)))
	r.eventually("Envoy reports again", func() error {
		if n := len(r.reported()); n < 3 {
			return fmt.Errorf("of %d backends", n)
		}
		return nil
	})
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
	if after := r.clusters(); after != before {
		t.Errorf("Envoy's clusters changed: %s, before %s", after, before)
	}
}

// clusters counts what has happened to the clusters of Envoy, their endpoints aside.
func (r *rig) clusters() string {
	r.t.Helper()
	stats, err := r.envoy.Stats(r.t.Context(), `cluster_manager\.(cds\.update_success|cluster_(added|modified|removed))$`)
	if err != nil {
		r.t.Fatal(err)
	}
	return fmt.Sprint(stats)
}
