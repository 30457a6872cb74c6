// Package auth is the gate of our gRPC ports: mutual TLS with certificates that are read anew when their
// files change, and who a client is. It promises that no method of a server with a Gate's options runs,
// known or unknown, unary or stream, for a client without a verified certificate that permits something.
// What that is, fleet by fleet, is asked of the client's Identity by who serves it.
//
//	tls.crt, tls.key, ca.crt --read--> material --handshake--> connection --every call--> Identity
//	         files.go                  material.go              connection.go            identity/
//
// A certificate holds for as long as it holds: a connection is closed when the client's certificate expires,
// or when the authority that signed it is taken out of ca.crt. The client is back at once if it has a better
// one. Making certificates is not this package's business (authority), nor is the admin port.
package auth

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"evenkeel.io/controlplane/internal/auth/identity"
)

// Options of a Gate.
type Options struct {
	// Dir has the files tls.crt, tls.key and ca.crt, as a Secret of Kubernetes is mounted: the certificate to
	// show with what leads to its authority, its key, and the authorities whose clients are let in, all PEM.
	Dir string
	// Rules say what the names of a client's certificate permit.
	Rules identity.Rules
	// Poll is the time between two looks at the files, and at the certificates of the connected clients; 2 s
	// if 0. New files are used when two looks in a row found them the same.
	Poll time.Duration
	// Log of new and bad files and of refused clients; nil is slog.Default().
	Log *slog.Logger
	// Metrics registers evenkeel_tls_*; nil keeps them unregistered.
	Metrics prometheus.Registerer
}

// maxClosed bounds the connections that are closed at one look: the clients come back, and not all at once.
const maxClosed = 200

// Gate lets clients in. Its methods are safe for concurrent use.
type Gate struct {
	opts    Options
	metrics metrics
	tls     credentials.TransportCredentials
	noise   *rate.Limiter // of log lines that a stranger can cause

	mu          sync.Mutex
	material    *material
	connections map[*connection]struct{}
}

// Open reads the files. The error says which of them cannot be used, and why.
func Open(opts Options) (*Gate, error) {
	opts.Poll = cmp.Or(opts.Poll, 2*time.Second)
	opts.Log = cmp.Or(opts.Log, slog.Default())
	files, err := readFiles(opts.Dir)
	if err != nil {
		return nil, err
	}
	m, err := files.material(time.Now())
	if err != nil {
		return nil, err
	}
	g := &Gate{opts: opts, metrics: newMetrics(opts.Metrics), noise: rate.NewLimiter(1, 10), connections: map[*connection]struct{}{}}
	g.use(m)
	g.tls = credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return g.current().config, nil
		},
	})
	return g, nil
}

// use shows and trusts something else from now on.
func (g *Gate) use(m *material) {
	g.mu.Lock()
	g.material = m
	g.mu.Unlock()
	g.metrics.notAfter.WithLabelValues("server").Set(float64(m.leaf.NotAfter.Unix()))
	g.metrics.notAfter.WithLabelValues("authority").Set(float64(m.notAfter.Unix()))
	g.opts.Log.Info("TLS files are in use", "directory", g.opts.Dir, "certificate", m.leaf.SerialNumber.Text(16), "notAfter", m.leaf.NotAfter, "authorities", len(m.trusted))
}

// current is what is shown and trusted now.
func (g *Gate) current() *material {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.material
}

// Run follows the files, and closes connections whose certificate holds no longer, until ctx is done. What
// it cannot use changes nothing.
func (g *Gate) Run(ctx context.Context) error {
	poll := time.NewTicker(g.opts.Poll)
	defer poll.Stop()
	w := watch{gate: g, used: g.current().digest}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			w.look(time.Now())
			g.sweep(time.Now())
		}
	}
}

// ServerOptions are what a gRPC server needs to let in only whom the gate lets in.
func (g *Gate) ServerOptions() []grpc.ServerOption {
	// A tap, not interceptors: it comes before the server has anything of a call but its headers, and there is
	// no kind of method that passes it by.
	return []grpc.ServerOption{grpc.Creds(g.Credentials()), grpc.InTapHandle(func(ctx context.Context, call *tap.Info) (context.Context, error) {
		return ctx, g.Admit(ctx, call.FullMethodName)
	})}
}

// Credentials are the server's part of ServerOptions in making a connection; Admit is that in a call.
func (g *Gate) Credentials() credentials.TransportCredentials {
	return &transport{TransportCredentials: g.tls, gate: g}
}

// Admit is to be asked with the headers of every call, whose context has its peer. The error is a gRPC status.
func (g *Gate) Admit(ctx context.Context, method string) error {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		p = &peer.Peer{}
	}
	client, ok := p.AuthInfo.(*clientInfo)
	switch {
	case !ok:
		g.metrics.refusedCalls.Inc()
		return status.Error(codes.Unauthenticated, "expected a client certificate")
	case client.who == nil:
		g.metrics.refusedCalls.Inc()
		if g.noise.Allow() {
			g.opts.Log.Warn("a client's certificate permits nothing", "remote", remote(p.Addr), "method", method, "error", client.why)
		}
		return status.Error(codes.PermissionDenied, client.why)
	}
	return nil
}

// FromContext is who calls, by the context of a call to a server with a Gate's options; nil for any other.
func FromContext(ctx context.Context) *identity.Identity {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	client, ok := p.AuthInfo.(*clientInfo)
	if !ok {
		return nil
	}
	return client.who
}
