package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/auth/authority"
	"evenkeel.io/controlplane/internal/auth/authtest"
	"evenkeel.io/controlplane/internal/auth/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// ca is an authority with its certificate as PEM.
type ca struct {
	*authority.Authority
	t   *testing.T
	pem []byte
}

func newCA(t *testing.T, name string) ca {
	t.Helper()
	a, pair, err := authority.New(name, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca{a, t, pair.Certificate}
}

// issue makes a certificate for 127.0.0.1 that is valid for an hour, changed by change.
func (c ca) issue(change func(*authority.Request)) authority.Pair {
	c.t.Helper()
	r := authority.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	change(&r)
	pair, err := c.Issue(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return pair
}

func (c ca) server() authority.Pair {
	c.t.Helper()
	return c.issue(func(r *authority.Request) { r.Server = true })
}

// client is a certificate with a URI, or with none for "".
func (c ca) client(name string) authority.Pair {
	c.t.Helper()
	return c.issue(func(r *authority.Request) {
		if name != "" {
			r.URI, _ = url.Parse(name)
		}
	})
}

// port is a gRPC server behind a Gate. The health service stands for those that it will have.
type port struct {
	*Gate
	t       *testing.T
	address string
	metrics *prometheus.Registry
	log     *lines
}

// lines collects a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func rules(t *testing.T) identity.Rules {
	t.Helper()
	r, err := identity.ParseRules("cluster.local", "dns:envoy.shop.svc=shop/edge")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t *testing.T, dir string) *port {
	t.Helper()
	p := &port{t: t, metrics: prometheus.NewRegistry(), log: &lines{}}
	var err error
	p.Gate, err = Open(Options{Dir: dir, Rules: rules(t), Poll: time.Millisecond, Metrics: p.metrics, Log: slog.New(slog.NewTextHandler(p.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func startPort(t *testing.T, dir string) *port {
	t.Helper()
	p := open(t, dir)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = lis.Addr().String()
	server := grpc.NewServer(p.ServerOptions()...)
	healthgrpc.RegisterHealthServer(server, health.NewServer())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(lis) })
	t.Cleanup(func() {
		server.Stop()
		running.Wait()
	})
	return p
}

// follow has the gate run until the test ends.
func (p *port) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	p.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func (p *port) dialAs(trusted []byte, pair *authority.Pair) *grpc.ClientConn {
	p.t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(trusted)
	if pair != nil {
		certificate, err := tls.X509KeyPair(pair.Certificate, pair.Key)
		if err != nil {
			p.t.Fatal(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	return p.dial(credentials.NewTLS(config))
}

func (p *port) dial(creds credentials.TransportCredentials) *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(creds))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return conn
}

// call calls a method of any kind: what there is to send is empty, what comes back is not looked at.
func call(t *testing.T, conn *grpc.ClientConn, method string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	str, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := str.SendMsg(&healthgrpc.HealthCheckRequest{}); err != nil {
		return str.RecvMsg(&healthgrpc.HealthCheckResponse{})
	}
	_ = str.CloseSend()
	return str.RecvMsg(&healthgrpc.HealthCheckResponse{})
}

func (p *port) metric(name string, labels ...string) float64 {
	p.t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			matches := f.GetName() == name
			for i, l := range m.GetLabel() {
				matches = matches && (i >= len(labels) || l.GetValue() == labels[i])
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (p *port) until(what string, holds func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("never: %s; log:\n%s", what, p.log)
		}
	}
}

// Every kind of method: unary, stream, unknown, of an unknown service, no method at all.
var methods = []string{healthgrpc.Health_Check_FullMethodName, healthgrpc.Health_Watch_FullMethodName, "/grpc.health.v1.Health/Nothing", "/no.such.Service/Method", "/nothing"}

// TestWhoIsNotLetIn tries every kind of method as every kind of stranger.
func TestWhoIsNotLetIn(t *testing.T) {
	ours, theirs := newCA(t, "ours"), newCA(t, "theirs")
	dir := t.TempDir()
	authtest.Mount(t, dir, ours.server(), ours.pem)
	fleet := func(r *authority.Request) { r.URI, _ = url.Parse("spiffe://cluster.local/fleet/shop/edge") }
	for _, c := range []struct {
		name    string
		dial    func(*port) *grpc.ClientConn
		code    codes.Code
		metric  string
		reason  string
		message string
	}{
		{"plaintext", func(p *port) *grpc.ClientConn { return p.dial(insecure.NewCredentials()) }, codes.Unavailable, "evenkeel_tls_refused_handshakes_total", reasonOther, ""},
		{"no certificate", func(p *port) *grpc.ClientConn { return p.dialAs(ours.pem, nil) }, codes.Unavailable, "evenkeel_tls_refused_handshakes_total", reasonNoCertificate, ""},
		{"another authority's", func(p *port) *grpc.ClientConn {
			pair := theirs.client("spiffe://cluster.local/fleet/shop/edge")
			return p.dialAs(ours.pem, &pair)
		}, codes.Unavailable, "evenkeel_tls_refused_handshakes_total", reasonAuthority, ""},
		{"expired", func(p *port) *grpc.ClientConn {
			pair := ours.issue(func(r *authority.Request) {
				fleet(r)
				r.NotBefore, r.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
			})
			return p.dialAs(ours.pem, &pair)
		}, codes.Unavailable, "evenkeel_tls_refused_handshakes_total", reasonExpired, ""},
		{"not valid yet", func(p *port) *grpc.ClientConn {
			pair := ours.issue(func(r *authority.Request) {
				fleet(r)
				r.NotBefore = time.Now().Add(30 * time.Minute)
			})
			return p.dialAs(ours.pem, &pair)
		}, codes.Unavailable, "evenkeel_tls_refused_handshakes_total", reasonExpired, ""},
		{"TLS 1.2", func(p *port) *grpc.ClientConn {
			return p.dial(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}))
		}, codes.Unavailable, "evenkeel_tls_refused_handshakes_total", reasonOther, "protocol version"},
		{"who does not trust us", func(p *port) *grpc.ClientConn {
			pair := ours.client("spiffe://cluster.local/fleet/shop/edge")
			return p.dialAs(theirs.pem, &pair)
		}, codes.Unavailable, "evenkeel_tls_refused_handshakes_total", reasonClosed, "signed by unknown authority"},
		{"no name", func(p *port) *grpc.ClientConn {
			pair := ours.client("")
			return p.dialAs(ours.pem, &pair)
		}, codes.PermissionDenied, "evenkeel_tls_refused_calls_total", "", "has no DNS or URI name"},
		{"a name that permits nothing", func(p *port) *grpc.ClientConn {
			pair := ours.client("spiffe://elsewhere/fleet/shop/edge")
			return p.dialAs(ours.pem, &pair)
		}, codes.PermissionDenied, "evenkeel_tls_refused_calls_total", "", "spiffe://elsewhere/fleet/shop/edge"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPort(t, dir)
			conn := c.dial(p)
			for _, method := range methods {
				if err := call(t, conn, method); status.Code(err) != c.code || !strings.Contains(err.Error(), c.message) {
					t.Errorf("%s: %v, want %v %q", method, err, c.code, c.message)
				}
			}
			if c.reason == "" {
				if got := p.metric(c.metric); got != float64(len(methods)) {
					t.Errorf("%v calls counted, want %d", got, len(methods))
				}
			} else {
				p.until("it is counted as "+c.reason, func() bool { return p.metric(c.metric, c.reason) >= 1 })
			}
			p.until("the log says so", func() bool { return strings.Contains(p.log.String(), "level=WARN") })
		})
	}
}

// TestWhoIsLetIn: known methods answer, unknown ones say that they are.
func TestWhoIsLetIn(t *testing.T) {
	ours := newCA(t, "ours")
	dir := t.TempDir()
	authtest.Mount(t, dir, ours.server(), ours.pem)
	p := startPort(t, dir)
	for _, pair := range []authority.Pair{
		ours.client("spiffe://cluster.local/fleet/shop/edge"),
		ours.issue(func(r *authority.Request) { r.DNS = []string{"envoy.shop.svc"} }),
	} {
		conn := p.dialAs(ours.pem, &pair)
		for _, method := range methods {
			want := codes.OK
			switch {
			case method == "/nothing", strings.HasSuffix(method, "Nothing"), strings.Contains(method, "no.such"):
				want = codes.Unimplemented
			}
			if err := call(t, conn, method); status.Code(err) != want {
				t.Errorf("%s: %v, want %v", method, err, want)
			}
		}
	}
	if strings.Contains(p.log.String(), "PRIVATE") || FromContext(t.Context()) != nil {
		t.Error("a key in the log, or somebody without a call")
	}
}

// watching is a stream that stays open.
func (p *port) watching(conn *grpc.ClientConn) healthgrpc.Health_WatchClient {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p.t.Cleanup(cancel)
	str, err := healthgrpc.NewHealthClient(conn).Watch(ctx, &healthgrpc.HealthCheckRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := str.Recv(); err != nil {
		p.t.Fatal(err)
	}
	return str
}

// TestRotation goes the way of a rotation, the authority's included. Streams live until the old authority is
// taken out, and no longer.
func TestRotation(t *testing.T) {
	old, next := newCA(t, "old"), newCA(t, "next")
	dir := t.TempDir()
	authtest.Mount(t, dir, old.server(), old.pem)
	p := startPort(t, dir)
	p.follow()
	both := slices.Concat(old.pem, next.pem)
	before, after := old.client("spiffe://cluster.local/fleet/shop/edge"), next.client("spiffe://cluster.local/fleet/shop/edge")
	serial := func() string { return p.current().leaf.SerialNumber.String() }
	rotate := func(pair authority.Pair, authorities ...[]byte) {
		t.Helper()
		from := p.current()
		authtest.Mount(t, dir, pair, authorities...)
		p.until("the files are in use", func() bool { return p.current() != from })
	}

	stream := p.watching(p.dialAs(both, &before))
	first := serial()
	rotate(old.server(), old.pem)
	if serial() == first {
		t.Error("another certificate was not taken")
	}
	rotate(old.server(), old.pem, next.pem)
	rotate(next.server(), old.pem, next.pem)
	for name, pair := range map[string]authority.Pair{"old": before, "new": after} {
		if err := call(t, p.dialAs(both, &pair), healthgrpc.Health_Check_FullMethodName); err != nil {
			t.Errorf("the %s certificate with both authorities: %v", name, err)
		}
	}
	if err := call(t, p.dialAs(old.pem, &before), healthgrpc.Health_Check_FullMethodName); err == nil {
		t.Error("the old server certificate is still shown")
	}
	fresh := p.watching(p.dialAs(both, &after))
	if n := p.metric("evenkeel_tls_closed_connections_total"); n != 0 {
		t.Errorf("%v connections closed by a rotation", n)
	}

	rotate(next.server(), next.pem)
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream of the old authority: %v", err)
	}
	if err := call(t, p.dialAs(both, &before), healthgrpc.Health_Check_FullMethodName); err == nil {
		t.Error("the old authority is still trusted")
	}
	if got := p.metric("evenkeel_tls_closed_connections_total", reasonAuthority); got != 2 {
		t.Errorf("%v connections closed, want the two of the old authority", got)
	}
	p.sweep(time.Now())
	if err := fresh.Context().Err(); err != nil {
		t.Errorf("the stream of the new authority: %v", err)
	}
	if p.metric("evenkeel_tls_reload_failures_total") != 0 {
		t.Errorf("failures in a rotation:\n%s", p.log)
	}
}

// TestAConnectionEndsWithItsCertificate: time is told to the sweep.
func TestAConnectionEndsWithItsCertificate(t *testing.T) {
	ours := newCA(t, "ours")
	dir := t.TempDir()
	authtest.Mount(t, dir, ours.server(), ours.pem)
	p := startPort(t, dir)
	pair := ours.issue(func(r *authority.Request) {
		r.URI, _ = url.Parse("spiffe://cluster.local/fleet/shop/edge")
		r.NotAfter = time.Now().Add(30 * time.Minute)
	})
	stream := p.watching(p.dialAs(ours.pem, &pair))
	p.sweep(time.Now().Add(29 * time.Minute))
	if n := p.metric("evenkeel_tls_closed_connections_total"); n != 0 {
		t.Fatalf("%v connections closed too early", n)
	}
	p.sweep(time.Now().Add(31 * time.Minute))
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if got := p.metric("evenkeel_tls_closed_connections_total", reasonExpired); got != 1 {
		t.Errorf("%v connections closed, want 1", got)
	}
	p.until("closed connections are forgotten", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		clear := true
		for c := range p.connections {
			clear = clear && !c.ended
		}
		return clear
	})
}

// TestAnAuthorityMadeAnewIsTheSame: a certificate of the authority with the same name and key ends nothing.
func TestAnAuthorityMadeAnewIsTheSame(t *testing.T) {
	ours := newCA(t, "ours")
	c := ours.Certificate()
	w := way{authority: keyOf(c), until: time.Now().Add(time.Hour)}
	again := *c
	again.Raw, again.NotAfter = []byte("made anew"), c.NotAfter.Add(time.Hour)
	other := newCA(t, "ours").Certificate()
	held := &connection{ways: []way{{authority: keyOf(other), until: w.until}, w}}
	for name, test := range map[string]struct {
		trusted *x509.Certificate
		now     time.Time
		want    string
	}{
		"the same":             {c, time.Now(), ""},
		"made anew":            {&again, time.Now(), ""},
		"its other way":        {other, time.Now(), ""},
		"of the same name":     {newCA(t, "ours").Certificate(), time.Now(), reasonAuthority},
		"expired":              {c, time.Now().Add(2 * time.Hour), reasonExpired},
		"expired in all ways ": {other, time.Now().Add(2 * time.Hour), reasonExpired},
	} {
		if got := held.over(test.now, &material{trusted: map[key]bool{keyOf(test.trusted): true}}); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestManyConnectionsAreNotClosedAtOnce: the rest has its turn at the next look.
func TestManyConnectionsAreNotClosedAtOnce(t *testing.T) {
	ours := newCA(t, "ours")
	dir := t.TempDir()
	authtest.Mount(t, dir, ours.server(), ours.pem)
	p := open(t, dir)
	for range 2*maxClosed + 1 {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		(&connection{Conn: near, gate: p.Gate}).hold([][]*x509.Certificate{{ours.Certificate()}})
	}
	for _, left := range []int{maxClosed + 1, 1, 0} {
		p.sweep(time.Now().Add(2 * time.Hour))
		if got := len(p.connections); got != left {
			t.Errorf("%d connections left, want %d", got, left)
		}
	}
}

// TestBadFilesChangeNothing: each is told once in the log, counted at every look, and the files from before
// stay in use.
func TestBadFilesChangeNothing(t *testing.T) {
	ours := newCA(t, "ours")
	good := ours.server()
	expired := ours.issue(func(r *authority.Request) {
		r.Server, r.NotBefore, r.NotAfter = true, time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
	})
	nameless := ours.issue(func(r *authority.Request) { r.Server, r.IPs = true, nil })
	clients := ours.client("spiffe://cluster.local/fleet/shop/edge")
	_, gone, err := authority.New("gone", time.Now().Add(-2*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		pair        authority.Pair
		authorities []byte
		want        string
	}{
		"no certificate":             {authority.Pair{Certificate: []byte("hello"), Key: good.Key}, ours.pem, "tls.crt and tls.key"},
		"a key of another":           {authority.Pair{Certificate: good.Certificate, Key: ours.server().Key}, ours.pem, "private key does not match"},
		"an expired certificate":     {expired, ours.pem, "the certificate expired at"},
		"a certificate without name": {nameless, ours.pem, "no DNS name and no address"},
		"a client's certificate":     {clients, ours.pem, "serverAuth"},
		"no authority":               {good, nil, "found none"},
		"a leaf for an authority":    {good, good.Certificate, "not that of an authority"},
		"a key among authorities":    {good, good.Key, `of type "PRIVATE KEY"`},
		"an expired authority":       {good, gone.Certificate, "all authorities have expired"},
		"a broken authority":         {good, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "ca.crt"},
		"far too much":               {good, make([]byte, maxFile+1), "expected at most"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			authtest.Mount(t, dir, c.pair, c.authorities)
			if _, err := Open(Options{Dir: dir, Rules: rules(t)}); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "BEGIN") {
				t.Errorf("at the start: %v, want %q", err, c.want)
			}
			dir = t.TempDir()
			authtest.Mount(t, dir, good, ours.pem)
			p := open(t, dir)
			from := p.current()
			w := watch{gate: p.Gate, used: from.digest}
			authtest.Mount(t, dir, c.pair, c.authorities)
			w.look(time.Now())
			if strings.Contains(p.log.String(), "level=ERROR") {
				t.Errorf("complaints before the files have settled: %s", p.log)
			}
			w.look(time.Now())
			w.look(time.Now())
			if p.current() != from {
				t.Error("they are in use")
			}
			if log := p.log.String(); strings.Count(log, "level=ERROR") != 1 || !strings.Contains(strings.ReplaceAll(log, `\"`, `"`), c.want) {
				t.Errorf("want one complaint with %q:\n%s", c.want, log)
			}
			if got := p.metric("evenkeel_tls_reload_failures_total"); got != 2 {
				t.Errorf("%v failures counted, want 2", got)
			}
			authtest.Mount(t, dir, ours.server(), ours.pem)
			w.look(time.Now())
			w.look(time.Now())
			if p.current() == from {
				t.Error("good files after bad ones are not taken")
			}
		})
	}
}

// TestFilesThatAreMissing: at the start each is named; later they are waited for.
func TestFilesThatAreMissing(t *testing.T) {
	_, err := Open(Options{Dir: t.TempDir(), Rules: rules(t)})
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	ours := newCA(t, "ours")
	dir := t.TempDir()
	authtest.Mount(t, dir, ours.server(), ours.pem)
	p := open(t, dir)
	w := watch{gate: p.Gate, used: p.current().digest}
	if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	w.look(time.Now())
	w.look(time.Now())
	if !strings.Contains(p.log.String(), "no such file") {
		t.Errorf("log: %s", p.log)
	}
}

// TestWhenCertificatesExpire: what an alert is made of.
func TestWhenCertificatesExpire(t *testing.T) {
	ours := newCA(t, "ours")
	later := ca{t: t}
	var pair authority.Pair
	var err error
	if later.Authority, pair, err = authority.New("later", time.Now(), 48*time.Hour); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	end := time.Now().Add(20 * time.Minute)
	authtest.Mount(t, dir, ours.issue(func(r *authority.Request) { r.Server, r.NotAfter = true, end }), ours.pem, pair.Certificate)
	p := open(t, dir)
	if got := p.metric("evenkeel_tls_not_after_timestamp_seconds", "server"); got != float64(end.Unix()) {
		t.Errorf("server: %v", got)
	}
	if got := p.metric("evenkeel_tls_not_after_timestamp_seconds", "authority"); got != float64(later.Certificate().NotAfter.Unix()) {
		t.Errorf("authority: %v", got)
	}
}
