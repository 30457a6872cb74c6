package demo

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestHostsOfTheAdminPage(t *testing.T) {
	hosts, err := parseHosts([]byte(`{"cluster_statuses":[
		{"name":"xds"},
		{"name":"shop/cart:80","host_statuses":[{
			"address":{"socket_address":{"address":"127.0.1.1","port_value":8080}}, "weight":1240,
			"stats":[{"name":"cx_active","value":"3","type":"GAUGE"},{"name":"rq_total","value":"77"},{"name":"rq_active","type":"GAUGE"}]}]}]}`))
	want := []EnvoyHost{{Cluster: "shop/cart:80", Address: "127.0.1.1:8080", Weight: 1240, Requests: 77}}
	if err != nil || !slices.Equal(hosts, want) {
		t.Errorf("%+v, %v; want %+v", hosts, err, want)
	}
	if _, err := parseHosts([]byte("no healthy upstream")); err == nil {
		t.Error("no error for a page that is not JSON")
	}
}

func TestRealEnvoySharesTheLoadOfTheRig(t *testing.T) {
	path, err := FindEnvoy()
	if errors.Is(err, ErrNoEnvoy) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	backend := startBackend(t, quick)
	localhost := netip.MustParseAddr("127.0.0.1")
	listener, err := FreePort(0, localhost)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := FreePort(0, localhost)
	if err != nil {
		t.Fatal(err)
	}
	envoy, err := StartEnvoy(EnvoyOptions{
		Path: path, Name: "envoy", Dir: t.TempDir(), AdminURL: fmt.Sprintf("http://127.0.0.1:%d", admin), Concurrency: 1,
		Bootstrap: fmt.Appendf(nil, staticBootstrap, admin, listener, backend.Address().Port()),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer envoy.Stop(5 * time.Second)
	if err := envoy.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	report, err := RunLoad(t.Context(), LoadOptions{URLs: []string{fmt.Sprintf("http://127.0.0.1:%d/", listener)}, Rate: 200, Duration: 200 * time.Millisecond, Seed: 1})
	if err != nil || report.Requests == 0 || report.OK != report.Requests {
		t.Fatalf("%v of %d, %v", report.ByStatus, report.Requests, err)
	}
	hosts, err := envoy.Hosts(t.Context())
	if err != nil || len(hosts) != 1 || hosts[0].Requests != uint64(report.Requests) || hosts[0].Address != backend.Address().String() {
		t.Errorf("hosts %+v, %v; want %d requests", hosts, err, report.Requests)
	}
	stats, err := envoy.Stats(t.Context(), `^cluster\.backend\.upstream_rq_total$`)
	if err != nil || len(stats) != 1 || stats["cluster.backend.upstream_rq_total"] != uint64(report.Requests) {
		t.Errorf("stats %v, %v", stats, err)
	}
}

func TestEnvoyThatRefusesItsBootstrapSaysWhy(t *testing.T) {
	path, err := FindEnvoy()
	if errors.Is(err, ErrNoEnvoy) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	envoy, err := StartEnvoy(EnvoyOptions{Path: path, Name: "envoy", Dir: t.TempDir(), AdminURL: "http://127.0.0.1:1", Bootstrap: []byte("no_such_field: 1\n")})
	if err != nil {
		t.Fatal(err)
	}
	defer envoy.Stop(time.Second)
	if err := envoy.WaitReady(t.Context()); err == nil || !strings.Contains(err.Error(), "no_such_field") {
		t.Errorf("error %v", err)
	}
}

// staticBootstrap wants the admin port, the listener's port and the backend's port.
const staticBootstrap = `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: backend}}]}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: backend
    type: STATIC
    load_assignment: {cluster_name: backend, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`
