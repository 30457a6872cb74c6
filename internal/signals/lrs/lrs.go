// Package lrs takes Envoy's load reports: of every endpoint how many requests succeeded, failed, were
// issued and are in service, as those saw it that sent them. What an endpoint says of itself can be held
// against it.
//
// An Envoy opens one stream, introduces itself, and reports once per interval what it is asked for:
// stream.go asks, wire.go decodes no more of a report than is needed, reporter.go decides what of it
// counts, others.go takes to the replica that leads what others were told. The Manager (manager.go) adds up the last reports of all Envoys to one value per endpoint, once
// per interval and Service, at the Service's turn.
//
// A report is a claim. It counts only from a node that has an ADS stream in the fleet that it names, and
// only of Services that this fleet is served. All else is counted and dropped. The gRPC server, its bounds
// and its authentication are those of package xds; what a report means for a weight is decided in package
// weights.
package lrs

import (
	"iter"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Spec is one Service whose load is reported.
type Spec struct {
	// Service is the cluster name, "<namespace>/<service>:<port>".
	Service string
	// Fleets that are served it: "<namespace>/<gateway>", or "eds:<namespace>".
	Fleets []string
	// Endpoints are addresses, "<ip>:<port>", IPv6 in brackets.
	Endpoints []string
}

// Options of a Manager. Connected and Subscribers are needed; they are called from the goroutines of
// streams and must be safe for concurrent use. Every other field has a default.
type Options struct {
	// Interval between two reports, 5 s by default, 1 s at least. An Envoy repeats its node in each,
	// 61 KB.
	Interval time.Duration
	// Connected says whether a node of that id has an ADS stream in the fleet.
	Connected func(id, fleet string) bool
	// Subscribers are the nodes, id and fleet, that subscribe to the endpoints of a Service; a node with
	// two streams is there twice.
	Subscribers func(service string) iter.Seq2[string, string]
	// Leads says whether this replica of the control plane makes readings; where it does not, its reports are
	// for the one that does (TakeSummaries). Nil: it does, and is the only one.
	Leads func() bool
	// Elsewhere counts the nodes of these fleets that take endpoints from other replicas, by the name of the
	// replica. Nil: there are no others.
	Elsewhere func(fleets []string) map[string]int
	// MaxValues bounds what is remembered over all nodes, in values of one node about one endpoint, 24
	// bytes each: 4 million by default. A report that goes past it does not count.
	MaxValues int
	// Registerer gets the metrics evenkeel_load_report*; nil registers none.
	Registerer prometheus.Registerer
	// Logger gets which nodes report and which do not, slog.Default() if nil.
	Logger *slog.Logger
}

// The bounds of Options.Interval.
const (
	DefaultInterval = 5 * time.Second
	MinInterval     = time.Second
)

const (
	defaultMaxValues = 4_000_000
	// freshFor is for how many intervals a node's last report counts: one may be lost.
	freshFor = 2.5
)
