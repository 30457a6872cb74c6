package test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
)

// TestCertificatesRotateUnderLoad is the life of certificates as certgen's help tells it: made, renewed, and
// their authority replaced, each time by nothing but another run in the folder that both ends read. No
// request fails, and the Envoy's stream ends once, with the authority that it began with.
func TestCertificatesRotateUnderLoad(t *testing.T) {
	t.Parallel()
	envoy, err := demo.FindEnvoy()
	if err != nil {
		t.Skip(err)
	}
	r := newRig(t, 2)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice("", 0, 1))
	pki, out := t.TempDir(), t.TempDir()
	certgen := func(args ...string) string {
		t.Helper()
		return string(r.run(append([]string{"certgen", "--dir", pki}, args...)...))
	}
	certgen("--fleet", "shop/edge", "--fleet", "bank/gate")
	r.start("--xds-tls-dir", filepath.Join(pki, "server"))
	r.run("bootstrap", "--fleet", "shop/edge", "--node-id", "envoy-1", "--xds-address", loopback(r.ports.xds), "--admin-port", fmt.Sprint(r.ports.envoyAdmin),
		"--tls-dir", filepath.Join(pki, "fleet/shop/edge"), "--output", out)
	bootstrap, err := os.ReadFile(filepath.Join(out, "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r.startEnvoyWith(envoy, bootstrap)
	stop := r.load(200)

	proxy := func() admin.ProxyView {
		t.Helper()
		var view admin.ProxiesView
		if err := demo.GetJSON(t.Context(), r.adminURL("/proxies"), &view); err != nil {
			t.Fatal(err)
		}
		if len(view.Proxies) != 1 {
			return admin.ProxyView{}
		}
		return view.Proxies[0]
	}
	if got := proxy().Identity; got != "spiffe://cluster.local/fleet/shop/edge" {
		t.Errorf("identity %q", got)
	}
	since := proxy().ConnectedAt
	taken := 1 // at the start
	// settled waits until both ends use the files that are there now.
	settled := func(what string) {
		t.Helper()
		taken++
		r.eventually(what+": the control plane uses the files", func() error {
			log, err := os.ReadFile(r.plane.LogFile())
			if n := strings.Count(string(log), "TLS files are in use"); n < taken {
				return fmt.Errorf("it took up files %d times, %v", n, err)
			}
			return nil
		})
		for _, name := range []string{"tls.crt", "ca.crt"} {
			text, err := os.ReadFile(filepath.Join(pki, "fleet/shop/edge", name))
			if err != nil {
				t.Fatal(err)
			}
			for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
				c, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				r.eventually(what+": Envoy uses "+name, func() error {
					var shown json.RawMessage
					err := demo.GetJSON(t.Context(), r.envoy.AdminURL()+"/certs", &shown)
					if err == nil && !strings.Contains(string(shown), fmt.Sprintf("%x", c.SerialNumber)) {
						err = fmt.Errorf("it has %s", shown)
					}
					return err
				})
			}
		}
	}
	stays := func(what string) {
		t.Helper()
		if now := proxy().ConnectedAt; now == nil || !now.Equal(*since) {
			t.Errorf("%s: the stream ended", what)
		}
	}

	if err := os.Remove(filepath.Join(pki, "fleet/shop/edge/tls.crt")); err != nil { // as if it expired soon
		t.Fatal(err)
	}
	certgen("--fleet", "shop/edge", "--server-name", "127.0.0.1,evenkeel.infra")
	settled("renewed")
	stays("renewed")
	certgen("--rotate-authority")
	settled("two authorities")
	stays("two authorities")
	certgen("--rotate-authority")
	settled("the second signs")
	stays("the second signs")
	certgen("--rotate-authority")
	settled("the second alone")
	r.eventually("the Envoy is back with its new certificate", func() error {
		if p := proxy(); p.ConnectedAt == nil || p.ConnectedAt.Equal(*since) || p.Types["cds"].State != "SYNCED" {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	r.write("slice.yaml", r.slice("", 0))
	r.eventually("a change arrives", func() error {
		if n := len(r.hosts()); n != 1 {
			return fmt.Errorf("%d hosts", n)
		}
		return nil
	})
	if n := r.metric("evenkeel_tls_reload_failures_total"); n != 0 {
		t.Errorf("%v failures to take up files", n)
	}
	if report := stop(); report.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
}
