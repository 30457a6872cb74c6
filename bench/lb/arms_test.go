package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// testLane is the first of the tests' lanes, far from those that a measurement next to them would use, and
// from those of other tests of this package that run now.
var testLane = 20 + os.Getpid()%11*testLanes

// testLanes is how many lanes the tests use.
const testLanes = 8

// testRig is started servers, quick ones, and what an arm needs. It skips where there is no Envoy.
func testRig(t *testing.T, lane int, alter func(*topology)) rig {
	t.Helper()
	envoy, err := demo.FindEnvoy()
	if errors.Is(err, demo.ErrNoEnvoy) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	r := rig{topology: standard, envoy: envoy, dir: t.TempDir(), state: t.TempDir(), lane: testLane + lane}
	r.topology.servers, r.topology.concurrency, r.topology.work = 4, 1, 2*time.Millisecond
	if alter != nil {
		alter(&r.topology)
	}
	if r.servers, err = demo.StartFleet(r.serverConfigs(r.lane, 0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.servers.Close() })
	for i := range r.envoys {
		r.listeners = append(r.listeners, r.port(20+i))
	}
	return r
}

func start(t *testing.T, name string, r rig) *running {
	t.Helper()
	chosen, err := armNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	at, err := chosen.start(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop := at.stop
	at.stop = func() { once.Do(stop) }
	t.Cleanup(at.stop)
	return at
}

// serve sends a short load through all listeners and expects it to be answered.
func serve(t *testing.T, r rig, rate float64, duration time.Duration) {
	t.Helper()
	var urls []string
	for _, port := range r.listeners {
		urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d/", port))
	}
	report, err := demo.RunLoad(t.Context(), demo.LoadOptions{URLs: urls, Rate: rate, Duration: duration, Seed: 1})
	if err != nil || report.Requests == 0 || report.OK != report.Requests {
		t.Errorf("%v of %d requests, %v", report.ByStatus, report.Requests, err)
	}
}

// hosts are those of the servers in the i-th Envoy of the rig, in the order of the servers.
func hosts(t *testing.T, r rig, i int) []demo.EnvoyHost {
	t.Helper()
	var all []demo.EnvoyHost
	eventually(t, fmt.Sprintf("Envoy %d answers", i), func() (answered bool) {
		var err error
		all, err = demo.EnvoyHosts(t.Context(), fmt.Sprintf("http://127.0.0.1:%d", r.port(10+i)))
		return err == nil // a machine that is busy with other things may make it miss the deadline
	})
	var list []demo.EnvoyHost
	for _, server := range r.servers {
		j := slices.IndexFunc(all, func(h demo.EnvoyHost) bool { return h.Address == server.Address().String() })
		if j < 0 {
			t.Fatalf("%s is no host of Envoy %d", server.Address(), i)
		}
		list = append(list, all[j])
	}
	return list
}

// eventually asks until it is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func TestEnvoysServeByThemselves(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ROUND_ROBIN", "LEAST_REQUEST slow start", "ORCA", "oracle"} {
		t.Run(name, func(t *testing.T) {
			r := testRig(t, 0, func(top *topology) { top.envoys = 2 })
			at := start(t, name, r)
			if at.pushes != nil || at.kill != nil || at.revive != nil {
				t.Error("there is no control plane to ask, kill or revive")
			}
			serve(t, r, 300, 200*time.Millisecond)
			for i := range r.listeners {
				for j, h := range hosts(t, r, i) {
					want := uint64(1)
					if name == "oracle" {
						want = uint64(1000 * (1 + j))
					}
					if h.Weight != want {
						t.Errorf("envoy %d: server %d has weight %d, want %d", i, j, h.Weight, want)
					}
				}
			}
		})
	}
}

// TestORCAFollowsTheServersReports: a server with most of its CPU in use gets less.
func TestORCAFollowsTheServersReports(t *testing.T) {
	t.Parallel()
	r := testRig(t, 1, nil)
	// The arm itself waits ten seconds before it believes a report.
	quick := strings.Replace(clientSideWeighted, "blackout_period: 10s", "blackout_period: 1s", 1)
	at, err := loadReports(static(balancer{Policy: quick}))(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer at.stop()
	for i, b := range r.servers {
		if err := b.SetReportedCPU(0.2 * float64(1+i)); err != nil {
			t.Fatal(err)
		}
	}
	load, stop, err := demo.StartLoad(t.Context(), demo.LoadOptions{URLs: []string{fmt.Sprintf("http://127.0.0.1:%d/", r.listeners[0])}, Rate: 200, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	eventually(t, "the first server's weight is far above the last one's", func() bool {
		list := hosts(t, r, 0)
		return list[0].Weight > 2*list[3].Weight && list[3].Weight > 1
	})
	if report := load.Report(0, load.Elapsed()); report.Failed() > 0 {
		t.Errorf("%v", report.ByStatus)
	}
}

// TestPIDWritesWhatEnvoyTakes: its weights arrive, at every Envoy, and are there again in the next run.
func TestPIDWritesWhatEnvoyTakes(t *testing.T) {
	t.Parallel()
	r := testRig(t, 2, func(top *topology) { top.envoys = 2 })
	at := start(t, "PID", r)
	if err := r.servers[0].SetReportedCPU(0.9); err != nil {
		t.Fatal(err)
	}
	if err := r.servers[1].SetReportedCPU(0.1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the busy server has less weight than the idle one", func() bool {
		return slices.IndexFunc([]int{0, 1}, func(i int) bool {
			list := hosts(t, r, i)
			return list[0].Weight >= list[1].Weight
		}) < 0
	})
	serve(t, r, 300, 100*time.Millisecond)
	at.stop()
	r.dir = t.TempDir()
	start(t, "PID", r)
	if list := hosts(t, r, 0); list[0].Weight >= list[1].Weight {
		t.Errorf("weights %d and %d: the next run does not go on from them", list[0].Weight, list[1].Weight)
	}
}

// program builds the control plane once, into programDir.
var (
	programDir string
	program    = sync.OnceValues(func() (path string, err error) {
		if programDir, err = os.MkdirTemp("", "evenkeel-lb-test-"); err != nil {
			return "", err
		}
		path = filepath.Join(programDir, "controlplane")
		if out, err := exec.Command("go", "build", "-o", path, "evenkeel.io/controlplane/cmd/controlplane").CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, out)
		}
		return path, nil
	})
)

func TestMain(m *testing.M) {
	code := m.Run()
	if programDir != "" {
		_ = os.RemoveAll(programDir)
	}
	os.Exit(code)
}

// TestPoliciesAreOnesThatTheControlPlaneTakes: a policy that it refused would leave the defaults in force.
func TestPoliciesAreOnesThatTheControlPlaneTakes(t *testing.T) {
	t.Parallel()
	r := testRig(t, 5, nil)
	var err error
	if r.binary, err = program(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"LEAST_REQUEST", "Capacity", "Capacity tilt 0.25", "RTT"} {
		t.Run(name, func(t *testing.T) {
			r.dir, r.state = t.TempDir(), t.TempDir()
			start(t, name, r)
			serve(t, r, 200, 50*time.Millisecond)
			if out, err := exec.Command(r.binary, "check", filepath.Join(r.dir, "config")).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestControlPlaneIsKilledAndRevivedOnItsState also goes on from the state of another lane.
func TestControlPlaneIsKilledAndRevivedOnItsState(t *testing.T) {
	t.Parallel()
	r := testRig(t, 3, func(top *topology) { top.envoys = 2 })
	var err error
	if r.binary, err = program(); err != nil {
		t.Fatal(err)
	}
	at := start(t, "Capacity tilt 0.25", r)
	load, stop, err := demo.StartLoad(t.Context(), demo.LoadOptions{
		URLs: []string{fmt.Sprintf("http://127.0.0.1:%d/", r.listeners[0]), fmt.Sprintf("http://127.0.0.1:%d/", r.listeners[1])}, Rate: 400, Seed: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	uneven := func(r rig) bool {
		list := hosts(t, r, 0)
		return list[3].Weight > list[0].Weight*3/2 && hosts(t, r, 1)[3].Weight > list[0].Weight*3/2
	}
	eventually(t, "the fast server has more weight", func() bool { return uneven(r) })
	before, err := at.pushes(t.Context())
	if err != nil || before == 0 {
		t.Errorf("%v pushes, %v", before, err)
	}
	if err := at.kill(); err != nil {
		t.Fatal(err)
	}
	if dead, err := at.pushes(t.Context()); dead < before || err != nil {
		t.Errorf("%v pushes of the dead, %v; want at least %v", dead, err, before)
	}
	if !uneven(r) {
		t.Error("the weights went with the control plane")
	}
	if err := at.revive(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, err := at.pushes(t.Context()); after < before || err != nil {
		t.Errorf("%v pushes, %v; want at least %v", after, err, before)
	}
	if report := load.Report(0, load.Elapsed()); report.Failed() > 0 {
		t.Errorf("%v", report.ByStatus)
	}
	stop()
	at.stop()

	next := rig{topology: r.topology, envoy: r.envoy, binary: r.binary, dir: t.TempDir(), state: r.state, lane: r.lane + 1, listeners: r.listeners}
	if next.servers, err = demo.StartFleet(next.serverConfigs(next.lane, 1)); err != nil {
		t.Fatal(err)
	}
	defer next.servers.Close()
	start(t, "Capacity", next)
	// What the killed one saved last may be older than what it had published.
	if list := hosts(t, next, 0); list[3].Weight <= list[0].Weight {
		t.Error("on another lane it starts from nothing")
	}
}
