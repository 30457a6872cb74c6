// Package translate asks a real Envoy whether what we generate means what we think: it accepts every
// resource, and requests are matched, changed, redirected, split and refused as the routes say.
package translate

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

const fleetName = "shop/edge"

// patience is how long anything may take. Nothing waits for it unless something is broken.
const patience = 30 * time.Second

// rig is an Envoy that is served a fleet with one listener.
type rig struct {
	t        *testing.T
	cache    *snapshot.Cache
	served   *snapshot.Snapshot
	envoy    *demo.Envoy
	admin    string
	listener uint16
	client   *http.Client
	options
}

// options of a rig. The zero value is usable.
type options struct {
	path      string   // of the Envoy, "" for the one that is tested
	address   string   // of the listener, 127.0.0.1 without
	service   []string // the rate limit service; nil leaves its load assignment out
	translate translate.Options
	alter     func(*listenerv3.Listener) // changes the listener before it is served
}

// listenerFor is the listener of a rig with these virtual hosts.
func listenerFor(port uint16, hosts ...catalog.VirtualHost) catalog.Listener {
	return catalog.Listener{
		Name: fmt.Sprintf("%s/%d", fleetName, port), Address: "127.0.0.1", Port: uint32(port), VirtualHosts: hosts,
	}
}

// start serves the virtual hosts and services to a new Envoy and waits until it is ready.
func start(t *testing.T, hosts []catalog.VirtualHost, services ...*catalog.Service) *rig {
	t.Helper()
	return startWith(t, options{}, hosts, services...)
}

func startWith(t *testing.T, o options, hosts []catalog.VirtualHost, services ...*catalog.Service) *rig {
	t.Helper()
	if o.path == "" {
		path, err := demo.FindEnvoy()
		if err != nil {
			t.Skip(err)
		}
		o.path = path
	}
	o.address = cmp.Or(o.address, "127.0.0.1")
	r := &rig{t: t, listener: freePort(t), options: o}
	r.cache = snapshot.NewCache(xds.FleetHash{})
	r.serve(hosts, services...)

	ctx, cancel := context.WithCancel(context.Background())
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := xds.NewServer(r.cache, xds.Options{Log: slog.New(slog.DiscardHandler), DrainTime: time.Second})
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, lis) }()
	t.Cleanup(func() { cancel(); <-done })

	adminPort := freePort(t)
	bootstrap, err := translate.Bootstrap(translate.BootstrapOptions{
		Fleet: fleetName, XDSPort: lis.Addr().(*net.TCPAddr).Port, AdminPort: int(adminPort),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.admin = fmt.Sprintf("http://127.0.0.1:%d", adminPort)
	r.envoy, err = demo.StartEnvoy(demo.EnvoyOptions{
		Path: o.path, Name: "envoy", Dir: t.TempDir(), Bootstrap: bootstrap, AdminURL: r.admin, Concurrency: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.envoy.Stop(time.Second)
		if t.Failed() {
			log, _ := os.ReadFile(r.envoy.LogFile())
			t.Logf("Envoy said:\n%s", log)
		}
	})
	wait, cancelWait := context.WithTimeout(ctx, patience)
	defer cancelWait()
	if err := r.envoy.WaitReady(wait); err != nil {
		t.Fatal(err)
	}
	r.client = &http.Client{
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(r.client.CloseIdleConnections)
	r.accepted()
	return r
}

// serve replaces what the fleet is served.
func (r *rig) serve(hosts []catalog.VirtualHost, services ...*catalog.Service) {
	r.t.Helper()
	f := &catalog.Fleet{
		Name: fleetName, Object: source.Ref{Kind: source.KindGateway, Namespace: "shop", Name: "edge"},
		Listeners: []catalog.Listener{listenerFor(r.listener, hosts...)}, Rules: rulesOf(hosts),
	}
	f.Listeners[0].Address = r.address
	resources := translate.Fleet(f, r.translate)
	for _, resource := range resources {
		if l, ok := resource.Message.(*listenerv3.Listener); ok && r.alter != nil {
			r.alter(l)
		}
	}
	if r.service != nil {
		resources = append(resources, translate.RateLimitService(r.service))
	}
	for _, s := range services {
		resources = append(resources, translate.Cluster(s), translate.Assignment(s, nil))
	}
	var encoded []*snapshot.Resource
	for _, resource := range resources {
		e, err := snapshot.Encode(resource)
		if err != nil {
			r.t.Fatal(err)
		}
		encoded = append(encoded, e)
	}
	r.served = snapshot.New(encoded...)
	if dangling := r.served.Dangling(); len(dangling) > 0 {
		r.t.Fatal(dangling)
	}
	if err := r.cache.SetSnapshot(context.Background(), fleetName, r.served); err != nil {
		r.t.Fatal(err)
	}
}

// accepted fails unless Envoy took every type and refused nothing.
func (r *rig) accepted() {
	r.t.Helper()
	stats, err := r.envoy.Stats(r.t.Context(), "update_(success|rejected)$|config_fail$|config_reload$")
	if err != nil {
		r.t.Fatal(err)
	}
	for name, value := range stats {
		if (strings.HasSuffix(name, "update_rejected") || strings.HasSuffix(name, "config_fail")) && value != 0 {
			r.t.Errorf("Envoy refused something: %s is %d", name, value)
		}
	}
	for _, kind := range []string{"cluster_manager.cds", "listener_manager.lds"} {
		if stats[kind+".update_success"] == 0 {
			r.t.Errorf("Envoy never accepted %s; it has %v", kind, stats)
		}
	}
}

// until waits for what is to come about, and fails if it does not within patience.
func (r *rig) until(what string, done func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("it never happened that %s", what)
		}
	}
}

// stat is the sum of all counters and gauges whose names match.
func (r *rig) stat(filter string) uint64 {
	r.t.Helper()
	stats, err := r.envoy.Stats(r.t.Context(), filter)
	if err != nil {
		r.t.Fatal(err)
	}
	var sum uint64
	for _, v := range stats {
		sum += v
	}
	return sum
}

// answer is what came back: status and headers of the response, and what the backend saw, if one did.
type answer struct {
	Status int
	Header http.Header
	Seen   seen
}

// seen is a request as the backend got it; backends answer with it.
type seen struct {
	Backend string
	Method  string
	URI     string
	Host    string
	Header  http.Header
}

func (r *rig) do(method, host, uri string, header http.Header) answer {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d%s", r.listener, uri), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Host = host
	maps.Copy(req.Header, header)
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	a := answer{Status: resp.StatusCode, Header: resp.Header}
	if resp.StatusCode == http.StatusOK && len(body) > 0 { // a local reply to gRPC has none
		if err := json.Unmarshal(body, &a.Seen); err != nil {
			r.t.Fatalf("%s %s%s: %v in %q", method, host, uri, err, body)
		}
	}
	return a
}

// backend is a Service with one endpoint that answers with what it saw. Under /slow it takes until
// the request is given up.
func backend(t *testing.T, name string, configure ...func(*httptest.Server)) *catalog.Service {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/slow") {
			<-req.Context().Done()
			return
		}
		if req.Header.Get("Upgrade") == "websocket" {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(conn, conn)
			return
		}
		w.Header().Set("X-From", "backend")
		w.Header().Set("Server", "echo")
		json.NewEncoder(w).Encode(seen{Backend: name, Method: req.Method, URI: req.RequestURI, Host: req.Host, Header: req.Header})
	}))
	for _, c := range configure {
		c(server)
	}
	server.Start()
	t.Cleanup(server.Close)
	return service(name, server.Listener.Addr().String())
}

func service(name string, addresses ...string) *catalog.Service {
	s := &catalog.Service{
		Name: "shop/" + name + ":80", Namespace: "shop",
		Object: source.Ref{Kind: source.KindService, Namespace: "shop", Name: name},
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, catalog.Endpoint{Address: a, Base: 1, Multiplier: 1})
	}
	return s
}

// upgraded opens a WebSocket (its handshake only) and says whether bytes come back through it.
func (r *rig) upgraded(host, uri string) error {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.listener))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", uri, host)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %d, want 101", resp.StatusCode)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := in.ReadString('\n'); line != "hello\n" {
		return fmt.Errorf("came back %q: %w", line, err)
	}
	return nil
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	port, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	return port
}
