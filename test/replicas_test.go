package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
)

// oneMore is a replica beside r, of the same objects and with a state and ports of its own.
func (r *rig) oneMore() *rig {
	r.t.Helper()
	other := *r
	other.state, other.logs, other.plane, other.envoy = r.t.TempDir(), r.t.TempDir(), nil, nil
	for _, port := range []*uint16{&other.ports.xds, &other.ports.admin, &other.ports.limits, &other.ports.envoyAdmin} {
		*port = r.freePort(netip.MustParseAddr("127.0.0.1"))
	}
	return &other
}

// startReplica starts the program as one of several, of a name.
func (r *rig) startReplica(server *kubetest.APIServer, namespace, name string, args ...string) {
	r.t.Helper()
	if r.cluster == "" {
		args = append(args, "--kubeconfig", server.Kubeconfig()) // for the Lease
	}
	r.start(append([]string{"--replica-name", name, "--replica-address", loopback(r.ports.xds), "--lease-namespace", namespace}, args...)...)
	r.t.Cleanup(func() {
		if r.t.Failed() {
			body, _ := os.ReadFile(filepath.Join(r.logs, "controlplane.log"))
			r.t.Logf("%s:\n%s", name, tail(string(body), 60))
		}
	})
}

// assignments are those that the fleet is served, as the admin port shows them: names, versions, content.
func (r *rig) assignments() map[string]any {
	r.t.Helper()
	var view map[string]any
	if err := demo.GetJSON(r.t.Context(), r.adminURL("/snapshots/shop/edge/eds"), &view); err != nil {
		r.t.Fatal(err)
	}
	return view
}

// assignmentVersion is the version in which the fleet is served the endpoints of a cluster.
func (r *rig) assignmentVersion(cluster string) string {
	r.t.Helper()
	var view admin.ResourcesView
	if err := demo.GetJSON(r.t.Context(), r.adminURL("/snapshots/shop/edge/eds?name="+cluster), &view); err != nil {
		r.t.Fatal(err)
	}
	if len(view.Resources) != 1 {
		r.t.Fatalf("%d assignments of %s", len(view.Resources), cluster)
	}
	return view.Resources[0].Version
}

// follows names the replica that r follows, "" if it leads.
func (r *rig) follows() (string, error) {
	var view admin.ReadyView
	err := demo.GetJSON(r.t.Context(), r.adminURL("/readyz"), &view)
	return view.Follows, err
}

// leads says whether r does.
func (r *rig) leads() error {
	if leader, err := r.follows(); err != nil || leader != "" {
		return fmt.Errorf("it follows %q, %v", leader, err)
	}
	return nil
}

// untilLeading waits until r, which follows, takes over.
func (r *rig) untilLeading() {
	r.t.Helper()
	r.within(time.Minute, "the follower takes over", r.leads)
}

// freeze holds all weights, and returns the status and what was said.
func (r *rig) freeze() (int, string) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.adminURL("/freeze"), strings.NewReader("{}"))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("X-Evenkeel-Action", "1")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}

// TestReplicas runs two replicas of one directory, with the Lease on a real API server, over the life of
// a leader that is killed.
func TestReplicas(t *testing.T) {
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	a := newRig(t, 3)
	a.addBackend(3, demo.BackendConfig{Speed: 0.3})
	a.write("base.yaml", a.base())
	a.write("route.yaml", route(toCart))
	a.write("slice.yaml", a.slice(scraped, 0, 1, 2, 3))
	a.write("policy.yaml", policy("  capacity: {slowStart: 0s}\n  publish: {interval: 2s}\n"))
	a.startReplica(server, namespace, "a")
	a.startEnvoy("shop/edge")
	a.load(120)
	a.untilMeasured()
	uneven := func(r *rig) error {
		w := r.weights()
		if w[3] > w[0]*7/10 {
			return fmt.Errorf("weights %v, want the slow backend well below the others", w)
		}
		return nil
	}
	a.eventually("the slow backend weighs less", func() error { return uneven(a) })

	// One that joins serves the leader's weights from its first answer on.
	b := a.oneMore()
	b.startReplica(server, namespace, "b")
	if err := uneven(b); err != nil {
		t.Errorf("the replica that joined began with other weights than the leader's: %v", err)
	}
	if leader, err := b.follows(); err != nil || !strings.HasPrefix(leader, "a (") {
		t.Errorf("it follows %q, %v", leader, err)
	}
	same := func() error {
		if x, y := a.assignments(), b.assignments(); !reflect.DeepEqual(x, y) {
			return fmt.Errorf("a serves %v\nb serves %v", text(x), text(y))
		}
		return nil
	}
	a.eventually("both serve the same", same)
	if states := b.service(); states.Endpoints[0].State != "Serving" || len(states.Endpoints[0].Reasons) == 0 {
		t.Errorf("the follower shows %+v, want the leader's states and reasons", states.Endpoints[0])
	}
	if n := b.metric("evenkeel_scrape_samples_total") + b.metric("evenkeel_scrape_total"); n != 0 {
		t.Errorf("the follower scraped: %v", n)
	}

	// A client of the follower sees the leader's versions, and is sent nothing again when it moves.
	client := newDeltaClient(t, loopback(b.ports.xds), "shop/edge")
	client.subscribeAll("shop/cart:80", "shop/edge/"+fmt.Sprint(a.ports.listener))
	a.eventually("the leader knows the follower's client", func() error {
		var view admin.ProxiesView
		if err := demo.GetJSON(t.Context(), a.adminURL("/proxies"), &view); err != nil {
			return err
		}
		for _, p := range view.Proxies {
			if p.Node == "raw" && p.Replica == "b" && p.InSync() {
				return nil
			}
		}
		return fmt.Errorf("proxies %+v", view.Proxies)
	})

	// Actions are the leader's.
	if code, said := b.freeze(); code != http.StatusConflict || !strings.Contains(said, "a (") {
		t.Errorf("the follower answered an action with %d %s, want a conflict that names the leader", code, said)
	}
	for _, action := range [][]string{{"freeze"}, {"unfreeze", "shop/cart:80"}, {"rollback", "shop/edge", "1"}, {"unpin", "shop/edge"}, {"accept"}} {
		out, err := exec.CommandContext(t.Context(), program, append(action, "--admin", b.adminURL(""))...).CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "this replica follows a (") || !strings.Contains(string(out), "ask the admin port of a") {
			t.Errorf("%v on the follower: %v, %s; want a refusal that names the leader", action, err, out)
		}
	}
	if code, said := a.freeze(); code != http.StatusOK {
		t.Fatalf("freeze: %d %s", code, said)
	}
	b.eventually("the follower is frozen too", func() error {
		if held := b.service().Frozen; !strings.Contains(held, "operator") {
			return fmt.Errorf("held: %q", held)
		}
		return nil
	})
	a.eventually("both serve the same", same)
	client.until(resource.EndpointType, "shop/cart:80", a.assignmentVersion("shop/cart:80"))
	client.address = loopback(a.ports.xds)
	client.connect()
	if moved := client.drain(3 * time.Second); moved.bodies != 0 {
		t.Errorf("a client that moved was sent %v again", moved.names)
	}

	// The leader dies: the other goes on from the same numbers, still frozen.
	before := b.weights()
	a.plane.Kill()
	b.untilLeading()
	for range 5 {
		if after := b.weights(); moved(before, after) > 0 {
			t.Errorf("weights were %v, and are %v, frozen as they are", before, after)
		}
		time.Sleep(time.Second) // ticks pass
	}

	// It comes back and follows.
	a.startReplica(server, namespace, "a")
	if leader, err := a.follows(); err != nil || !strings.HasPrefix(leader, "b (") {
		t.Errorf("the old leader follows %q, %v", leader, err)
	}
	a.eventually("both serve the same", same)
}

// TestLoadReportsOfAFollower: the leader has what Envoys report to another replica, and knows whether these are
// all that there are.
func TestLoadReportsOfAFollower(t *testing.T) {
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	a := newRig(t, 3)
	a.write("base.yaml", a.base())
	a.write("route.yaml", route(toCart))
	a.write("slice.yaml", a.slice(scraped, 0, 1, 2))
	a.write("policy.yaml", policy("  capacity: {slowStart: 0s}\n  signals: {loadReports: true}\n"))
	a.startReplica(server, namespace, "a", "--load-report-interval", "1s")
	b := a.oneMore()
	b.startReplica(server, namespace, "b", "--load-report-interval", "1s")
	b.startEnvoy("shop/edge")
	stop := b.load(120)
	reports := func(r *rig, all bool) func() error {
		return func() error {
			reported, total := r.reported(), 0.0
			for i := range r.backends {
				n, ok := reported[i]
				if !ok || n.All != all {
					return fmt.Errorf("backend %d: %v %+v, want it reported, and of all: %v", i, ok, n, all)
				}
				total += *n.RPS
			}
			if total < 90 || total > 150 {
				return fmt.Errorf("%v requests/s of 120", total)
			}
			return nil
		}
	}
	a.eventually("the leader has what the follower's Envoy reports", reports(a, true))
	client := newDeltaClient(t, loopback(a.ports.xds), "shop/edge")
	client.subscribeAll("shop/cart:80", "shop/edge/"+fmt.Sprint(a.ports.listener))
	a.eventually("it is not all any more: one that takes endpoints does not report", reports(a, false))
	client.disconnect()
	a.eventually("it is all again", reports(a, true))
	for i := range b.backends {
		if n, ok := b.reported()[i]; ok {
			t.Errorf("the follower has a reading of its own of backend %d: %+v", i, n)
		}
	}

	a.plane.Kill()
	b.untilLeading()
	b.eventually("it has what is reported, and does not take it for all before the others may have come", reports(b, false))
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
}

// TestARefusalCountsEverywhere: what one Envoy of each of two replicas refuses is taken back at both, over a change
// of leader, until the object changes.
func TestARefusalCountsEverywhere(t *testing.T) {
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	a := newRig(t, 3)
	a.write("base.yaml", a.base())
	a.write("route.yaml", route(toCart))
	a.write("slice.yaml", a.slice("", 0, 1))
	a.startReplica(server, namespace, "a")
	b := a.oneMore()
	b.startReplica(server, namespace, "b")
	var clients []*deltaClient
	for _, r := range []*rig{a, b} {
		c := newDeltaClient(t, loopback(r.ports.xds), "shop/edge")
		c.id = "raw at " + loopback(r.ports.xds)
		c.subscribeAll("shop/cart:80", "shop/edge/"+fmt.Sprint(a.ports.listener))
		clients = append(clients, c)
	}
	good := clients[0].versions[resource.EndpointType]["shop/cart:80"]
	if other := clients[1].versions[resource.EndpointType]["shop/cart:80"]; other != good {
		t.Fatalf("the replicas serve %s and %s", good, other)
	}
	sentTo := func(r *rig) string { // one that comes now
		c := newDeltaClient(t, loopback(r.ports.xds), "shop/edge")
		c.id = "late"
		c.names[resource.EndpointType] = []string{"shop/cart:80"}
		c.connect()
		defer c.disconnect()
		return c.next(resource.EndpointType).GetResources()[0].GetVersion()
	}
	a.write("slice.yaml", a.slice("", 0))
	for _, c := range clients {
		resp := c.next(resource.EndpointType)
		if resp.GetResources()[0].GetVersion() == good {
			t.Fatal("the change changed nothing")
		}
		c.refuse(resp)
	}
	for _, r := range []*rig{a, b} {
		r.eventually("who comes is served what was accepted", func() error {
			if !strings.Contains(r.body("/nacks"), "the whole fleet is served version") {
				return errors.New("nothing is taken back")
			}
			return nil
		})
		if got := sentTo(r); got != good {
			t.Errorf("who comes is sent version %s, want %s", got, good)
		}
	}

	a.plane.Kill()
	b.untilLeading()
	if got := sentTo(b); got != good {
		t.Errorf("after a change of leader who comes is sent version %s, want %s", got, good)
	}
	a.startReplica(server, namespace, "a")
	a.eventually("one that comes again parks it too", func() error {
		if got := sentTo(a); got != good {
			return fmt.Errorf("who comes is sent version %s, want %s", got, good)
		}
		return nil
	})
	a.write("slice.yaml", a.slice("", 0, 1, 2))
	clients[1].next(resource.EndpointType)
	a.eventually("the object has changed", func() error {
		if x, y := sentTo(a), sentTo(b); x != y || x == good {
			return fmt.Errorf("who comes is sent versions %s and %s", x, y)
		}
		return nil
	})
}

// TestTakeoverMovesNoWeight: the weights go on from where the leader left them, neither held by an operator
// nor far from where they were. The replicas talk over TLS.
func TestTakeoverMovesNoWeight(t *testing.T) {
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	a := newRig(t, 3)
	a.addBackend(3, demo.BackendConfig{Speed: 0.3})
	a.write("base.yaml", a.base())
	a.write("route.yaml", route(toCart))
	a.write("slice.yaml", a.slice(scraped, 0, 1, 2, 3))
	a.write("policy.yaml", policy("  capacity: {slowStart: 0s}\n"))
	pki := t.TempDir()
	a.run("certgen", "--dir", pki)
	secret := []string{"--xds-tls-dir", filepath.Join(pki, "server")}
	a.startReplica(server, namespace, "a", secret...)
	b := a.oneMore()
	b.startReplica(server, namespace, "b", secret...)
	var direct []string // there is no Envoy
	for _, backend := range a.backends {
		direct = append(direct, fmt.Sprintf("http://%s/", backend.Address()))
	}
	a.loadOn(120, direct...)
	a.untilMeasured()
	b.takesOver(a)
	b.untilMeasured()
}

// untilSettled waits until what the engine makes of the measurements has stayed near what it published for so many
// decisions in a row: nothing is about to be pushed.
func (r *rig) untilSettled() {
	r.t.Helper()
	const decisions, near = 5, 0.04 // of a deadband of 0.08
	inARow, last := 0, time.Time{}
	r.within(5*time.Minute, "the estimates have settled", func() error {
		s := r.service()
		if s.DecidedAt == nil || s.DecidedAt.Equal(last) {
			return fmt.Errorf("near for %d decisions in a row", inARow)
		}
		last, inARow = *s.DecidedAt, inARow+1
		sum, computed := 0.0, 0.0
		for _, e := range s.Endpoints {
			if e.Computed == nil || e.Weight == 0 {
				inARow = 0
				return fmt.Errorf("nothing is computed of %s", e.Address)
			}
			sum, computed = sum+float64(e.Weight), computed+*e.Computed
		}
		for _, e := range s.Endpoints {
			if off := math.Abs(math.Log(*e.Computed / computed * sum / float64(e.Weight))); off > near {
				inARow = 0
				return fmt.Errorf("%s has %d and is to have %.0f", e.Address, e.Weight, *e.Computed/computed*sum)
			}
		}
		if inARow < decisions {
			return fmt.Errorf("near for %d decisions in a row", inARow)
		}
		return nil
	})
}

// takesOver kills the leader when its estimates have settled, and holds that no weight moves by it.
func (r *rig) takesOver(leader *rig) {
	r.t.Helper()
	leader.untilSettled()
	var last map[int]uint32
	r.eventually("the follower has the leader's weights", func() error {
		if last = leader.weights(); moved(last, r.weights()) > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	leader.plane.Kill()
	r.within(time.Minute, "the follower takes over", func() error {
		if now := r.weights(); moved(last, now) > 0 {
			r.t.Errorf("while nobody led the weights went from %v to %v", last, now)
			last = now
		}
		return r.leads()
	})
	for until := time.Now().Add(6 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if now := r.weights(); moved(last, now) > 0.04 {
			r.t.Fatalf("the change of leader moved the weights from %v to %v", last, now)
		}
	}
}

// moved is the largest |d ln w|.
func moved(before, after map[int]uint32) float64 {
	most := 0.0
	for i, w := range before {
		most = max(most, math.Abs(math.Log(float64(after[i])/float64(w))))
	}
	return most
}

func text(v any) string {
	body, _ := json.Marshal(v)
	return string(body)
}
