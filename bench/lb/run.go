package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// runner runs trials.
type runner struct {
	settings
	binary, envoy string
	results       string
	lane          int // the first; the others follow
	busyLimit     float64
	made          making
	// cold are the folders of warm-ups that failed.
	cold map[string]bool
}

// firstListener is the port of the first lane's first Envoy. It is below those of rig.port, and with them below
// the range from which systems take the ports of outgoing connections.
const firstListener = 12000

// run starts a trial in a lane, measures its window, and takes everything down again.
func (r *runner) run(ctx context.Context, t trial, lane, beside int) (record, error) {
	s, err := scenarioNamed(t.Scenario)
	if err != nil {
		return record{}, err
	}
	a, err := armNamed(t.Arm)
	if err != nil {
		return record{}, err
	}
	dir, err := os.MkdirTemp("", "evenkeel-lb-")
	if err != nil {
		return record{}, err
	}
	defer os.RemoveAll(dir)
	state := filepath.Join(dir, "state")
	if a.warms {
		err = r.warmed(a, s.topology()).copyTo(state)
	} else {
		err = os.Mkdir(state, 0o700)
	}
	if err != nil {
		return record{}, err
	}
	result := record{trial: t, settings: r.settings, Began: time.Now().UTC().Truncate(time.Second), Made: r.made,
		Lane: lane, Beside: beside, FaultAt: s.faultAt}
	if err := r.measure(ctx, s, a, dir, state, &result); err != nil {
		return record{}, err
	}
	result.Counted = result.Busy <= r.busyLimit
	return result, nil
}

// measure fills in what there is to measure of the record's trial.
func (r *runner) measure(ctx context.Context, s scenario, a arm, dir, state string, into *record) (err error) {
	// Whatever hangs, the plan goes on.
	ctx, cancel := context.WithTimeout(ctx, into.Settle+into.Window+tail+2*time.Minute)
	defer cancel()
	top := s.topology()
	servers, err := demo.StartFleet(top.serverConfigs(into.Lane, into.Repetition))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, servers.Close()) }()
	for _, server := range servers {
		into.Speeds = append(into.Speeds, server.Config().Speed)
	}
	listeners, urls, err := listen(into.Lane, top.envoys)
	if err != nil {
		return err
	}
	at, err := a.start(ctx, rig{
		topology: top, binary: r.binary, envoy: r.envoy, dir: dir, state: state, lane: into.Lane,
		servers: servers, listeners: listeners,
	})
	if err != nil {
		return err
	}
	defer at.stop()

	load, stopLoad, err := demo.StartLoad(ctx, loadOf(s, top, servers, urls, into))
	if err != nil {
		return err
	}
	defer stopLoad()
	if err := pause(ctx, into.Settle); err != nil {
		return err
	}
	pushesBefore := pushesOf(ctx, at)
	machine, err := demo.ReadMachineTime()
	if err != nil {
		return fmt.Errorf("the share of the machine in use: %w", err)
	}
	if err := into.watch(ctx, s, stage{servers: servers, arm: at}); err != nil {
		return err
	}
	into.Weights = weightsOf(ctx, at, servers, time.Now().Add(-into.Window), int(into.Window/time.Second))
	machineNow, err := demo.ReadMachineTime()
	if err != nil {
		return err
	}
	into.Busy = machineNow.BusyShare(machine)
	if pushes := pushesOf(ctx, at); pushes != nil && pushesBefore != nil && *pushes >= *pushesBefore {
		made := *pushes - *pushesBefore
		into.Pushes = &made
	}
	// Requests of the window that are still under way count too, slow ones above all.
	if err := pause(ctx, tail); err != nil {
		return err
	}
	into.take(load.Report(into.Settle, into.Settle+into.Window))
	if into.Requests == 0 {
		return errors.New("no request was answered in the window")
	}
	return nil
}

func listen(lane, envoys int) (listeners []uint16, urls []string, err error) {
	for i := range envoys {
		port, err := demo.FreePort(uint16(firstListener+100*lane+i), netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			return nil, nil, err
		}
		listeners = append(listeners, port)
		urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d/", port))
	}
	return listeners, urls, nil
}

// deadline is when clients give up.
const deadline = time.Second

// loadOf is what the clients of a trial do: the same in all arms of a repetition.
func loadOf(s scenario, top topology, servers demo.Fleet, urls []string, of *record) demo.LoadOptions {
	options := demo.LoadOptions{
		URLs: urls, Rate: top.load * servers.Capacity(), Seed: uint64(of.Repetition),
		Deadline: deadline, Timeout: deadline,
	}
	if s.load != nil {
		options.Shape = func(t time.Duration) float64 { return s.load(t - of.Settle) }
	}
	return options
}

// watch lets the scenario happen and looks at every server once a second.
func (r *record) watch(ctx context.Context, s scenario, on stage) error {
	during, end := context.WithCancel(ctx)
	var events sync.WaitGroup
	defer func() { end(); events.Wait() }()
	if s.during != nil {
		events.Go(func() { s.during(during, on) })
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	before := on.servers.Usage()
	for range int(r.Window / time.Second) {
		select {
		case <-second.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := on.servers.Usage()
		utilisations := make([]ratio, len(now))
		arrivals := make([]uint64, len(now))
		for i := range now {
			utilisations[i] = ratio(now[i].Utilisation(before[i]))
			arrivals[i] = now[i].Requests(before[i])
		}
		r.Utilisation = append(r.Utilisation, utilisations)
		r.Arrivals = append(r.Arrivals, arrivals)
		before = now
	}
	return nil
}

// take counts the requests of the window.
func (r *record) take(report demo.Report) {
	r.Requests, r.Good = report.Requests, report.Good
	r.TimedOut, r.Dropped = report.ByStatus[demo.TimedOut], report.ByStatus[demo.Dropped]
	r.Errors = report.Failed() - r.TimedOut - r.Dropped
	for _, s := range report.Samples {
		if s.Status == demo.TimedOut || s.Status >= 200 && s.Status < 300 {
			r.Latency.add(s.Latency)
		}
	}
}

// weightsOf are the shares of the servers' weights in each second from a time on, nil where they are not
// known, or not for all of that time.
func weightsOf(ctx context.Context, at *running, servers demo.Fleet, from time.Time, seconds int) [][]ratio {
	if at.weights == nil {
		return nil
	}
	updates, err := at.weights(ctx)
	if err != nil {
		return nil
	}
	var all [][]ratio
	for second := range seconds {
		then := from.Add(time.Duration(second) * time.Second)
		i := slices.IndexFunc(updates, func(p published) bool { return !p.At.After(then) })
		if i < 0 {
			return nil
		}
		shares, sum := make([]ratio, len(servers)), ratio(0)
		for j, s := range servers {
			shares[j] = ratio(updates[i].Weights[s.Address().String()])
			sum += shares[j]
		}
		for j := range shares {
			shares[j] /= max(1, sum)
		}
		all = append(all, shares)
	}
	return all
}

// pushesOf is nil where nobody knows.
func pushesOf(ctx context.Context, at *running) *float64 {
	if at.pushes == nil {
		return nil
	}
	n, err := at.pushes(ctx)
	if err != nil {
		return nil
	}
	return &n
}

// newMaking asks the programs for their versions.
func newMaking(ctx context.Context, command, binary, envoy string) (making, error) {
	m := making{Command: command, Go: runtime.Version(), CPUs: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	version, err := exec.CommandContext(ctx, envoy, "--version").Output()
	if err != nil {
		return m, fmt.Errorf("%s --version: %w", envoy, err)
	}
	m.Envoy = envoyVersion(strings.TrimSpace(string(version)))
	// Programs that say that they have the same version need not be the same.
	program, err := os.ReadFile(binary)
	if err != nil {
		return m, fmt.Errorf("the control plane, which make build makes: %w", err)
	}
	sum := sha256.Sum256(program)
	m.ControlPlane = hex.EncodeToString(sum[:6])
	if info, err := buildinfo.ReadFile(binary); err == nil {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				m.Revision = s.Value
			case "vcs.modified":
				m.Modified = s.Value == "true"
			}
		}
	}
	return m, nil
}

// envoyVersion is the number in "envoy  version: <commit>/1.2.3/Clean/RELEASE/BoringSSL", or the whole
// line if it is not like that.
func envoyVersion(line string) string {
	if parts := strings.Split(line, "/"); len(parts) >= 4 {
		return parts[len(parts)-4]
	}
	return line
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
