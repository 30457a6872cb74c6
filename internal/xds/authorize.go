package xds

import (
	"context"
	"net"
	"sync"

	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/auth/identity"
)

// client is who opened a stream, by its context: nobody, if certificates are asked for and it has none.
// gRPC keeps the answer once for each connection, so that a stream needs not.
func (r *Registry) client(ctx context.Context) *identity.Identity {
	if r.opts.Auth == nil {
		return identity.Anyone
	}
	return auth.FromContext(ctx)
}

// authorize says whether the client of a stream may see the fleet that it names, as a status. What it is
// told does not depend on whether there is such a fleet.
func (r *Registry) authorize(ctx context.Context, protocol, fleet string) error {
	who := r.client(ctx)
	if who.MaySee(fleet) {
		return nil
	}
	r.metrics.refused.WithLabelValues("fleet").Inc()
	fleet = plain(fleet, maxCluster)
	r.opts.Log.Warn("xDS stream refused: the client may not see the fleet", "fleet", fleet, "identity", who, "remote", host(ctx), "protocol", protocol)
	return status.Errorf(codes.PermissionDenied, "node.cluster is %q: expected a fleet of this client, who is %s", fleet, who)
}

// host is where a stream's client is connected from, "" if that is not an address with a port.
func host(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	host, _, _ := net.SplitHostPort(p.Addr.String())
	return host
}

// identities bounds the streams of each client identity.
type identities struct {
	registry *Registry

	mu      sync.Mutex
	streams map[identityKey]int
}

type identityKey struct {
	name    string
	reports bool
}

// bound is a stream interceptor.
func (i *identities) bound(srv any, str grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	key := identityKey{i.registry.client(str.Context()).Name(), info.FullMethod == loadv3.LoadReportingService_StreamLoadStats_FullMethodName}
	if key.name == "" {
		return handle(srv, str) // plaintext
	}
	if !i.enter(key) {
		i.registry.metrics.refused.WithLabelValues("identity_streams").Inc()
		return status.Errorf(codes.ResourceExhausted, "%s has %d streams: expected no more", key.name, i.registry.opts.MaxIdentityStreams)
	}
	defer i.leave(key)
	return handle(srv, str)
}

func (i *identities) enter(key identityKey) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.streams[key] >= i.registry.opts.MaxIdentityStreams {
		return false
	}
	if i.streams == nil {
		i.streams = map[identityKey]int{}
	}
	i.streams[key]++
	return true
}

func (i *identities) leave(key identityKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.streams[key]--; i.streams[key] == 0 {
		delete(i.streams, key)
	}
}
