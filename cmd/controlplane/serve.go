package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/validation"

	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/auth/identity"
	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/pipeline"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/rls"
	"evenkeel.io/controlplane/internal/signals/lrs"
	"evenkeel.io/controlplane/internal/signals/promapi"
	"evenkeel.io/controlplane/internal/signals/scrape"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/status"
	"evenkeel.io/controlplane/internal/status/apply"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	configDir       string
	kubeconfig      string
	stateDir        string
	listenerAddress string
	xdsAddress      string
	xdsPlaintext    bool
	xdsTLSDir       string
	xdsTrustDomain  string
	xdsIdentities   []string
	adminAddress    string
	adminHosts      []string
	metricsAddress  string
	prometheus      []string

	loadReportInterval time.Duration

	replica replicaOptions
	limits  rateLimitOptions

	logFormat string
	logLevel  string
}

func newServeCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [--config-dir DIR | --kubeconfig FILE]",
		Short: "run the control plane",
		Long: `serve follows the objects of a Kubernetes cluster (GatewayClass, Gateway, HTTPRoute, ReferenceGrant,
Service, EndpointSlice, Namespace, BalancePolicy, LimitPolicy, and Pods while a policy needs them), measures the
endpoints, and serves the result to Envoys over xDS. The cluster is the one that --kubeconfig leads to, or
the one it runs in. With --config-dir it reads the same objects from a directory instead, in *.yaml and
*.yml files, folders included, and follows every edit.

An API server that does not answer changes nothing. What a list of it leaves out without an event of its
removal is held until a second, consistent one confirms it; /status says so, and accept takes it at once.

A file or an object that is refused keeps its last good version; /status and the log say so. With
--state-dir a restart goes on from the same weights, and serves what was served before at once, also
when the objects cannot be read: /status then says Degraded, LastKnownGood.

The endpoints are measured by scraping them, or, where a BalancePolicy names one, by asking a Prometheus
server that scrapes them already. Its URL may hold a user and password; they are shown nowhere.

With --xds-tls-dir the xDS port asks for certificates, and what a client may see is what its certificate
names: spiffe://TRUST-DOMAIN/fleet/NAMESPACE/GATEWAY, spiffe://TRUST-DOMAIN/eds/NAMESPACE, or a name that
--xds-identity maps to a fleet. The files are read anew when they change. controlplane certgen
makes them where nothing else does. Without certificates xDS is served on loopback only.

Limits of scope Fleet are counted by the rate limit service at --rls-address, which Envoys are led to over
xDS. Several replicas count in the memory of the one that leads, or together in --rls-redis; Envoys are led
to another leader at once. With --rls-service the Envoys ask reference rate limit services instead.

Of several replicas, each with a --replica-address, the holder of the Lease evenkeel computes the weights and
tells the others; all serve. They know each other by spiffe://TRUST-DOMAIN/replica in their certificates.
Alone, without that flag, a control plane needs no Lease.`,
		Example: `  controlplane serve --kubeconfig ~/.kube/config
  controlplane serve --config-dir config/
  controlplane serve --config-dir config/ --prometheus main=http://prometheus.infra:9090
  controlplane serve --config-dir config/ --state-dir /var/lib/evenkeel --log-format json
  controlplane serve --config-dir config/ --xds-address :18000 --xds-tls-dir /etc/evenkeel/tls
  controlplane serve --config-dir config/ --xds-address :18000 --xds-tls-dir /etc/evenkeel/tls \
    --xds-identity dns:envoy.shop.svc=shop/edge --xds-identity uri:spiffe://mesh.example/ns/shop/sa/envoy=eds:shop
  EVENKEEL_CONFIG_DIR=config/ controlplane serve`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), o, cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.configDir, "config-dir", "", "a directory of objects, in place of a cluster")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the cluster (its current context); empty: as a Pod of the one it runs in")
	flags.StringVar(&o.stateDir, "state-dir", "", "where the weights and what is served are kept over a restart; empty: nowhere")
	flags.StringVar(&o.listenerAddress, "listener-address", "0.0.0.0", "the address that Envoys' listeners bind to, unless the Gateway says another")
	flags.StringVar(&o.xdsAddress, "xds-address", "127.0.0.1:18000", "where xDS is served")
	flags.StringVar(&o.xdsTLSDir, "xds-tls-dir", "", "a folder with tls.crt, tls.key and ca.crt, as a Secret is mounted: serve xDS with mutual TLS, to clients of the authorities in ca.crt")
	flags.StringVar(&o.xdsTrustDomain, "xds-trust-domain", defaultTrustDomain, "the SPIFFE trust domain whose names in clients' certificates permit fleets")
	flags.StringArrayVar(&o.xdsIdentities, "xds-identity", nil, "a name in clients' certificates and a fleet that it may see, dns:NAME=FLEET or uri:URI=FLEET (repeatable, or separated by commas)")
	flags.BoolVar(&o.xdsPlaintext, "xds-allow-plaintext", false, "serve xDS without TLS on an address that is not loopback; whoever reaches it can read every route, and pass for a replica")
	flags.StringVar(&o.adminAddress, "admin-address", "127.0.0.1:19000", "where the admin port is served (JSON, pages, /metrics)")
	flags.StringSliceVar(&o.adminHosts, "admin-allowed-host", nil, "a host name by which the admin port may be asked, besides IP addresses and localhost (repeatable)")
	flags.StringVar(&o.metricsAddress, "metrics-address", "", "where /metrics, /healthz and /readyz are served besides, and nothing else: for probes and Prometheus, while the admin port stays on loopback")
	flags.StringArrayVar(&o.prometheus, "prometheus", nil, "a Prometheus server that policies may name, NAME=URL (repeatable, or separated by commas)")
	flags.DurationVar(&o.loadReportInterval, "load-report-interval", lrs.DefaultInterval, "how often Envoys report the load of services whose policies say loadReports, 1s or more; a report is 61 KB")
	o.replica.addFlags(flags)
	o.limits.addFlags(flags)
	flags.StringVar(&o.logFormat, "log-format", "text", "text or json")
	flags.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	_ = cmd.MarkFlagDirname("config-dir")
	_ = cmd.MarkFlagFilename("kubeconfig")
	_ = cmd.MarkFlagDirname("state-dir")
	_ = cmd.MarkFlagDirname("xds-tls-dir")
	_ = cmd.RegisterFlagCompletionFunc("prometheus", cobra.NoFileCompletions)
	return cmd
}

// validate names the flag, what was expected and what to do.
func (o serveOptions) validate() error {
	if o.configDir != "" && o.kubeconfig != "" && o.replica.address == "" {
		return errors.New("--config-dir and --kubeconfig: expected one of them, the objects come from one place; both only with --replica-address, for the Lease")
	}
	for flag, address := range map[string]string{"xds-address": o.xdsAddress, "admin-address": o.adminAddress} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("--%s %q: expected host:port", flag, address)
		}
	}
	if _, _, err := net.SplitHostPort(o.metricsAddress); err != nil && o.metricsAddress != "" {
		return fmt.Errorf("--metrics-address %q: expected host:port", o.metricsAddress)
	}
	if _, err := netip.ParseAddr(o.listenerAddress); err != nil {
		return fmt.Errorf("--listener-address %q: expected an IP address", o.listenerAddress)
	}
	if _, err := prometheusServers(o.prometheus); err != nil {
		return err
	}
	if o.loadReportInterval < lrs.MinInterval {
		return fmt.Errorf("--load-report-interval %v: expected %v or more", o.loadReportInterval, lrs.MinInterval)
	}
	if _, err := o.xdsRules(); err != nil {
		return err
	}
	if err := o.limits.validate(&o); err != nil {
		return err
	}
	switch {
	case o.xdsTLSDir != "" && o.xdsPlaintext:
		return errors.New("--xds-tls-dir and --xds-allow-plaintext exclude each other: leave one out")
	case o.xdsTLSDir == "" && len(o.xdsIdentities) > 0:
		return errors.New("--xds-identity maps the names of certificates: give --xds-tls-dir too, so that clients show some")
	case o.xdsTLSDir == "" && !o.xdsPlaintext && !isLoopback(o.xdsAddress):
		return fmt.Errorf("--xds-address %s: xDS in plaintext is served on loopback only; give --xds-tls-dir (controlplane certgen makes certificates), or say with --xds-allow-plaintext that whoever can reach that address may read every route", o.xdsAddress)
	}
	return nil
}

// xdsRules say what the certificates of clients permit.
func (o serveOptions) xdsRules() (identity.Rules, error) {
	if _, err := identity.ParseRules(o.xdsTrustDomain); err != nil {
		return identity.Rules{}, fmt.Errorf("--xds-trust-domain: %w", err)
	}
	rules, err := identity.ParseRules(o.xdsTrustDomain, commaSeparated(o.xdsIdentities)...)
	if err != nil {
		return identity.Rules{}, fmt.Errorf("--xds-identity: %w", err)
	}
	return rules, nil
}

// commaSeparated are the values of a flag that may be repeated; from the environment several come in one.
func commaSeparated(flags []string) []string {
	return strings.FieldsFunc(strings.Join(flags, ","), func(c rune) bool { return c == ',' })
}

// prometheusServers reads the values of --prometheus. Errors name what can be named without its URL, which
// may hold a password.
func prometheusServers(flags []string) (map[string]*url.URL, error) {
	servers := map[string]*url.URL{}
	for _, given := range commaSeparated(flags) {
		name, address, ok := strings.Cut(given, "=")
		if !ok {
			return nil, errors.New("--prometheus: expected NAME=URL, such as main=http://prometheus.infra:9090")
		}
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
			return nil, fmt.Errorf("--prometheus: expected NAME=URL with a NAME such as main: %s", problems[0])
		}
		if servers[name] != nil {
			return nil, fmt.Errorf("--prometheus %s=... is given twice", name)
		}
		base, err := url.Parse(address)
		if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Hostname() == "" || base.RawQuery != "" || base.Fragment != "" {
			return nil, fmt.Errorf("--prometheus %s=...: expected a URL such as http://prometheus.infra:9090 or https://mimir.infra/prometheus, without a query", name)
		}
		servers[name] = base
	}
	return servers, nil
}

func isLoopback(hostPort string) bool {
	host, _, _ := net.SplitHostPort(hostPort)
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func newLogger(o serveOptions, out io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: expected debug, info, warn or error", o.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(out, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, options)), nil
	}
	return nil, fmt.Errorf("--log-format %q: expected text or json", o.logFormat)
}

// serve runs the control plane until ctx is done or a part of it fails.
func serve(ctx context.Context, o serveOptions, logTo io.Writer) error {
	if err := o.validate(); err != nil {
		return usageError(err)
	}
	if err := o.replica.complete(); err != nil {
		return usageError(err)
	}
	log, err := newLogger(o, logTo)
	if err != nil {
		return usageError(err)
	}
	var state *lastgood.Dir
	if o.stateDir != "" {
		if state, err = lastgood.Open(o.stateDir); err != nil {
			return refusedError(fmt.Errorf("--state-dir: %w", err))
		}
		if err := state.Writable(); err != nil {
			log.Error("the state directory cannot be written: a restart will go on from what is there now", "error", err)
		}
	} else {
		log.Warn("no --state-dir: after a restart the weights start from their priors, and nothing is served until the objects are read")
	}
	from, err := openObjects(o, state != nil && state.HasFleets(), log)
	if err != nil {
		return refusedError(err)
	}
	plane, err := wire(o, from, state, log)
	if err != nil {
		return refusedError(err)
	}
	xdsListener, err := net.Listen("tcp", o.xdsAddress)
	if err != nil {
		return refusedError(fmt.Errorf("--xds-address: %w", err))
	}
	limitListener, err := o.limits.listen()
	if err != nil {
		xdsListener.Close()
		return refusedError(err)
	}
	adminListener, err := net.Listen("tcp", o.adminAddress)
	if err != nil {
		xdsListener.Close()
		if limitListener != nil {
			limitListener.Close()
		}
		return refusedError(fmt.Errorf("--admin-address: %w", err))
	}
	if plane.gate == nil && !isLoopback(o.xdsAddress) {
		log.Warn("xDS is served in plaintext: whoever can reach the address may read every route and endpoint", "address", o.xdsAddress)
	}
	log.Info("serving", "objects", from.name, "xds", xdsListener.Addr().String(),
		"limits", o.limits.shownAddress(), "admin", "http://"+adminListener.Addr().String(), "version", programVersion())
	err = plane.run(ctx, xdsListener, limitListener, adminListener)
	log.Info("stopped")
	return err
}

// controlPlane is the rooms, wired.
type controlPlane struct {
	pipeline *pipeline.Pipeline
	gate     *auth.Gate // nil: plaintext
	xds      *xds.Server
	admin    *http.Server
	monitor  monitor
	status   *apply.Writer // nil without a cluster
	metrics  *prometheus.Registry
	replica  *replica.Replica // nil if there is no other

	rateLimits *rls.Server // nil: none in this process
}

// wire makes the rooms and tells them of each other. Nothing runs yet. The options are valid.
func wire(o serveOptions, from objects, state *lastgood.Dir, log *slog.Logger) (*controlPlane, error) {
	c := &controlPlane{metrics: prometheus.NewRegistry()}
	c.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if o.xdsTLSDir != "" {
		rules, err := o.xdsRules()
		if err != nil {
			return nil, err
		}
		if c.gate, err = auth.Open(auth.Options{Dir: o.xdsTLSDir, Rules: rules, Log: log, Metrics: c.metrics}); err != nil {
			return nil, fmt.Errorf("--xds-tls-dir: %w", err)
		}
	}
	reports := o.newLoadReports(c, log)
	var err error
	if c.replica, err = o.newReplica(c, reports, from.source, log); err != nil {
		return nil, err
	}
	cache := snapshot.NewCache(xds.FleetHash{})
	scraper := scrape.New(scrape.Options{AllowLoopback: from.catalog.AllowLoopback, Registerer: c.metrics, Logger: log})
	servers, _ := prometheusServers(o.prometheus) // validated before
	querier := promapi.New(promapi.Options{Servers: servers, Registerer: c.metrics, Logger: log})
	limits, err := o.newRateLimits(c, querier, log)
	if err != nil {
		return nil, err
	}
	served := xds.Options{
		Identifier:  identifier(o.replica.name),
		Auth:        c.gate,
		LoadReports: reports,
		Lookup: func(fleet string, t translate.Type, name string) (string, bool) {
			return c.pipeline.View().ResourceSource(fleet, t, name)
		},
		Log:     log,
		Metrics: c.metrics,
	}
	joined := pipeline.Options{
		Source:     from.source,
		Collectors: []pipeline.Collector{pipeline.Scraping(scraper), pipeline.Querying(querier), pipeline.Reporting(reports)},
		Cache:      cache,
		Serving:    func(fleet string, seen time.Time) { c.xds.Registry().Serving(fleet, seen) },
		Workers:    func(fleet string) int { return c.xds.Registry().Workers(fleet) },
		State:      state,
		Catalog:    from.catalog,
		Translate:  translate.Options{ListenerAddress: o.listenerAddress, LimitTimeout: o.limits.timeout},
		Limits:     limits,
		Log:        log,
		Metrics:    c.metrics,
	}
	if c.replica != nil {
		served.Register, served.Elsewhere = c.replica.Register, c.replica.ProxiesElsewhere
		served.Judges, served.Voters = c.replica.Judges, c.replica.Voters
		joined.Replicas = c.replica
		joined.Workers = func(fleet string) int {
			return c.xds.Registry().Workers(fleet) + c.replica.WorkersElsewhere(fleet)
		}
	}
	c.xds = xds.NewServer(cache, served)
	c.pipeline = pipeline.New(joined)
	pages := admin.Options{
		Model:   func() admin.Model { return c.pipeline.View() },
		Proxies: c.xds.Registry(), Targets: []admin.Targets{scraper, querier, reports}, Actions: operator{c.pipeline, from.source, c.replica},
		Metrics: c.metrics, AllowedHosts: o.adminHosts, Version: programVersion(),
	}
	pages.Factors = func(fleet string) map[string]adapt.Decision { return c.pipeline.View().Limits(fleet).Decisions }
	if c.rateLimits != nil {
		pages.Limits = c.rateLimits
	}
	if c.replica != nil {
		pages.Proxies, pages.Follows = c.replica, c.follows
	}
	c.metrics.MustRegister(admin.NewCollector(pages.Model))
	c.monitor = monitor{o.metricsAddress, httpServer(admin.NewMonitoring(pages), log)}
	c.admin = httpServer(admin.New(pages), log)
	if from.cluster == nil {
		return c, nil
	}
	c.status, err = apply.New(apply.Options{
		Config: from.cluster, Input: c.statusInput, Leads: c.leads, Instance: identifier(o.replica.name), Log: log, Metrics: c.metrics,
	})
	return c, err
}

// newLoadReports takes load reports, and where there are other replicas, for all of them.
func (o serveOptions) newLoadReports(c *controlPlane, log *slog.Logger) *lrs.Manager {
	options := lrs.Options{
		Interval:    o.loadReportInterval,
		Connected:   func(id, fleet string) bool { return c.xds.Registry().Connected(id, fleet) },
		Subscribers: func(service string) iter.Seq2[string, string] { return c.xds.Registry().Subscribers(service) },
		Registerer:  c.metrics,
		Logger:      log,
	}
	if o.replica.address != "" {
		options.Leads = c.leads
		options.Elsewhere = func(fleets []string) map[string]int { return c.replica.SubscribersElsewhere(fleets) }
	}
	return lrs.New(options)
}

// statusInput is what the conditions of objects are computed from.
func (c *controlPlane) statusInput() (status.Input, bool) {
	view := c.pipeline.View()
	if view.Store() == nil {
		return status.Input{}, false
	}
	proxies := c.xds.Registry().Proxies
	if c.replica != nil {
		proxies = c.replica.Proxies
	}
	return admin.StatusInput(view, proxies(), time.Now()), true
}

// run serves until ctx is done or a part fails; then all parts stop, the Lease given up first.
func (c *controlPlane) run(ctx context.Context, xdsListener, limitListener, adminListener net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	group.Go(func() error { giveMemoryBack(ctx); return nil })
	group.Go(func() error { return c.pipeline.Run(ctx) })
	group.Go(func() error { return c.monitor.run(ctx) })
	group.Go(func() error { return c.xds.Serve(serving, xdsListener) })
	if c.rateLimits != nil {
		group.Go(func() error { return c.rateLimits.Serve(serving, limitListener) })
	}
	if c.gate != nil {
		group.Go(func() error { return c.gate.Run(serving) })
	}
	if c.status != nil {
		group.Go(func() error { c.status.Run(ctx); return nil })
	}
	group.Go(func() error {
		<-ctx.Done()
		if c.replica != nil {
			select {
			case <-c.replica.Released():
			case <-time.After(releaseWithin):
			}
		}
		stopServing()
		return nil
	})
	group.Go(func() error {
		if err := c.admin.Serve(adminListener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("admin port: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		return c.admin.Shutdown(stop)
	})
	return group.Wait()
}

// releaseWithin is how long streams may wait at a shutdown for the Lease to be given up.
const releaseWithin = 2 * time.Second

// programVersion is what the program was built from.
func programVersion() string {
	info, _ := debug.ReadBuildInfo()
	return versionsOf(info).Version
}

// identifier names this process in the responses it sends.
func identifier(name string) string {
	if name != "" {
		return "evenkeel/" + name
	}
	host, err := os.Hostname()
	if err != nil {
		return "evenkeel"
	}
	return "evenkeel/" + host
}
