package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/examples"
	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
)

// The demo's rig. Ports and the mode are those of examples/demo.
const (
	demoFleet       = "demo/edge"
	demoService     = "demo/shop:80"
	demoGatewayPort = 10080
	demoBackendPort = 18080
	demoWorkers     = 2
	demoWork        = 40 * time.Millisecond // mean of a request on a worker of speed 1
	demoLoad        = 0.70                  // of the backends' capacity
	demoWarmup      = 5 * time.Second
	demoSettle      = 10 * time.Second
	demoOrder       = 0.9 // least rank correlation of requests and weights
)

var demoSpeeds = []float64{1, 1.4, 1.8, 2.2, 2.6, 3}

func newDemoCommand() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "see weights move traffic and a limit hold: backends of different speed, a real Envoy, load, before and after",
		Long: `demo starts six simulated backends of speeds from 1x to 3x on loopback addresses, this control plane on
a copy of examples/demo, a real Envoy, and an open-loop load at 70 % of what the backends can do. It
measures with equal weights, changes the mode to Enforce in the file, and measures again. Then three tenants
send requests, one of them more than it may, before and after their limit is enforced. It exits with 1 unless
requests are shared as the weights say, utilisation is more even than before, and the limit refuses that
tenant and no other.

Envoy is taken from $ENVOY, .tools/bin/envoy or PATH. Its parts, demo backend and demo load, are there for
a demo elsewhere, such as in a cluster.`,
		Example: `  controlplane demo
  controlplane demo --keep    # stay up and look around`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.measure < time.Second || o.measure > 10*time.Minute {
				return usageError(fmt.Errorf("--measure %s: expected 1s to 10m", o.measure))
			}
			return runDemo(cmd.Context(), cmd.OutOrStdout(), o)
		},
	}
	cmd.Flags().BoolVar(&o.keep, "keep", false, "stay up after the result, until Ctrl-C")
	cmd.Flags().DurationVar(&o.measure, "measure", 20*time.Second, "how long each of the two measurements of weights takes")
	cmd.AddCommand(newDemoBackendCommand(), newDemoLoadCommand())
	return cmd
}

type demoOptions struct {
	keep    bool
	measure time.Duration
}

// rig is a running demo.
type rig struct {
	screen   *demo.Screen
	backends demo.Fleet
	stack    *demo.Stack
	load     *demo.Load
	policy   string   // file
	limits   string   // file
	listener string   // address of Envoy's listener
	started  []func() // end what was started, to be called from the last to the first
}

func (r *rig) stop() {
	for _, end := range slices.Backward(r.started) {
		end()
	}
}

// measurement is what was seen in one of the two periods.
type measurement struct {
	report       demo.Report
	utilisations []float64 // per backend
	requests     []float64
	weights      []float64 // published, at the end
	busy         float64   // share of the machine that was in use
}

func (m measurement) imbalance() float64 { return demo.MaxOverMean(m.utilisations) }

func (m measurement) order() float64 { return demo.Spearman(m.requests, m.weights) }

func runDemo(ctx context.Context, out io.Writer, o demoOptions) (err error) {
	dir, err := os.MkdirTemp("", "evenkeel-demo-")
	if err != nil {
		return err
	}
	defer func() {
		// What may explain a failure stays; of one that came before anything was written there is nothing.
		if err != nil && !errors.Is(err, context.Canceled) && os.Remove(dir) != nil {
			err = fmt.Errorf("%w\nlogs and configuration are left in %s", err, dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, err := startRig(ctx, demo.NewScreen(out), dir, self)
	if err != nil {
		return err
	}
	defer r.stop()

	if err := r.watch(ctx, "warming up", demoWarmup); err != nil {
		return err
	}
	before, err := r.measure(ctx, "before, equal weights", o.measure)
	if err != nil {
		return err
	}
	r.screen.Printf("changing mode: Equal to mode: Enforce in %s", r.policy)
	if err := setMode(r.policy, "Equal", "Enforce"); err != nil {
		return err
	}
	if err := r.watch(ctx, "weights take effect", demoSettle); err != nil {
		return err
	}
	after, err := r.measure(ctx, "after, weights in force", o.measure)
	if err != nil {
		return err
	}
	verdict := r.conclude(before, after)
	limited, err := r.showLimit(ctx)
	if err != nil {
		return err
	}
	verdict = errors.Join(verdict, limited)
	if !o.keep {
		return verdict
	}
	r.keepUp()
	const forever = 1 << 62
	if err := r.watch(ctx, "running", forever); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return verdict
}

// keepUp says what there is to look at while the rig stays up.
func (r *rig) keepUp() {
	program, at := os.Args[0], " --admin "+r.stack.AdminURL
	r.screen.Printf("\nstays up until Ctrl-C, the tenants too:")
	for _, hint := range []struct{ what, how string }{
		{"control plane", r.stack.AdminURL},
		{"through Envoy", "http://" + r.listener + "/"},
		{"Envoy's admin", r.stack.Envoys[0].AdminURL()},
		{"configuration", filepath.Dir(r.policy)},
		{"weights", program + " explain " + demoService + at},
		{"limits", program + " limits" + at},
		{"of one tenant", program + " explain limit " + demoLimit + " --key X-Tenant=" + demoTenants[0].name + at},
		{"as that tenant", "curl -i -H 'X-Tenant: " + demoTenants[0].name + "' http://" + r.listener + "/"},
	} {
		r.screen.Printf("  %-14s  %s", hint.what, hint.how)
	}
	r.screen.Printf("")
}

// startRig starts everything of binary, with equal weights and a limit that is not enforced. If it fails, it has ended
// again what it started.
func startRig(ctx context.Context, screen *demo.Screen, dir, binary string) (_ *rig, err error) {
	r := &rig{screen: screen}
	defer func() {
		if err != nil {
			r.stop()
		}
	}()
	envoyPath, err := demo.FindEnvoy()
	if err != nil {
		return nil, err
	}

	addresses := make([]netip.Addr, len(demoSpeeds))
	for i := range addresses {
		addresses[i] = netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)})
	}
	backendPort, err := demo.FreePort(demoBackendPort, addresses...)
	if err != nil {
		return nil, err
	}
	configs := make([]demo.BackendConfig, len(demoSpeeds))
	for i, speed := range demoSpeeds {
		configs[i] = demo.BackendConfig{
			Address: netip.AddrPortFrom(addresses[i], backendPort), Workers: demoWorkers, Speed: speed,
			Work: demo.Distribution{Shape: demo.Exponential, Mean: demoWork}, Seed: uint64(i + 1),
		}
	}
	if r.backends, err = demo.StartFleet(configs); err != nil {
		return nil, err
	}
	r.started = append(r.started, func() { _ = r.backends.Close() })
	screen.Printf("six backends on 127.0.1.1 to 127.0.1.6, port %d, of speeds %v", backendPort, demoSpeeds)

	localhost := netip.MustParseAddr("127.0.0.1")
	gatewayPort, err := demo.FreePort(demoGatewayPort, localhost)
	if err != nil {
		return nil, err
	}
	r.listener = netip.AddrPortFrom(localhost, gatewayPort).String()
	config := filepath.Join(dir, "config")
	if err := writeDemoConfig(config, gatewayPort, backendPort); err != nil {
		return nil, err
	}
	r.policy = filepath.Join(config, "policy.yaml")
	if err := setMode(r.policy, "Enforce", "Equal"); err != nil {
		return nil, err
	}
	r.limits = filepath.Join(config, "limits.yaml")
	if err := setMode(r.limits, "Enforce", "Shadow"); err != nil {
		return nil, err
	}

	r.stack, err = demo.StartStack(ctx, demo.StackOptions{
		Binary: binary, EnvoyPath: envoyPath, Dir: dir, ConfigDir: config, Fleets: []string{demoFleet},
		XDSPort: 18000, RLSPort: 18081, AdminPort: 19000, EnvoyAdminPort: 9901,
	})
	if err != nil {
		return nil, err
	}
	r.started = append(r.started, r.stack.Stop)
	screen.Printf("control plane at %s, serving %s", r.stack.AdminURL, config)
	screen.Printf("Envoy listens on http://%s/", r.listener)

	rate := demoLoad * r.backends.Capacity()
	load, stopLoad, err := demo.StartLoad(ctx, demo.LoadOptions{URLs: []string{"http://" + r.listener + "/"}, Rate: rate, Seed: 1})
	if err != nil {
		return nil, err
	}
	r.load = load
	r.started = append(r.started, stopLoad)
	screen.Printf("open-loop load of %.0f requests/s, %.0f %% of what the backends can do\n", rate, demoLoad*100)
	return r, nil
}

// writeDemoConfig copies examples/demo to dir with the ports that are free here.
func writeDemoConfig(dir string, gatewayPort, backendPort uint16) error {
	ports := strings.NewReplacer(
		strconv.Itoa(demoGatewayPort), strconv.Itoa(int(gatewayPort)),
		strconv.Itoa(demoBackendPort), strconv.Itoa(int(backendPort)),
	)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files, err := fs.Glob(examples.Demo, "demo/*.yaml")
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := examples.Demo.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(ports.Replace(string(text))), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// setMode edits the policy as an editor would: the new file takes the old one's place.
func setMode(policy, from, to string) error {
	text, err := os.ReadFile(policy)
	if err != nil {
		return err
	}
	changed := strings.Replace(string(text), "  mode: "+from+"\n", "  mode: "+to+"\n", 1)
	if changed == string(text) {
		return fmt.Errorf("%s: there is no line \"mode: %s\" to change", policy, from)
	}
	if err := os.WriteFile(policy+".new", []byte(changed), 0o600); err != nil {
		return err
	}
	return os.Rename(policy+".new", policy)
}

// watch shows what happens for a while. It fails if a child process ends.
func (r *rig) watch(ctx context.Context, phase string, duration time.Duration) error {
	every := 5 * time.Second
	if r.screen.Terminal() {
		every = time.Second
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	end := time.NewTimer(duration)
	defer end.Stop()
	began, usage := r.load.Elapsed(), r.backends.Usage()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return r.stack.Failure()
		case <-ticker.C:
		}
		if err := r.stack.Failure(); err != nil {
			return err
		}
		now := r.backends.Usage()
		elapsed := r.load.Elapsed()
		report := r.load.Report(elapsed-every, elapsed)
		title := fmt.Sprintf("%3.0fs %s: %s", (elapsed - began).Seconds(), phase, summary(report, demo.MaxOverMean(demo.Utilisations(usage, now))))
		if r.screen.Terminal() {
			service, _ := r.service(ctx) // a table without it is better than none
			r.screen.Table(title, r.table(service, usage, now))
		} else {
			r.screen.Printf("%s", title)
		}
		usage = now
	}
}

func summary(report demo.Report, imbalance float64) string {
	return fmt.Sprintf("p50 %s, p99 %s, failed %d of %d, max/avg utilisation %.2f",
		milliseconds(report.P50), milliseconds(report.P99), report.Failed(), report.Requests, imbalance)
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/1e6) }

func (r *rig) measure(ctx context.Context, phase string, duration time.Duration) (measurement, error) {
	machine, _ := demo.ReadMachineTime() // only Linux has it
	from, usage := r.load.Elapsed(), r.backends.Usage()
	if err := r.watch(ctx, phase, duration); err != nil {
		return measurement{}, err
	}
	now := r.backends.Usage()
	machineNow, _ := demo.ReadMachineTime()
	service, err := r.service(ctx)
	if err != nil {
		return measurement{}, err
	}
	m := measurement{
		report:       r.load.Report(from, r.load.Elapsed()),
		utilisations: demo.Utilisations(usage, now),
		requests:     demo.Requests(usage, now),
		busy:         machineNow.BusyShare(machine),
	}
	for _, b := range r.backends {
		m.weights = append(m.weights, float64(endpoint(service, b).Weight))
	}
	r.screen.Table(phase+": "+summary(m.report, m.imbalance()), r.table(service, usage, now))
	r.screen.Printf("")
	return m, nil
}

// service is the balanced Service as the admin port shows it.
func (r *rig) service(ctx context.Context) (admin.ServiceView, error) {
	var page admin.ServicesView
	if err := demo.GetJSON(ctx, r.stack.AdminURL+"/services/"+demoService, &page); err != nil {
		return admin.ServiceView{}, err
	}
	if len(page.Services) != 1 {
		return admin.ServiceView{}, fmt.Errorf("the admin port shows %d services of the name %s, want 1", len(page.Services), demoService)
	}
	return page.Services[0], nil
}

func endpoint(service admin.ServiceView, b *demo.Backend) admin.EndpointView {
	for _, e := range service.Endpoints {
		if e.Address == b.Address().String() {
			return e
		}
	}
	return admin.EndpointView{}
}

// table shows per endpoint what the control plane says of it and, over the period, what it did.
func (r *rig) table(service admin.ServiceView, from, to []demo.Usage) [][]string {
	rows := [][]string{{"endpoint", "speed", "weight", "share", "requests/s", "CPU", "P90"}}
	utilisations, requests := demo.Utilisations(from, to), demo.Requests(from, to)
	for i, b := range r.backends {
		e := endpoint(service, b)
		weight, share, p90 := "-", "-", "-"
		if e.Address != "" {
			share = fmt.Sprintf("%.1f %%", e.Share*100)
		}
		if e.Weight > 0 {
			weight = strconv.Itoa(int(e.Weight))
		}
		if e.Reading != nil && e.Reading.P90 != nil {
			p90 = milliseconds(time.Duration(*e.Reading.P90))
		}
		rows = append(rows, []string{
			b.Address().String(), fmt.Sprintf("%.1fx", demoSpeeds[i]), weight, share,
			fmt.Sprintf("%.1f", requests[i]/to[i].At.Sub(from[i].At).Seconds()),
			fmt.Sprintf("%.0f %%", utilisations[i]*100), p90,
		})
	}
	return rows
}

// conclude prints both measurements side by side and says whether the demo shows what it should.
func (r *rig) conclude(before, after measurement) error {
	row := func(name, format string, value func(measurement) any) []string {
		return []string{name, fmt.Sprintf(format, value(before)), fmt.Sprintf(format, value(after))}
	}
	r.screen.Table("result", [][]string{
		{"", "before", "after"},
		row("p50", "%s", func(m measurement) any { return milliseconds(m.report.P50) }),
		row("p99", "%s", func(m measurement) any { return milliseconds(m.report.P99) }),
		row("answered within 1 s", "%.2f %%", func(m measurement) any { return m.report.Goodput() * 100 }),
		row("max/avg utilisation", "%.2f", func(m measurement) any { return m.imbalance() }),
		row("machine in use", "%.0f %%", func(m measurement) any { return m.busy * 100 }),
	})
	r.screen.Printf("\nrank correlation of requests and weights: %.2f", after.order())
	const crowded = 0.8
	if max(before.busy, after.busy) > crowded {
		r.screen.Printf("the machine was busy with more than this demo: latencies say little")
	}
	var errs []error
	if !(after.order() >= demoOrder) {
		errs = append(errs, fmt.Errorf("requests do not follow the weights: rank correlation %.2f, expected at least %.1f", after.order(), demoOrder))
	}
	if !(after.imbalance() < before.imbalance()) {
		errs = append(errs, fmt.Errorf("max/avg utilisation is %.2f with weights and was %.2f without: expected it to be lower", after.imbalance(), before.imbalance()))
	}
	if len(errs) > 0 {
		return refusedError(errors.Join(errs...))
	}
	return nil
}
