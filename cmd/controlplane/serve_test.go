package main

import (
	"strings"
	"testing"
	"time"
)

func TestPrometheusServers(t *testing.T) {
	const secret = "SECRET"
	for _, test := range []struct{ given, want string }{
		{"http://prom:9090", "expected NAME=URL"},
		{"main", "expected NAME=URL"},
		{"Main=http://prom:9090", "a NAME such as main"},
		{"=http://prom:9090", "a NAME such as main"},
		{"http://user:" + secret + "@prom/?x=1", "a NAME such as main"},
		{"main=prom:9090", "--prometheus main=...: expected a URL"},
		{"main=", "expected a URL"},
		{"main=ftp://user:" + secret + "@prom", "expected a URL"},
		{"main=http://user:" + secret + "@", "expected a URL"},
		{"main=http://user:" + secret + "@prom:port", "expected a URL"},
		{"main=http://prom/?x=" + secret, "without a query"},
		{"main=http://a,main=http://b", "given twice"},
		{"user:" + secret + "@prom", "expected NAME=URL"},
	} {
		o := serveOptions{configDir: ".", xdsAddress: "127.0.0.1:1", adminAddress: "127.0.0.1:2", listenerAddress: "127.0.0.1", loadReportInterval: time.Second, prometheus: []string{test.given}}
		err := o.validate()
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v, want %q", test.given, err, test.want)
		}
	}
	// From the environment several come in one value.
	servers, err := prometheusServers([]string{"main=https://user:pass@mimir.infra/prometheus,near=http://[fd00::1]:9090", "third=http://c"})
	if err != nil || len(servers) != 3 || servers["near"].Host != "[fd00::1]:9090" || servers["main"].Path != "/prometheus" {
		t.Errorf("got %v, %v", servers, err)
	}
}

// TestServeRefusesFlags: each refusal names the flag and what was expected, before anything is read or served.
func TestServeRefusesFlags(t *testing.T) {
	for _, test := range []struct{ flags, words string }{
		{"--kubeconfig k", "--config-dir and --kubeconfig: expected one of them"},
		{"--xds-address 18000", `--xds-address "18000": expected host:port`},
		{"--admin-address x", `--admin-address "x": expected host:port`},
		{"--metrics-address x", `--metrics-address "x": expected host:port`},
		{"--listener-address localhost", `--listener-address "localhost": expected an IP address`},
		{"--load-report-interval 10ms", "--load-report-interval 10ms: expected 1s or more"},
		{"--xds-address 0.0.0.0:18000", "xDS in plaintext is served on loopback only"},
		{"--xds-tls-dir d --xds-allow-plaintext", "exclude each other"},
		{"--xds-identity dns:a=shop/edge", "give --xds-tls-dir too"},
		{"--rls-service infra:8081", "expected NAMESPACE/NAME:PORT"},
		{"--rls-timeout 0s", "--rls-timeout 0s: expected 1ms to 10s"},
		{"--rls-redis redis.infra:6379", "--rls-redis: expected a URL such as redis://"},
		{"--rls-redis http://user:SECRET@redis", "--rls-redis: expected a URL such as redis://"},
		{"--rls-address= --rls-advertise 10.0.0.1:1", "--rls-advertise: there is no rate limit service to be reached"},
		{"--rls-address= --rls-redis redis://a:1", "--rls-redis: there is no rate limit service to be reached"},
		{"--rls-address 18081", `--rls-address "18081": expected host:port`},
		{"--rls-address 10.0.0.1:18081", "served on loopback only"},
		{"--rls-address :18081 --xds-allow-plaintext", "say with --rls-advertise IP:port"},
		{"--rls-address rls.infra:18081 --xds-allow-plaintext", `cannot be told "rls.infra:18081"`},
		{"--rls-advertise rls:18081", `--rls-advertise "rls:18081": expected IP:port`},
		{"--rls-fixed-windows --rls-address=", "--rls-fixed-windows: expected a rate limit service of this program"},
		{"--rls-fixed-windows --rls-service infra/ratelimit:8081", "--rls-fixed-windows: expected a rate limit service of this program"},
	} {
		_, err := run(t, append([]string{"serve", "--config-dir", t.TempDir()}, strings.Fields(test.flags)...)...)
		if exitCode(err) != 2 || !strings.Contains(err.Error(), test.words) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: exit %d, %v\nwant 2 with %q", test.flags, exitCode(err), err, test.words)
		}
	}
}
