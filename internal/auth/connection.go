package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"evenkeel.io/controlplane/internal/auth/identity"
)

// clientInfo is what is known of a client, one for each connection. gRPC hands it to every call of it.
type clientInfo struct {
	credentials.CommonAuthInfo
	who *identity.Identity // nil: its certificate permits nothing
	why string             // it permits nothing
}

// AuthType implements credentials.AuthInfo.
func (*clientInfo) AuthType() string { return "mtls" }

// transport is TLS with connections that are known to the gate.
type transport struct {
	credentials.TransportCredentials
	gate *Gate
}

// Clone implements credentials.TransportCredentials.
func (t *transport) Clone() credentials.TransportCredentials {
	return &transport{TransportCredentials: t.TransportCredentials.Clone(), gate: t.gate}
}

// ServerHandshake implements credentials.TransportCredentials.
func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c := &connection{Conn: raw, gate: t.gate}
	conn, info, err := t.TransportCredentials.ServerHandshake(c)
	if err != nil {
		t.gate.refusedHandshake(raw, err)
		return nil, nil, err
	}
	verified := info.(credentials.TLSInfo)
	client := &clientInfo{CommonAuthInfo: verified.CommonAuthInfo}
	leaf := verified.State.PeerCertificates[0]
	if client.who, err = t.gate.opts.Rules.Of(leaf.DNSNames, leaf.URIs); err != nil {
		client.why = err.Error()
	}
	c.hold(verified.State.VerifiedChains)
	return conn, client, nil
}

// connection is a client's, known to the gate from its handshake until it is closed.
type connection struct {
	net.Conn
	gate  *Gate
	ways  []way
	ended bool // under Gate.mu
}

// way is a chain of certificates by which the client was verified: it leads to an authority, and holds
// until the first of its certificates expires.
type way struct {
	authority key
	until     time.Time
}

// hold makes the gate look after a connection.
func (c *connection) hold(chains [][]*x509.Certificate) {
	for _, chain := range chains {
		w := way{authority: keyOf(chain[len(chain)-1]), until: chain[0].NotAfter}
		for _, certificate := range chain[1:] {
			if certificate.NotAfter.Before(w.until) {
				w.until = certificate.NotAfter
			}
		}
		if !slices.Contains(c.ways, w) {
			c.ways = append(c.ways, w)
		}
	}
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	if !c.ended {
		c.gate.connections[c] = struct{}{}
	}
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.gate.mu.Lock()
	c.ended = true
	delete(c.gate.connections, c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

// over is why a connection holds no longer, "" if it does.
func (c *connection) over(now time.Time, m *material) string {
	reason := reasonAuthority
	for _, w := range c.ways {
		switch {
		case !m.trusted[w.authority]:
		case now.After(w.until):
			reason = reasonExpired
		default:
			return ""
		}
	}
	return reason
}

// sweep closes connections that hold no longer.
func (g *Gate) sweep(now time.Time) {
	over := map[string][]*connection{}
	g.mu.Lock()
	n := 0
	for c := range g.connections {
		if reason := c.over(now, g.material); reason != "" && n < maxClosed {
			over[reason] = append(over[reason], c)
			n++
		}
	}
	g.mu.Unlock()
	for reason, connections := range over {
		g.metrics.closed.WithLabelValues(reason).Add(float64(len(connections)))
		g.opts.Log.Warn("connections are closed: their certificates hold no longer", "reason", reason, "connections", len(connections),
			"first", remote(connections[0].RemoteAddr()))
		for _, c := range connections {
			c.Close()
		}
	}
}

// The reasons of a refused handshake, and of a closed connection.
const (
	reasonAuthority     = "authority"      // signed by none that is trusted
	reasonExpired       = "expired"        // or not valid yet
	reasonNoCertificate = "no_certificate" // the client showed none
	reasonClosed        = "closed"         // the client went away: it does not trust us, or was no client at all
	reasonOther         = "other"
)

func (g *Gate) refusedHandshake(raw net.Conn, err error) {
	reason := reasonOther
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		reason = reasonExpired
	} else if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		reason = reasonAuthority
	} else if _, ok := errors.AsType[*net.OpError](err); ok || errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) {
		reason = reasonClosed // an alert of the client is an OpError too
	} else if _, ok := errors.AsType[tls.RecordHeaderError](err); !ok && strings.Contains(err.Error(), "didn't provide a certificate") {
		reason = reasonNoCertificate
	}
	g.metrics.refusedHandshakes.WithLabelValues(reason).Inc()
	if !errors.Is(err, io.EOF) && g.noise.Allow() {
		g.opts.Log.Warn("a client was refused in the TLS handshake", "remote", remote(raw.RemoteAddr()), "reason", reason, "error", err)
	}
}

func remote(a net.Addr) string {
	if a == nil {
		return "unknown"
	}
	return a.String()
}
