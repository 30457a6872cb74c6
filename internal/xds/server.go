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
}

// NewServer makes a server of a cache that is keyed by FleetHash.
func NewServer(cache *snapshot.Cache, opts Options) *Server {
	opts = opts.withDefaults(cache)
	return &Server{
		cache:    cache,
		opts:     opts,
		registry: newRegistry(cache, opts),
		ads:      streams{most: opts.MaxStreams, rate: rate.NewLimiter(rate.Limit(opts.StreamsPerSecond), opts.StreamsPerSecond)},
		loads:    streams{most: opts.MaxStreams, rate: rate.NewLimiter(rate.Limit(opts.StreamsPerSecond), opts.StreamsPerSecond)},
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
		grpc.StreamInterceptor(s.recoverPanic),
		grpc.ForceServerCodecV2(newCodec()),
	}
	if s.opts.TLS != nil {
		options = append(options, grpc.Creds(s.opts.TLS))
	}
	server := grpc.NewServer(options...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, ads{Server: s})
	loadv3.RegisterLoadReportingServiceServer(server, lrsService{Server: s})

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
		req, err := wire.Recv()
		if err != nil {
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
		req, err := wire.Recv()
		if err != nil {
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
	return s.hold(wire.Context(), &s.ads, protocol, func(ctx context.Context) error {
		ctx, end := context.WithCancelCause(ctx)
		defer end(nil)
		stream := s.registry.open(protocol, wire, end)
		defer s.registry.close(stream)
		go stream.guard(func() {
			for {
				if err := take(stream); err != nil {
					end(err)
					return
				}
				stream.wake()
			}
		})
		<-ctx.Done()
		if err := context.Cause(ctx); !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
}

// hold runs a stream within its bound, and tells its client when it was the server that ended it.
func (s *Server) hold(ctx context.Context, bound *streams, protocol string, run func(context.Context) error) error {
	ctx, release, err := bound.admit(ctx)
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
	if err := run(ctx); err != nil {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, errDraining) {
		return cause
	}
	return nil
}

// lrsService is the load reporting service: Options.LoadReports within the bounds of this server.
type lrsService struct {
	loadv3.UnimplementedLoadReportingServiceServer
	*Server
}

func (l lrsService) StreamLoadStats(str loadv3.LoadReportingService_StreamLoadStatsServer) error {
	return l.hold(str.Context(), &l.loads, lrs, func(ctx context.Context) error {
		return l.opts.LoadReports.ServeLoadReports(ctx, str)
	})
}
