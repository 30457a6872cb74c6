package promapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/signals"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret stands in every bad answer; no error may quote it.
const secret = "SECRET"

// pipes joins a client and servers in memory, so that a test in a synctest bubble sees HTTP over
// virtual time. Hosts are names of servers.
type pipes struct {
	t       *testing.T
	mu      sync.Mutex
	servers map[string]chan net.Conn
}

func (p *pipes) dial(ctx context.Context, _, address string) (net.Conn, error) {
	p.mu.Lock()
	server := p.servers[address]
	p.mu.Unlock()
	if server == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("nobody listens")}
	}
	ours, theirs := net.Pipe()
	select {
	case server <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve starts a server at address until the test ends.
func (p *pipes) serve(address string, handler http.HandlerFunc) {
	l := listener{make(chan net.Conn), make(chan struct{})}
	p.mu.Lock()
	p.servers[address] = l.conns
	p.mu.Unlock()
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	p.t.Cleanup(func() { server.Close(); <-done })
}

type listener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l listener) Close() error   { close(l.closed); return nil }
func (l listener) Addr() net.Addr { return &net.TCPAddr{} }

// bench is a Manager that runs, the servers "main" and "other", and what came of it.
type bench struct {
	*Manager
	registry *prometheus.Registry
	mu       sync.Mutex
	readings []signals.Reading
	stop     func()
}

// start runs a Manager of which main answers with the handlers given.
func start(t *testing.T, options Options, handlers map[string]http.HandlerFunc, specs ...Spec) *bench {
	p := &pipes{t: t, servers: map[string]chan net.Conn{}}
	options.Servers = map[string]*url.URL{}
	for name, handler := range handlers {
		if handler != nil {
			p.serve(name+":9090", handler)
		}
		options.Servers[name] = &url.URL{Scheme: "http", Host: name + ":9090", User: url.UserPassword("user", secret)}
	}
	b := &bench{registry: prometheus.NewPedanticRegistry()}
	options.Dial, options.Registerer = p.dial, b.registry
	options.Logger = cmp.Or(options.Logger, slog.New(slog.DiscardHandler))
	b.Manager = New(options)
	b.SetTargets(specs)
	ctx, cancel := context.WithCancel(context.Background())
	up := make(chan []signals.Reading)
	var both sync.WaitGroup
	both.Go(func() {
		if err := b.Run(ctx, up); err != nil {
			t.Errorf("Run: %v", err)
		}
		close(up)
	})
	both.Go(func() {
		for batch := range up {
			b.mu.Lock()
			b.readings = append(b.readings, batch...)
			b.mu.Unlock()
		}
	})
	b.stop = sync.OnceFunc(func() { cancel(); both.Wait() })
	t.Cleanup(b.stop)
	return b
}

// take gives the readings since the last call.
func (b *bench) take() []signals.Reading {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.readings
	b.readings = nil
	return taken
}

// target is what is shown of a term.
func (b *bench) target(t *testing.T, of term) signals.Target {
	t.Helper()
	for _, target := range b.Targets() {
		if strings.HasSuffix(target.Owner, " "+string(of)) {
			return target
		}
	}
	t.Fatalf("no target for %s among %+v", of, b.Targets())
	return signals.Target{}
}

// metric is the value of a counter with a label value, or without.
func (b *bench) metric(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// result is one element of an instant vector.
type result struct {
	labels map[string]string
	value  string
}

func instance(address, value string) result {
	return result{map[string]string{"instance": address}, value}
}

func pod(name, value string) result {
	return result{map[string]string{"namespace": "shop", "pod": name}, value}
}

func vector(results ...result) string {
	var elements []map[string]any
	for _, r := range results {
		elements = append(elements, map[string]any{"metric": r.labels, "value": []any{1.5, r.value}})
	}
	return success("vector", elements)
}

func success(kind string, value any) string {
	text, _ := json.Marshal(map[string]any{"status": "success", "data": map[string]any{"resultType": kind, "result": value}})
	return string(text)
}

// answers gives each query, by its text, an answer; none is an empty vector.
func answers(byQuery map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if body, ok := byQuery[r.FormValue("query")]; ok {
			fmt.Fprint(w, body)
			return
		}
		fmt.Fprint(w, vector())
	}
}

const (
	a = "10.0.0.1:8080"
	b = "10.0.0.2:8080"
)

// specOf asks main for the terms by their own names.
func specOf(service string, endpoints ...Endpoint) Spec {
	if endpoints == nil {
		endpoints = []Endpoint{{Address: a, CPULimit: 2}, {Address: b, CPULimit: 2}}
	}
	return Spec{
		Service: service, Window: 30 * time.Second, Endpoints: endpoints,
		Prometheus: v1alpha1.Prometheus{
			Server: "main", Interval: &metav1.Duration{Duration: 15 * time.Second}, Preset: new(v1alpha1.PresetGo),
			Queries: &v1alpha1.PrometheusQueries{
				CPU: new(v1alpha1.PromQL("cpu")), Requests: new(v1alpha1.PromQL("requests")), Errors: new(v1alpha1.PromQL("errors")),
				LatencyP50: new(v1alpha1.PromQL("p50")), LatencyP90: new(v1alpha1.PromQL("p90")), InFlight: new(v1alpha1.PromQL("inFlight")),
			},
		},
	}
}
