package scrape

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/signals"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network joins clients and servers by pipes in memory, so that a test in a synctest bubble sees HTTP
// over virtual time.
type network struct {
	t       *testing.T
	mu      sync.Mutex
	servers map[string]*listener
}

func newNetwork(t *testing.T) *network {
	return &network{t: t, servers: map[string]*listener{}}
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.servers[address]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: context.Canceled}
	}
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *network) listen(address string) *listener {
	l := &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	n.servers[address] = l
	n.mu.Unlock()
	n.t.Cleanup(func() { l.Close() })
	return l
}

// serve starts a server at address and stops it with the test.
func (n *network) serve(address string, handler http.HandlerFunc) {
	l := n.listen(address)
	server := &http.Server{Handler: handler}
	go server.Serve(l)
	n.t.Cleanup(func() { server.Close() })
}

type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// collector runs a Manager and keeps what it sends.
type collector struct {
	mu       sync.Mutex
	readings []signals.Reading
}

func (c *collector) all() []signals.Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]signals.Reading(nil), c.readings...)
}

func (c *collector) of(address string) []signals.Reading {
	var of []signals.Reading
	for _, r := range c.all() {
		if r.Endpoint.Address == address {
			of = append(of, r)
		}
	}
	return of
}

// run runs m until the test ends.
func run(t *testing.T, m *Manager) *collector {
	t.Helper()
	c := &collector{}
	ctx, cancel := context.WithCancel(context.Background())
	up := make(chan []signals.Reading)
	var both sync.WaitGroup
	both.Go(func() {
		if err := m.Run(ctx, up); err != nil {
			t.Errorf("Run: %v", err)
		}
		close(up)
	})
	both.Go(func() {
		for batch := range up {
			c.mu.Lock()
			c.readings = append(c.readings, batch...)
			c.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); both.Wait() })
	return c
}

// specOf is a Spec that reads the families of package client_golang's examples.
func specOf(url, address string) Spec {
	return Spec{
		URL:       url,
		Owner:     address,
		Endpoints: []signals.Key{{Service: "shop/cart:8080", Address: address}},
		CPULimit:  2,
		Window:    6 * time.Second,
		Scrape: v1alpha1.Scrape{
			Interval: &metav1.Duration{Duration: 2 * time.Second},
			Timeout:  &metav1.Duration{Duration: time.Second},
			CPU:      &v1alpha1.CPUMetric{Counter: new("process_cpu_seconds_total")},
			Requests: &v1alpha1.RequestsMetric{Counter: new("http_requests_total"), Errors: map[string]string{"code": "5.."}},
			Latency:  &v1alpha1.LatencyMetric{Histogram: new("http_request_duration_seconds")},
			InFlight: &v1alpha1.InFlightMetric{Gauge: new("http_requests_in_flight")},
		},
	}
}
