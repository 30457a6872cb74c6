package test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/translate"
)

// untilSaved waits until the state directory has what the fleet is served now.
func (r *rig) untilSaved() {
	r.t.Helper()
	dir, err := lastgood.Open(r.state)
	if err != nil {
		r.t.Fatal(err)
	}
	r.eventually("what is served is saved", func() error {
		var served admin.SnapshotsView
		if err := demo.GetJSON(r.t.Context(), r.adminURL("/snapshots/shop/edge"), &served); err != nil {
			return err
		}
		saved, errs := dir.LoadFleets()
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
		for _, f := range saved {
			if f.Key != "shop/edge" {
				continue
			}
			for _, of := range served.Snapshots[0].Types {
				if version := f.Snapshot.Version(translate.Type(of.Type)); version != of.Version {
					return fmt.Errorf("%s is saved in version %s, served in %s", of.Type, version, of.Version)
				}
			}
			if (f.Pin != nil) != (served.Snapshots[0].Pin != nil) {
				return errors.New("the pin is not saved")
			}
			return nil
		}
		return errors.New("nothing is saved")
	})
}

// TestAStartWithoutItsObjects kills the program under load, takes its directory of objects away, and starts it:
// Envoys are served what they had, byte for byte, and it says so; when the directory is back, nothing is sent
// again and edits count.
func TestAStartWithoutItsObjects(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3)
	if err := r.backends[2].SetSpeed(0.4); err != nil {
		t.Fatal(err)
	}
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice(scraped, 0, 1, 2))
	r.write("policy.yaml", policy("  capacity: {slowStart: 0s}\n  publish: {interval: 2s}\n"))
	r.start()
	r.startEnvoy("shop/edge")
	stop := r.load(200)
	r.untilUneven()
	r.run("freeze", "--admin", r.adminURL(""))
	client := newDeltaClient(t, loopback(r.ports.xds), "shop/edge")
	client.subscribeAll("shop/cart:80", "shop/edge/"+fmt.Sprint(r.ports.listener))
	r.untilSaved()
	client.drain(time.Second)
	updates, generation := r.updateSuccess(), r.body("/snapshots/shop/edge")

	r.plane.Kill()
	away := r.config + ".away"
	if err := os.Rename(r.config, away); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.start()
	t.Logf("ready without its objects after %v, the race detector in it", time.Since(began))
	if status := r.body("/status"); !strings.Contains(status, "LastKnownGood") {
		t.Errorf("/status does not say what is served:\n%s", status)
	}
	if now := r.body("/snapshots/shop/edge"); now != generation {
		t.Errorf("another generation is served:\n%s\n%s", now, generation)
	}
	log, err := os.ReadFile(filepath.Join(r.logs, "controlplane.log"))
	if err != nil {
		t.Fatal(err)
	}
	if served, said := strings.Index(string(log), "serving what was saved"), strings.Index(string(log), "the objects cannot be read"); served < 0 || said < served {
		t.Errorf("what was saved was served at %d of the log, after it was missed at %d", served, said)
	}
	client.reconnect()
	fresh := newDeltaClient(t, loopback(r.ports.xds), "shop/edge")
	fresh.subscribeAll("shop/cart:80", "shop/edge/"+fmt.Sprint(r.ports.listener)) // one that has nothing is told everything
	r.eventually("Envoy is connected again", func() error {
		if n := r.metric("evenkeel_xds_streams"); n < 4 {
			return fmt.Errorf("%v streams", n)
		}
		return nil
	})
	if got := client.drain(4 * time.Second); got.bodies > 0 {
		t.Errorf("%d resource bodies were sent again: %v", got.bodies, got.names)
	}

	if err := os.Rename(away, r.config); err != nil {
		t.Fatal(err)
	}
	r.eventually("the objects take over", func() error {
		if status := r.body("/status"); strings.Contains(status, "LastKnownGood") || !strings.Contains(status, "HTTPRoute") {
			return errors.New(status)
		}
		return nil
	})
	if got := client.drain(4 * time.Second); got.bodies > 0 {
		t.Errorf("%d resource bodies were sent again when the objects came: %v", got.bodies, got.names)
	}
	if now := r.updateSuccess(); now != updates {
		t.Errorf("Envoy took updates: %s, before %s", now, updates)
	}
	r.write("slice.yaml", r.slice(scraped, 0, 1))
	r.eventually("an edit reaches Envoy", func() error {
		if n := len(r.hosts()); n != 2 {
			return fmt.Errorf("%d hosts", n)
		}
		return nil
	})
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
}

// TestAStartInAnEmptyDirectory: there is no object at all any more, by accident for all that is known. What was
// saved is served, and it is ready and says so, until there are objects again.
func TestAStartInAnEmptyDirectory(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	files := map[string]string{"base.yaml": r.base(), "route.yaml": route(toCart), "slice.yaml": r.slice("", 0)}
	for name, content := range files {
		r.write(name, content)
	}
	r.start()
	r.startEnvoy("shop/edge")
	r.answers("/", 200)
	r.untilSaved()
	r.plane.Kill()
	for name := range files {
		if err := os.Remove(filepath.Join(r.config, name)); err != nil {
			t.Fatal(err)
		}
	}

	r.start()
	fresh := newDeltaClient(t, loopback(r.ports.xds), "shop/edge")
	fresh.subscribeAll("shop/cart:80", "shop/edge/"+fmt.Sprint(r.ports.listener))
	for _, path := range []string{"/readyz", "/status"} {
		if body := r.body(path); !strings.Contains(body, "or there were none; what was saved") {
			t.Errorf("%s does not say what is served:\n%s", path, body)
		}
	}
	if degraded := r.metric("evenkeel_last_known_good"); degraded != 1 {
		t.Errorf("evenkeel_last_known_good is %v", degraded)
	}
	r.answers("/", 200)
	for name, content := range files {
		r.write(name, content)
	}
	r.eventually("the objects take over", func() error {
		if ready := r.body("/readyz"); strings.Contains(ready, "saved") {
			return errors.New(ready)
		}
		return nil
	})
	if degraded := r.metric("evenkeel_last_known_good"); degraded != 0 {
		t.Errorf("evenkeel_last_known_good is %v", degraded)
	}
	r.answers("/", 200)
}

const redirect = `  - matches: [{path: {type: PathPrefix, value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /}}}]
`

// answers waits until the listener answers a path with a status, redirects not followed.
func (r *rig) answers(path string, want int) {
	r.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	r.eventually(fmt.Sprintf("%s is answered %d", path, want), func() error {
		resp, err := client.Get(r.url(path))
		if err != nil {
			return err
		}
		resp.Body.Close()
		return status(resp.StatusCode, want)
	})
}

// states are the states of the fleet's generations, the newest first.
func (r *rig) states() string {
	r.t.Helper()
	var view admin.HistoryView
	if err := demo.GetJSON(r.t.Context(), r.adminURL("/history?fleet=shop/edge"), &view); err != nil {
		r.t.Fatal(err)
	}
	var all []string
	for _, g := range view.Generations {
		all = append(all, fmt.Sprintf("%d%s", g.Number, g.State))
	}
	return strings.Join(all, " ")
}

// TestRollbackUnderLoad goes back a generation and forth, over a restart, under load: routes are those of then,
// endpoints those of now, and no request fails.
func TestRollbackUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice("", 0, 1, 2))
	r.start()
	r.startEnvoy("shop/edge")
	stop := r.load(200)
	r.answers("/moved", 200)
	r.write("route.yaml", route(redirect+toCart))
	r.answers("/moved", 301)

	if out := string(r.run("diff", "shop/edge", "2", "1", "--admin", r.adminURL(""))); !strings.Contains(out, "\n-") || !strings.Contains(out, "path_redirect") {
		t.Errorf("diff does not show what a rollback changes:\n%s", out)
	}
	r.run("rollback", "shop/edge", "1", "--admin", r.adminURL(""))
	r.answers("/moved", 200)
	r.write("slice.yaml", r.slice("", 0, 1))
	r.eventually("an endpoint leaves while the fleet is pinned", func() error {
		if n := len(r.hosts()); n != 2 {
			return fmt.Errorf("%d hosts", n)
		}
		return nil
	})
	r.write("other.yaml", strings.NewReplacer("name: cart, namespace", "name: other, namespace", "/moved", "/other").Replace(route(redirect)))
	r.eventually("another route waits", func() error {
		if got := r.states(); got != "3HeldBack 2HeldBack 1Pinned" {
			return errors.New(got)
		}
		return nil
	})
	if body := r.body("/status"); strings.Count(body, `"RolledBack"`) < 3 {
		t.Errorf("/status does not say RolledBack of the Gateway and both routes:\n%s", body)
	}

	r.untilSaved()
	client := newDeltaClient(t, loopback(r.ports.xds), "shop/edge")
	client.subscribeAll("shop/cart:80", "shop/edge/"+fmt.Sprint(r.ports.listener))
	client.drain(time.Second)
	r.plane.Kill()
	r.start()
	client.reconnect()
	if got := client.drain(3 * time.Second); got.bodies > 0 {
		t.Errorf("%d resource bodies were sent again after a restart: %v", got.bodies, got.names)
	}
	if n := r.metric("evenkeel_fleet_pinned"); n != 1 {
		t.Errorf("evenkeel_fleet_pinned is %v after a restart", n)
	}
	r.answers("/moved", 200)
	r.answers("/other", 200)

	r.run("unpin", "shop/edge", "--admin", r.adminURL(""))
	r.answers("/moved", 301)
	r.answers("/other", 301)
	r.run("rollback", "shop/edge", "1", "--admin", r.adminURL(""))
	r.answers("/moved", 200)
	r.write("route.yaml", route(strings.ReplaceAll(redirect, "301", "302")+toCart))
	r.answers("/moved", 302)
	if n := r.metric("evenkeel_fleet_pinned"); n != 0 {
		t.Errorf("the fix is served, and evenkeel_fleet_pinned is %v", n)
	}
	log, err := os.ReadFile(filepath.Join(r.logs, "controlplane.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"audit.op=rollback", `audit.by="admin port from 127.0.0.1"`, `audit.by="file route.yaml"`, "audit.fields="} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log does not say %s", want)
		}
	}
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
}
