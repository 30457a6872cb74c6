package test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// TestKillAndRestart kills the program under load and starts it again, twice: first with weights that go
// on moving, none of which may jump, then with frozen ones, of which nothing may be sent again.
func TestKillAndRestart(t *testing.T) {
	r := newRig(t, 3)
	if err := r.backends[2].SetSpeed(0.4); err != nil {
		t.Fatal(err)
	}
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice(scraped, 0, 1, 2))
	r.write("policy.yaml", policy("  capacity: {slowStart: 0s}\n  publish: {interval: 5s}\n"))
	r.start()
	r.startEnvoy("shop/edge")
	stop := r.load(200)
	r.untilUneven()
	settle(t, func() string { return fmt.Sprint(r.weights()) })
	client := newDeltaClient(t, loopback(r.ports.xds), "shop/edge")
	client.subscribeAll("shop/cart:80", "shop/edge/"+fmt.Sprint(r.ports.listener))

	restart := func() map[int]uint32 {
		r.plane.Kill()
		time.Sleep(3 * time.Second) // down for a while, under load
		r.start()
		after := r.weights()
		client.reconnect()
		r.eventually("Envoy is connected again", func() error {
			if n := r.metric("evenkeel_xds_streams"); n < 3 { // its ADS and load report streams, and the raw client's
				return fmt.Errorf("%v streams", n)
			}
			return nil
		})
		return after
	}
	client.drain(time.Second)
	before := r.weights()
	for i, after := range restart() {
		if ratio := float64(after) / float64(before[i]); ratio > 1.041 || ratio < 0.960 {
			t.Errorf("backend %d: weight %d became %d: more than a quantum", i, before[i], after)
		}
	}

	r.run("freeze", "shop/cart:80", "--admin", r.adminURL(""))
	client.drain(4 * time.Second) // two ticks: what was on its way has come, and the state is saved
	before, updates, generation := r.weights(), r.updateSuccess(), r.body("/snapshots/shop/edge")
	after := restart()
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("frozen weights %v became %v", before, after)
	}
	if got := client.drain(4 * time.Second); got.bodies > 0 {
		t.Errorf("%d resource bodies were sent again: %v", got.bodies, got.names)
	}
	if now := r.updateSuccess(); now != updates {
		t.Errorf("Envoy took updates after the restart: %s, before %s", now, updates)
	}
	if now := r.body("/snapshots/shop/edge"); now != generation {
		t.Errorf("the fleet's generation changed over a restart:\n%s\n%s", generation, now)
	}
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
}

// updateSuccess are Envoy's counts of accepted EDS and RDS updates.
func (r *rig) updateSuccess() string {
	r.t.Helper()
	stats, err := r.envoy.Stats(r.t.Context(), `(cluster\.shop.*|rds.*)\.update_success$`)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(stats) == 0 {
		r.t.Fatal("Envoy has no update_success counters of EDS and RDS")
	}
	return fmt.Sprint(stats)
}

// TestBrokenMetrics breaks the metrics page of one backend in every way we know: that endpoint goes
// stale, the others are measured on, and no request fails.
func TestBrokenMetrics(t *testing.T) {
	faults := map[string]demo.MetricsFault{
		"hang": demo.MetricsHang, "500": demo.MetricsError, "NaN": demo.MetricsNaN,
		"50 MB": demo.MetricsHuge, "redirect": demo.MetricsRedirect, "404": demo.MetricsAbsent,
	}
	n := len(faults)
	r := newRig(t, 2*n)
	all := make([]int, 2*n)
	for i := range all {
		all[i] = i
	}
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice(scraped, all...))
	r.write("policy.yaml", policy("  capacity: {slowStart: 0s}\n"))
	r.start()
	r.startEnvoy("shop/edge")
	stop := r.load(200)
	r.untilMeasured()
	broken := map[int]string{}
	for name, fault := range faults {
		r.backends[len(broken)].SetMetricsFault(fault)
		broken[len(broken)] = name
	}
	r.eventually("the broken endpoints are stale", func() error {
		for _, e := range r.service().Endpoints {
			if name, ok := broken[r.backendOf(e.Address)]; ok && e.State != "Stale" {
				return fmt.Errorf("%s (%s) is %s", e.Address, name, e.State)
			}
		}
		return nil
	})
	for _, e := range r.service().Endpoints {
		if _, ok := broken[r.backendOf(e.Address)]; !ok && e.State != "Serving" {
			t.Errorf("%s, whose metrics are fine, is %s", e.Address, e.State)
		}
	}
	for i := range broken {
		r.backends[i].SetMetricsFault(demo.MetricsFine)
	}
	r.untilMeasured()
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
}

// TestIdleIsSilent watches a program with nothing to do for ten seconds of its scrapes and ticks.
func TestIdleIsSilent(t *testing.T) {
	r := newRig(t, 3)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice(scraped, 0, 1, 2))
	r.write("policy.yaml", policy("  capacity: {slowStart: 0s}\n"))
	r.start()
	r.startEnvoy("shop/edge")
	settle(t, func() string { return fmt.Sprint(r.metric("evenkeel_xds_responses_total")) })
	before := r.metric("evenkeel_xds_responses_total")
	if before == 0 {
		t.Fatal("nothing was ever sent")
	}
	time.Sleep(10 * time.Second) // the window that is watched
	if after := r.metric("evenkeel_xds_responses_total"); after != before {
		t.Errorf("%v responses were sent while nothing happened", after-before)
	}
}

// TestFreezeHoldsWeights freezes a service, makes a backend slow, and sees nothing move until it is
// released.
func TestFreezeHoldsWeights(t *testing.T) {
	r := newRig(t, 3)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice(scraped, 0, 1, 2))
	r.write("policy.yaml", policy("  capacity: {slowStart: 0s}\n  publish: {interval: 2s}\n"))
	r.start()
	r.startEnvoy("shop/edge")
	r.load(100)
	r.untilMeasured()
	r.run("freeze", "shop/cart:80", "--admin", r.adminURL(""))
	before := fmt.Sprint(r.weights())
	if err := r.backends[0].SetSpeed(1. / 3); err != nil {
		t.Fatal(err)
	}
	time.Sleep(8 * time.Second) // four ticks in which the weights would have moved
	if after := fmt.Sprint(r.weights()); after != before {
		t.Errorf("frozen weights moved from %s to %s", before, after)
	}
	r.run("unfreeze", "shop/cart:80", "--admin", r.adminURL(""))
	r.eventually("the weights move again", func() error {
		if after := fmt.Sprint(r.weights()); after == before {
			return errors.New("they do not")
		}
		return nil
	})
}

// untilUneven waits until backend 2, which is slow, weighs well less than backend 0.
func (r *rig) untilUneven() {
	r.t.Helper()
	r.eventually("the weights have left equality", func() error {
		if w := r.weights(); w[2]*10 > w[0]*8 {
			return fmt.Errorf("weights %v", w)
		}
		return nil
	})
}

// settle waits until what it is shown has not changed for five seconds, a minute at most.
func settle(t *testing.T, show func() string) {
	t.Helper()
	last, since := show(), time.Now()
	for deadline := time.Now().Add(time.Minute); time.Since(since) < 5*time.Second; {
		if time.Now().After(deadline) {
			t.Fatalf("it does not settle: %s", last)
		}
		time.Sleep(100 * time.Millisecond)
		if now := show(); now != last {
			last, since = now, time.Now()
		}
	}
}

// body is a page of the admin port as JSON.
func (r *rig) body(path string) string {
	resp, err := http.Get(r.adminURL(path))
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}
