package rls

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// bootstrapOf an Envoy whose one route has a limit of concurrency by the header X-Tenant, and a rate over all.
var bootstrapOf = template.Must(template.New("").Parse(`
node: {id: envoy-1, cluster: shop/edge}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Admin}}}}}
static_resources:
  listeners:
  - name: edge
    address: {socket_address: {address: 127.0.0.1, port_value: {{.Listener}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          use_remote_address: true
          access_log_options: {access_log_flush_interval: {{.Flush}}}
          access_log:
          - name: envoy.access_loggers.http_grpc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
              common_config:
                log_name: evenkeel
                transport_api_version: V3
                grpc_service: {envoy_grpc: {cluster_name: rls}}
          http_filters:
          - name: evenkeel.limit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: shop/edge
              timeout: {{.Timeout}}
              enable_x_ratelimit_headers: DRAFT_VERSION_03
              disable_x_envoy_ratelimited_header: true
              rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: rls}}}
              request_type: both
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: "/rate"}
                route:
                  cluster: backend
                  timeout: 0s
                  rate_limits:
                  - actions: [{generic_key: {descriptor_key: rule, descriptor_value: shop/api/all}}]
              - match: {prefix: "/"}
                route: {cluster: backend, timeout: 0s}
                typed_per_filter_config:
                  evenkeel.limit:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
                    rate_limits:
                    - actions: &stream
                      - generic_key: {descriptor_key: rule, descriptor_value: shop/api/streams}
                      - request_headers: {header_name: x-tenant, descriptor_key: "header:X-Tenant"}
                      - request_headers: {header_name: x-request-id, descriptor_key: lease}
                      x_ratelimit_option: "OFF"
                    - actions: *stream
                      hits_addend: {number: 1, is_negative_hits: true}
                      apply_on_stream_done: true
  clusters:
  - name: backend
    load_assignment: {cluster_name: backend, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Backend}}}}}}]}]}
  - name: rls
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: rls, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{.RLS}}}}}}]}]}
`))

// edgeEnvoy is a real one in front of a backend that answers /stream at once and goes on until its client leaves.
type edgeEnvoy struct {
	*demo.Envoy
	t      *testing.T
	url    string
	client *http.Client
}

func startEdge(t *testing.T, rlsAddress string, flush, timeout time.Duration) *edgeEnvoy {
	t.Helper()
	binary, err := demo.FindEnvoy()
	if err != nil {
		t.Skip(err)
	}
	ended := make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/stream") {
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	}))
	t.Cleanup(func() { close(ended); backend.Close() })
	port := func(address string) string { _, p, _ := net.SplitHostPort(address); return p }
	var ports [2]uint16
	for i := range ports {
		if ports[i], err = demo.FreePort(0, netip.MustParseAddr("127.0.0.1")); err != nil {
			t.Fatal(err)
		}
	}
	var bootstrap bytes.Buffer
	if err := bootstrapOf.Execute(&bootstrap, map[string]any{
		"Admin": ports[0], "Listener": ports[1], "RLS": port(rlsAddress), "Backend": port(backend.Listener.Addr().String()),
		"Flush": fmt.Sprintf("%.3fs", flush.Seconds()), "Timeout": fmt.Sprintf("%.3fs", timeout.Seconds()),
	}); err != nil {
		t.Fatal(err)
	}
	e := &edgeEnvoy{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", ports[1]), client: &http.Client{Transport: &http.Transport{}}}
	if e.Envoy, err = demo.StartEnvoy(demo.EnvoyOptions{Path: binary, Name: "envoy", Dir: t.TempDir(), Bootstrap: bootstrap.Bytes(), AdminURL: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.client.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
		e.Kill()
		<-e.Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := e.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return e
}

// open begins a request as a tenant, and says its status. It goes on until ctx is done.
func (e *edgeEnvoy) open(ctx context.Context, path, tenant string) (int, *http.Response) {
	e.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url+path, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("X-Tenant", tenant)
	response, err := e.client.Do(req)
	if err != nil {
		return 0, nil
	}
	context.AfterFunc(ctx, func() { response.Body.Close() })
	return response.StatusCode, response
}

func (r *rig) until(what string, holds func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s; %+v", what, r.Limits())
		}
	}
}

func streams(n int32) *rlsconfig.Rule { return rate("streams", 0, "header:X-Tenant", concurrent(n)) }

func (r *rig) held() float64 { return r.metric("evenkeel_rls_leases") }

// TestRealEnvoyStreams bounds the streams of each tenant, and ends them in every way that a client has.
func TestRealEnvoyStreams(t *testing.T) {
	r := newRig(t, streams(3), rate("all", 100, "", per(time.Minute)))
	e := startEdge(t, serve(t, r.Server), time.Second, time.Second)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for i, want := range []int{200, 200, 200, 429} {
		if code, _ := e.open(ctx, "/stream", "a"); code != want {
			t.Errorf("stream %d of a: %d, expected %d", i, code, want)
		}
	}
	if code, _ := e.open(ctx, "/stream", "b"); code != 200 {
		t.Errorf("the first stream of b: %d", code)
	}
	r.expect("leases", r.held(), 4.0)
	_, response := e.open(ctx, "/rate", "a")
	r.expect("headers", fmt.Sprint(response.Header["X-Ratelimit-Limit"], response.Header["X-Ratelimit-Remaining"], response.Header["X-Ratelimit-Reset"]), "[100, 100;w=60] [99] [1]")
	leave()
	r.until("all leases ended", func() bool { return r.held() == 0 })

	// Requests that end by themselves, streams that are reset after their beginning or before it.
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			for i := range 40 {
				ctx, leave := context.WithCancel(t.Context())
				switch tenant := fmt.Sprintf("tenant-%d", worker); i % 4 {
				case 0:
					e.open(ctx, "/", tenant)
				case 1:
					time.AfterFunc(time.Duration(i)*100*time.Microsecond, leave)
					e.open(ctx, "/stream", tenant)
				default:
					e.open(ctx, "/stream", tenant)
				}
				leave()
			}
		})
	}
	wait.Wait()
	r.until("all leases ended", func() bool { return r.held() == 0 })
	if r.metric("evenkeel_rls_leases_ended_total", "reason=expired")+r.metric("evenkeel_rls_leases_ended_total", "reason=disconnected") > 0 {
		t.Error("leases ended because nobody said that they did")
	}
	if ended := r.metric("evenkeel_rls_leases_ended_total"); ended < 100 {
		t.Errorf("%v leases ended: this tested nothing", ended)
	}
}

// TestRealEnvoyThatIsKilled leaves streams that nobody ends. Their leases end soon, and long before they expire.
func TestRealEnvoyThatIsKilled(t *testing.T) {
	kill := func(t *testing.T, r *rig, held, known func() int) {
		e := startEdge(t, serve(t, r.Server), 100*time.Millisecond, time.Second)
		for range 3 {
			if code, _ := e.open(t.Context(), "/stream", "a"); code != 200 {
				t.Fatal(code)
			}
		}
		r.until("each worker has sent access logs", func() bool { return known() == 3 })
		r.expect("leases", held(), 3)
		e.Kill()
		r.until("all leases ended", func() bool { return held() == 0 })
		r.expect("ended", r.metric("evenkeel_rls_leases_ended_total", "reason=disconnected"), 3.0)
	}
	t.Run("memory", func(t *testing.T) {
		r := newRig(t, streams(3))
		kill(t, r, func() int { return int(r.held()) }, func() (n int) {
			for i := range r.leases.ids {
				shard := &r.leases.ids[i]
				shard.mu.Lock()
				for _, l := range shard.ids {
					if _, ok := l.holder.name(); ok {
						n++
					}
				}
				shard.mu.Unlock()
			}
			return n
		})
	})
	t.Run("Redis", func(t *testing.T) {
		redis := startRedis(t)
		r := redis.over(t, Options{}, streams(3))
		kill(t, r, func() int { return redis.members(t, "evenkeel:shop/edge:shop/api/streams:header%3AX-Tenant=a:leases") }, func() int {
			return redis.members(t, "evenkeel:shop/edge:proxy:envoy-1")
		})
		if names := redis.client.Keys(t.Context(), "evenkeel:*:held:*").Val(); len(names) > 0 {
			t.Errorf("there are %v still", names)
		}
	})
}

// TestRealEnvoyAndAServiceThatRestarts has another service learn from the access logs what the one before knew.
func TestRealEnvoyAndAServiceThatRestarts(t *testing.T) {
	first := newRig(t, streams(3))
	port, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1")) // where the second listens as well
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- first.Serve(ctx, lis) }()
	e := startEdge(t, lis.Addr().String(), 200*time.Millisecond, time.Second)
	for range 3 {
		if code, _ := e.open(t.Context(), "/stream", "a"); code != 200 {
			t.Fatal(code)
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	second := newRig(t, streams(3))
	if lis, err = net.Listen("tcp", lis.Addr().String()); err != nil {
		t.Fatal(err)
	}
	ctx, stop = context.WithCancel(context.Background())
	go func() { served <- second.Serve(ctx, lis) }()
	t.Cleanup(func() { stop(); <-served })
	second.until("the leases are known again", func() bool { return second.held() == 3 })
	second.until("a fourth stream is refused", func() bool { code, _ := e.open(t.Context(), "/stream", "a"); return code == 429 })
	second.expect("rebuilt", second.metric("evenkeel_rls_leases_rebuilt_total"), 3.0)
}

// TestRealEnvoyWhoseClientsDoNotWait has clients leave while the service holds their calls: Envoy cancels
// those, and does not tell of their end as it does of others.
func TestRealEnvoyWhoseClientsDoNotWait(t *testing.T) {
	r := newRig(t, streams(1000))
	e := startEdge(t, serve(t, r.Server), time.Second, patience)
	if code, _ := e.open(t.Context(), "/stream", "b"); code != 200 {
		t.Fatal(code)
	}
	const clients = 40
	for i := range r.leases.ids {
		r.leases.ids[i].mu.Lock()
	}
	ctx, leave := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for range clients {
		wait.Go(func() { e.open(ctx, "/stream", "a") })
	}
	r.until("all calls are there", func() bool {
		stats, err := e.Stats(t.Context(), "cluster.rls.upstream_rq_active")
		return err == nil && stats["cluster.rls.upstream_rq_active"] >= clients
	})
	leave()
	wait.Wait()
	r.until("all calls are cancelled", func() bool {
		stats, err := e.Stats(t.Context(), "cluster.rls.upstream_rq_active")
		return err == nil && stats["cluster.rls.upstream_rq_active"] <= 2 // the streams of access logs
	})
	for i := range r.leases.ids {
		r.leases.ids[i].mu.Unlock()
	}
	r.until("only the one that waits is left", func() bool {
		return r.held() == 1 && r.metric("evenkeel_rls_leases_late_total")+r.metric("evenkeel_rls_leases_ended_total") >= clients
	})
	r.expect("expired", r.metric("evenkeel_rls_leases_ended_total", "reason=expired"), 0.0)
}
