package xds

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcxds "google.golang.org/grpc/xds"

	"evenkeel.io/controlplane/internal/auth/authority"
	"evenkeel.io/controlplane/internal/auth/authtest"
	"evenkeel.io/controlplane/internal/translate"
)

// overTLS are options of a bootstrap with a certificate, and the files beside it.
func (g *gated) overTLS(pair authority.Pair, authorities ...[]byte) translate.BootstrapOptions {
	g.t.Helper()
	o := translate.BootstrapOptions{Fleet: fleet, TLSDir: g.t.TempDir(), SDSDir: g.t.TempDir()}
	authtest.Mount(g.t, o.TLSDir, pair, authorities...)
	files, err := translate.SDS(o)
	if err != nil {
		g.t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(o.SDSDir, name), content, 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	return o
}

// TestRealEnvoyOverTLS: both sides show a certificate, and the bootstrap checks the server's name, with the
// files of SDS and without.
func TestRealEnvoyOverTLS(t *testing.T) {
	envoyBinary(t)
	for name, watched := range map[string]bool{"read once": false, "watched": true} {
		t.Run(name, func(t *testing.T) {
			p := startGated(t, Options{})
			o := p.overTLS(p.ca.issue(edge, false), p.ca.pem)
			if !watched {
				o.SDSDir = ""
			}
			e := startEnvoy(t, p.address, o, nil)
			p.set(fleet, "1", e.configuration("http://127.0.0.1:1", 1))
			e.until("LIVE", func() bool { return get(e.admin+"/ready") == "LIVE" })
			p.untilState("envoy-1", translate.LDS, Synced)
			if got := p.Registry().Proxies()[0].Identity; got != edge {
				t.Errorf("identity %q", got)
			}
		})
	}
}

// TestRealEnvoyOfAnotherFleet: it gets nothing, and both sides say why.
func TestRealEnvoyOfAnotherFleet(t *testing.T) {
	envoyBinary(t)
	var log strings.Builder
	var mu sync.Mutex
	p := startGated(t, Options{Log: slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	}), nil))})
	e := startEnvoy(t, p.address, p.overTLS(p.ca.issue(vault, false), p.ca.pem), nil)
	p.set(fleet, "1", e.configuration("http://127.0.0.1:1", 1))
	p.until("it is refused, and again", func() bool { return p.counter("evenkeel_xds_refused_streams_total", "fleet") > 2 })
	e.until("Envoy says why", func() bool {
		text, _ := os.ReadFile(e.log)
		return strings.Contains(string(text), "node.cluster is") && strings.Contains(string(text), vault)
	})
	if n := len(p.Registry().Proxies()); n != 0 || get(e.admin+"/ready") == "LIVE" {
		t.Errorf("%d proxies; Envoy is %s", n, get(e.admin+"/ready"))
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(log.String(), vault) {
		t.Errorf("our log does not say why:\n%s", log.String())
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// TestRealEnvoyWhileCertificatesRotate goes the way of a rotation of everything, with requests all the
// time. The stream lives until its authority is taken out; then Envoy is back with its new certificate, and
// is sent nothing again.
func TestRealEnvoyWhileCertificatesRotate(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	t.Cleanup(backend.Close)
	p := startGated(t, Options{})
	next := newCA(t, "next")
	both := slices.Concat(p.ca.pem, next.pem)
	o := p.overTLS(p.ca.issue(edge, false), p.ca.pem)
	e := startEnvoy(t, p.address, o, nil)
	p.set(fleet, "1", e.configuration(backend.URL, 1))
	e.until("a request flows", func() bool { return get(e.http) == "hello" })
	p.untilState("envoy-1", translate.LDS, Synced)

	var running sync.WaitGroup
	done := make(chan struct{})
	stop := sync.OnceFunc(func() {
		close(done)
		running.Wait()
	})
	t.Cleanup(stop)
	sent, failed := 0, 0
	running.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			sent++
			if get(e.http) != "hello" {
				failed++
			}
		}
	})

	connected := p.Registry().Proxies()[0].ConnectedAt
	same := func(when string) {
		t.Helper()
		if proxies := p.Registry().Proxies(); len(proxies) != 1 || !proxies[0].ConnectedAt.Equal(connected) {
			t.Errorf("%s: the stream ended: %+v", when, proxies)
		}
	}
	// weights shows that the stream works.
	version := uint32(1)
	push := func() {
		t.Helper()
		version++
		label := time.Duration(version).String()
		p.set(fleet, label, e.configuration(backend.URL, version))
		p.until("the weights are acknowledged", func() bool {
			s := p.state("envoy-1", translate.EDS)
			return s.State == Synced && s.Version == p.at(label, translate.EDS)
		})
	}
	envoyShows := func(what string, certificate []byte) {
		t.Helper()
		e.until(what, func() bool { return strings.Contains(get(e.admin+"/certs"), serial(t, certificate)) })
	}
	serverShows := func(pair authority.Pair, authorities []byte) {
		t.Helper()
		authtest.Mount(t, p.dir, pair, authorities)
		e.until("the server's files are in use", func() bool { return p.shows(pair) })
	}

	serverShows(p.ca.issue("", true), p.ca.pem)
	renewed := p.ca.issue(edge, false)
	authtest.Mount(t, o.TLSDir, renewed, p.ca.pem)
	envoyShows("the renewed certificate", renewed.Certificate)
	push()
	same("after both certificates were renewed")

	serverShows(p.ca.issue("", true), both)
	authtest.Mount(t, o.TLSDir, renewed, both)
	envoyShows("the new authority", next.pem)
	push()
	same("with a second authority")

	serverShows(next.issue("", true), both)
	of := next.issue(edge, false)
	authtest.Mount(t, o.TLSDir, of, both)
	envoyShows("a certificate of the new authority", of.Certificate)
	push()
	same("with certificates of the second authority")

	again := p.counter("evenkeel_xds_resources_total")
	serverShows(next.issue("", true), next.pem)
	authtest.Mount(t, o.TLSDir, of, next.pem)
	e.until("Envoy is back with its new certificate", func() bool {
		proxies := p.Registry().Proxies()
		return len(proxies) == 1 && proxies[0].ConnectedAt.After(connected)
	})
	for _, kind := range []translate.Type{translate.CDS, translate.EDS, translate.LDS, translate.RDS, translate.RTDS} {
		p.untilState("envoy-1", kind, Synced)
	}
	if got := p.counter("evenkeel_xds_resources_total") - again; got != 0 {
		t.Errorf("%v resources were sent again", got)
	}
	push()
	stop()
	if failed > 0 || sent == 0 {
		t.Errorf("%d of %d requests failed", failed, sent)
	}
}

// TestGRPCOverTLS: grpc-go's own xDS client, with its own credentials from files, asks as its fleet and not as
// another.
func TestGRPCOverTLS(t *testing.T) {
	p := startGated(t, Options{})
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	dir := t.TempDir()
	authtest.Mount(t, dir, p.ca.issue(edge, false), p.ca.pem)
	dial := func(cluster string) {
		t.Helper()
		bootstrap, err := json.Marshal(map[string]any{
			"xds_servers": []any{map[string]any{
				"server_uri": p.address, "server_features": []string{"xds_v3"},
				"channel_creds": []any{map[string]any{"type": "tls", "config": map[string]any{
					"certificate_file": filepath.Join(dir, "tls.crt"), "private_key_file": filepath.Join(dir, "tls.key"),
					"ca_certificate_file": filepath.Join(dir, "ca.crt"), "refresh_interval": "1s",
				}}},
			}},
			"node": map[string]any{"id": "checkout-1", "cluster": cluster},
		})
		if err != nil {
			t.Fatal(err)
		}
		resolver, err := grpcxds.NewXDSResolverWithConfigForTesting(bootstrap)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient("xds:///web", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.Connect()
	}

	dial(fleet)
	p.until("it is connected and subscribed", func() bool {
		proxies := p.Registry().Proxies()
		return len(proxies) == 1 && proxies[0].Identity == edge && strings.HasPrefix(proxies[0].Agent, "gRPC") &&
			proxies[0].Types[translate.LDS].State != NotSubscribed
	})
	dial("bank/gate")
	p.until("it is refused", func() bool { return p.counter("evenkeel_xds_refused_streams_total", "fleet") > 0 })
}
