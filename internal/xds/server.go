package xds

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"golang.org/x/time/rate"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/xds/session"
)

const (
	// maxMessage has room for an Envoy's node and the versions of MaxNames resources on a reconnect.
	maxMessage = 4 << 20
	// maxConnectionStreams is per connection: an Envoy has one for ADS and one for load reports.
	maxConnectionStreams = 100
)

// Server serves a cache to nodes over the aggregated discovery service, delta and SotW, and accepts
// load report streams. The services of single types and all unary methods are not registered:
// clients that try them get Unimplemented.
type Server struct {
	cache    *snapshot.Cache
	opts     Options
	registry *Registry
	ads      streams
	loads    streams
	// identities comes before ads and loads: it has seen a stream when they do.
	identities identities
}

// NewServer makes a server of a cache that is keyed by FleetHash.
func NewServer(cache *snapshot.Cache, opts Options) *Server {
	opts = opts.withDefaults(cache)
	registry := newRegistry(cache, opts)
	return &Server{
		cache:      cache,
		opts:       opts,
		registry:   registry,
		ads:        streams{most: opts.MaxStreams, rate: rate.NewLimiter(rate.Limit(opts.StreamsPerSecond), opts.StreamsPerSecond)},
		loads:      streams{most: opts.MaxStreams, rate: rate.NewLimiter(rate.Limit(opts.StreamsPerSecond), opts.StreamsPerSecond)},
		identities: identities{registry: registry},
	}
}

// Registry knows the nodes that are connected.
func (s *Server) Registry() *Registry { return s.registry }

// Serve serves on a listener, which it closes. Once ctx is done it accepts nothing new and ends the
// open streams one after the other, so that a fleet does not reconnect elsewhere all at once; it
// returns nil when they have ended, after Options.DrainTime and a second at most. It is called once.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	options := []grpc.ServerOption{
		// Envoys ping every 10 s, with or without a stream: a stricter server would drop them.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxConnectionStreams),
		grpc.ChainStreamInterceptor(s.recoverPanic, s.identities.bound),
		grpc.ForceServerCodecV2(newCodec()),
	}
	if s.opts.Auth != nil {
		options = append(options, s.opts.Auth.ServerOptions()...)
	}
	server := grpc.NewServer(options...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, ads{Server: s})
	loadv3.RegisterLoadReportingServiceServer(server, lrsService{Server: s})

	if s.opts.Register != nil {
		s.opts.Register(server)
	}

	measuring, stopMeasuring := context.WithCancel(context.WithoutCancel(ctx))
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		s.registry.convergence.run(measuring)
	}()
	defer func() { stopMeasuring(); <-measured }()

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(lis) }()
	select {
	case err := <-failed:
		s.ads.drain(0)
		s.loads.drain(0)
		server.Stop()
		return err
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(stopped)
	}()
	s.ads.drain(s.opts.DrainTime)
	s.loads.drain(0)
	select {
	case <-stopped:
	case <-time.After(time.Second):
		server.Stop() // a client that does not read holds its stream
		<-stopped
	}
	return <-failed
}

// recoverPanic keeps a panic to the stream in which it happened.
func (s *Server) recoverPanic(srv any, str grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.registry.panicked(info.FullMethod, p)
		}
	}()
	return handle(srv, str)
}

// panicked counts and logs a panic, and returns what its client is told.
func (r *Registry) panicked(where string, p any) error {
	r.metrics.panics.Inc()
	r.opts.Log.Error("panic in an xDS stream", "where", where, "panic", p, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "internal error; this stream is closed, others are not affected")
}

// ads is the aggregated discovery service.
type ads struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	*Server
}

func (a ads) DeltaAggregatedResources(wire discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return a.serve(wire, delta, func(s *adsStream) error {
		var req deltaRequest
		if err := wire.RecvMsg(&req); err != nil {
			return err
		}
		return s.receive(req.GetNode(), session.Request{
			URL: req.GetTypeUrl(), Nonce: req.GetResponseNonce(), Refused: message(req.GetErrorDetail()),
			Subscribe: req.GetResourceNamesSubscribe(), Unsubscribe: req.GetResourceNamesUnsubscribe(), Initial: req.GetInitialResourceVersions(),
		})
	})
}

func (a ads) StreamAggregatedResources(wire discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return a.serve(wire, sotw, func(s *adsStream) error {
		var req sotwRequest
		if err := wire.RecvMsg(&req); err != nil {
			return err
		}
		return s.receive(req.GetNode(), session.Request{
			URL: req.GetTypeUrl(), Nonce: req.GetResponseNonce(), Refused: message(req.GetErrorDetail()),
			Names: req.GetResourceNames(), Version: req.GetVersionInfo(),
		})
	})
}

// message is what an error_detail says, nil if there is none.
func message(detail *statuspb.Status) *string {
	if detail == nil {
		return nil
	}
	m := detail.GetMessage()
	return &m
}

// serve runs a stream: take waits for a request and takes it.
func (s *Server) serve(wire grpc.ServerStream, protocol string, take func(*adsStream) error) error {
	end := ender(wire.Context())
	return s.hold(end, &s.ads, protocol, func() error {
		stream := s.registry.open(protocol, wire, end)
		defer s.registry.close(stream)
		for {
			if err := take(stream); err != nil {
				return err
			}
			stream.wake()
		}
	})
}

// ender returns what ends a stream, with a status for its client, from another goroutine than the one that
// gRPC gave it. That one waits in Recv all the time, so that a stream needs no second, and only gRPC can
// end the wait: it does once the status is written, for whoever else is in Send or Recv. The method is not
// of gRPC's interface; without it all streams panic at once, and no test passes.
func ender(ctx context.Context) func(error) {
	wire := grpc.ServerTransportStreamFromContext(ctx).(interface {
		WriteStatus(*status.Status) error
	})
	return func(err error) {
		_ = wire.WriteStatus(status.Convert(err)) // fails if the stream has ended, as it should
	}
}

// hold runs a stream within its bound. end ends it.
func (s *Server) hold(end func(error), bound *streams, protocol string, run func() error) error {
	release, err := bound.admit(end)
	if err != nil {
		reason := "streams"
		switch {
		case errors.Is(err, errDraining):
			reason = "draining"
		case errors.Is(err, errTooFast):
			reason = "rate"
		}
		s.registry.metrics.refused.WithLabelValues(reason).Inc()
		return err
	}
	defer release()
	gauge := s.registry.metrics.streams.WithLabelValues(protocol)
	gauge.Inc()
	defer gauge.Dec()
	if err := run(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// lrsService is the load reporting service: Options.LoadReports within the bounds of this server.
type lrsService struct {
	loadv3.UnimplementedLoadReportingServiceServer
	*Server
}

func (l lrsService) StreamLoadStats(str loadv3.LoadReportingService_StreamLoadStatsServer) error {
	return l.hold(ender(str.Context()), &l.loads, lrs, func() error {
		return l.opts.LoadReports.ServeLoadReports(str.Context(), str, func(fleet string) error { return l.registry.authorize(str.Context(), lrs, fleet) })
	})
}
