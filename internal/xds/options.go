package xds

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// maxRetry is the longest back-off between two attempts at a refused version.
const maxRetry = 10 * time.Minute

// Options of a Server. The zero value serves plaintext with the default bounds and keeps its metrics
// to itself.
type Options struct {
	// Identifier names the replica. "<Identifier>/<generation>", or the Identifier where there are no
	// generations, is the control_plane.identifier of every response, so that a node's own config dump
	// says whom it listens to and how far it is.
	Identifier string

	// Auth lets clients in, and says which fleets each may see; nil is plaintext and every fleet for
	// everybody, for loopback only.
	Auth *auth.Gate

	// HasFleet says whether a Gateway (or, for "eds:<namespace>", a namespace) of that name exists.
	// Nil asks the cache whether it holds a snapshot of that name. Called from the goroutines of
	// streams: it must be safe for concurrent use and must not wait.
	HasFleet func(fleet string) bool

	// Lookup names the object that a resource was made from, "HTTPRoute shop/web". Nil knows none.
	// Called as HasFleet is.
	Lookup func(fleet string, t translate.Type, name string) (source string, ok bool)

	// LoadReports serves load report streams; nil holds them in silence.
	LoadReports LoadReports

	// Elsewhere is how many nodes of a fleet are connected to other replicas, if so many are connected to this
	// one; nil knows of none. Called as HasFleet is.
	Elsewhere func(fleet string, here int) int

	// Judges says whether this replica finds out whose fault a refusal is; nil: it does. Where it does not, the
	// leader does (Registry.Votes, Rule). Voters names the replicas that have nodes of a fleet and vote
	// (Registry.HearVotes); nil: this is the only replica. Called as HasFleet is.
	Judges func() bool
	Voters func(fleet string) []string

	// Register adds services of others to the port; nil adds none.
	Register func(grpc.ServiceRegistrar)

	// Log of connections, refusals and panics; nil is slog.Default().
	Log *slog.Logger

	// Metrics registers evenkeel_xds_*; nil keeps them unregistered.
	Metrics prometheus.Registerer

	// MaxStreams bounds the ADS streams, and separately the load report streams, of the server; one
	// more is refused with ResourceExhausted. Default 10,000.
	MaxStreams int

	// MaxNodeStreams bounds the ADS streams of one node; one more is refused with ResourceExhausted. A node
	// that comes back before its old stream is known to be dead has two; a gRPC client, which has one for
	// each name that it dials, may have 16 times as many. Default 4.
	MaxNodeStreams int

	// MaxIdentityStreams bounds the ADS streams, and separately the load report streams, of one client
	// identity, which all Envoys of a fleet may share; one more is refused with ResourceExhausted. It has no
	// say in plaintext, where nobody has an identity. Default half of MaxStreams, so that no identity can
	// keep all others out.
	MaxIdentityStreams int

	// StreamsPerSecond bounds how many streams are taken in a second, and in a burst; others are refused
	// with Unavailable, and come back after a while. Default 1000.
	StreamsPerSecond int

	// MaxNames bounds the names of one subscription; a stream that goes past it is closed with
	// ResourceExhausted. Default 20,000.
	MaxNames int

	// Wait is how long listeners and routes wait for a client to acknowledge the clusters that they may
	// name, and clusters that leave for the routes. Default 5 s.
	Wait time.Duration

	// Retry is after what time a refused version is sent again, twice that each time it is refused again,
	// up to ten minutes. Default 30 s.
	Retry time.Duration

	// AnswerTime is how long a client may take to answer a response; its stream is closed with
	// DeadlineExceeded. Default one minute.
	AnswerTime time.Duration

	// DrainTime is how long Serve takes at most to end its streams once its context is done. Default 5 s.
	DrainTime time.Duration
}

// LoadReports is what load reports are for.
type LoadReports interface {
	// ServeLoadReports serves one stream until its client or ctx ends it. Whether the client may report for
	// the fleet that it names is asked of authorize, whose error ends the stream. Messages for RecvMsg may decode
	// themselves (selfDecoding in codec.go). It runs in the stream's own goroutine; a panic there ends
	// the stream and nothing else.
	ServeLoadReports(ctx context.Context, stream grpc.ServerStream, authorize func(fleet string) error) error
}

// silence is LoadReports that asks for none: an accepted stream keeps an Envoy whose bootstrap names a
// load report server from trying again and again.
type silence struct{}

func (silence) ServeLoadReports(_ context.Context, stream grpc.ServerStream, _ func(string) error) error {
	for {
		if err := stream.RecvMsg(&loadv3.LoadStatsRequest{}); err != nil {
			return err
		}
	}
}

func (o Options) withDefaults(cache *snapshot.Cache) Options {
	if o.HasFleet == nil {
		o.HasFleet = func(fleet string) bool {
			return cache.Current(fleet) != nil
		}
	}
	if o.Lookup == nil {
		o.Lookup = func(string, translate.Type, string) (string, bool) { return "", false }
	}
	if o.Elsewhere == nil {
		o.Elsewhere = func(string, int) int { return 0 }
	}
	if o.Judges == nil {
		o.Judges = func() bool { return true }
	}
	if o.LoadReports == nil {
		o.LoadReports = silence{}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.MaxStreams = cmp.Or(o.MaxStreams, 10_000)
	o.MaxNodeStreams = cmp.Or(o.MaxNodeStreams, 4)
	o.MaxIdentityStreams = cmp.Or(o.MaxIdentityStreams, max(1, o.MaxStreams/2))
	o.StreamsPerSecond = cmp.Or(o.StreamsPerSecond, 1000)
	o.MaxNames = cmp.Or(o.MaxNames, 20_000)
	o.Wait = cmp.Or(o.Wait, 5*time.Second)
	o.Retry = cmp.Or(o.Retry, 30*time.Second)
	o.AnswerTime = cmp.Or(o.AnswerTime, time.Minute)
	o.DrainTime = cmp.Or(o.DrainTime, 5*time.Second)
	return o
}
