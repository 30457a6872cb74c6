// Package promapi asks Prometheus servers what endpoints did, where a server scrapes them already. Any
// server with the query API of Prometheus will do: Thanos, Mimir, VictoriaMetrics.
//
// Per Service and term of a Reading there is one query, sent once per interval. The queries of a
// Service are evaluated at the same instant and make one Reading per endpoint: query.go writes them,
// client.go asks within bounds, match.go says which endpoint a result is about, reading.go joins the
// terms. The Manager (manager.go) says when: Services are spread over the interval by a hash of their
// name, and what one server may be asked at once is bounded, so that a server that hangs delays no
// other. A query that fails leaves its term out, an endpoint without new readings becomes stale, and
// nothing else happens to it here.
//
// What a reading means for a weight is decided in package weights. Which server is asked, and for what,
// the policy says; where it is, the operator.
package promapi

import (
	"context"
	"log/slog"
	"net"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// Spec is one Service: which server to ask, for what, about whom.
type Spec struct {
	// Service is the cluster name, "<namespace>/<service>:<port>".
	Service string
	// Prometheus is complete (api defaults are filled).
	Prometheus v1alpha1.Prometheus
	// Window that a reading covers at least; half an interval is added, so that two of the server's
	// scrapes are inside however late one of them was.
	Window    time.Duration
	Endpoints []Endpoint
}

// Endpoint is an endpoint as results are matched to it.
type Endpoint struct {
	Address string // "<ip>:<port>", IPv6 in brackets
	Pod     string // "<namespace>/<name>", "" if none
	// Instance as the catalog knows it, "" if it does not.
	Instance string
	// CPULimit in cores; 0: an exported GOMAXPROCS if there is one, else no CPU term. A query that the
	// policy gives for the CPU is of the limit already.
	CPULimit float64
}

// Options of a Manager. Every field but Servers has a default.
type Options struct {
	// Servers are the base URLs by the names that policies use. A user and password in one are sent as
	// basic authentication and shown nowhere.
	Servers map[string]*url.URL
	// Slots is how many queries one server may be asked at once, 8 by default; Prometheus itself
	// evaluates 20 at a time. A query that gets no slot within its time has failed.
	Slots int
	// MaxBody is the size in bytes of the largest answer that is read, after decompression, 4 MiB by
	// default. A larger one is a failed query.
	MaxBody int64
	// MaxResults is how many results an answer may have, 10,000 by default. One with more is a failed
	// query.
	MaxResults int
	// Dial opens connections in place of a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Registerer gets the metrics evenkeel_prometheus_*; nil registers none.
	Registerer prometheus.Registerer
	// Logger gets what no query's own error can say, slog.Default() if nil.
	Logger *slog.Logger
}

const (
	defaultSlots      = 8
	defaultMaxBody    = 4 << 20
	defaultMaxResults = 10_000
	// longestTimeout of a query; half an interval where that is shorter.
	longestTimeout = 10 * time.Second
)
