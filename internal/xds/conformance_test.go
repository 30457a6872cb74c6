// The protocol, rule by rule, asked of servers over a real connection: of ours, and of the one that
// go-control-plane brings, whose failures are listed with their reasons.
package xds_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/xds"
)

const (
	delta = "delta"
	sotw  = "sotw"
)

const (
	// patience is how long a rule waits for what must come; nothing waits it out on success.
	patience = 20 * time.Second
	// briefly is the same where the rule is expected to fail.
	briefly = 150 * time.Millisecond
	// quietTime is how long a rule listens for what must not come, beyond a barrier.
	quietTime = 40 * time.Millisecond
)

const fleet = "shop/edge"

// rule is one demand of the protocol, or of what an Envoy makes of it.
type rule struct {
	id        string
	sentence  string
	protocols []string
	obeyed    func(*trial)
}

var both = []string{delta, sotw}

var rules = slices.Concat(requestRules, subscriptionRules, deliveryRules, refusalRules)

// server is one under test.
type server struct {
	name  string
	start func(t testing.TB) running
	// fails lists the rules it does not obey, by id, or "id protocol", with the reason.
	fails map[string]string
}

// running is a server that was started; it ends with its test.
type running struct {
	address string
	conn    *grpc.ClientConn
	// set serves a snapshot to a fleet.
	set func(fleet string, s *snapshot.Snapshot)
	// refusals are those that the server tells of, nil for one that tells of none.
	refusals func() []xds.Nack
}

var servers = []server{
	{"ours", startOurs, oursFails},
	{"stock", startStock, stockFails},
	{"dropin", startStockOverOurs, stockOverOursFails},
}

// oursFails are the rules that our server does not obey.
var oursFails = map[string]string{}

// stockFails are the rules that go-control-plane's server over its own SnapshotCache does not obey.
var stockFails = map[string]string{
	"P1 impostor":        "the newest node is believed",
	"P4":                 "a nonce is compared only while its response is unanswered",
	"P7 older version":   "an answer is told from a refusal by version_info, error_detail is not read",
	"P8 sotw":            "a refusal is answered with the same bytes at once",
	"P9 named":           commitsOnSend,
	"P9 nameless":        commitsOnSend,
	"P9 changed":         commitsOnSend,
	"P10":                "a subscription that changes nothing is not answered",
	"P11 endpoints":      silentOnMissing,
	"P11 routes":         silentOnMissing,
	"P11 layers":         silentOnMissing,
	"P11 routes removed": "what is gone from the snapshot is removed, whatever its type",
	"P16":                forgetsVersions,
	"P17 sotw":           twiceIfWildcard,
	"P18":                phasesByCaller,
	"P19":                noneAfterCluster,
	"P22 thousands":      "types are not counted",
	"P24":                "control_plane is left to the callbacks",
	"P27":                "every method is served to everyone",
}

// stockOverOursFails are those that its server does not obey over our cache.
var stockOverOursFails = func() map[string]string {
	fails := maps.Clone(stockFails)
	delete(fails, "P17 sotw")
	return fails
}()

// Reasons that go-control-plane's handlers and cache have in common with whatever is built on them.
const (
	commitsOnSend    = "versions are committed when they are sent, on SotW a refused version stands for all of its resources"
	silentOnMissing  = "a missing name is met with silence"
	forgetsVersions  = "on a new stream all names count as never returned, whatever version_info says"
	twiceIfWildcard  = "a name asked for beside a wildcard is added a second time"
	phasesByCaller   = "a snapshot is sent as a whole, in no order and without waiting for acknowledgements"
	noneAfterCluster = "load assignments are sent when they change, not when their cluster does"
)

// newCache is the cache that our server is run over.
func newCache() *snapshot.Cache { return snapshot.NewCache(xds.FleetHash{}) }

func startOurs(t testing.TB) running {
	cache := newCache()
	s := xds.NewServer(cache, xds.Options{Identifier: "replica-0", Log: slog.New(slog.DiscardHandler), DrainTime: time.Millisecond})
	lis := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return running{lis.Addr().String(), dial(t, lis), setter(t, cache), s.Registry().Nacks}
}

func startStock(t testing.TB) running {
	return startStockOver(t, cachev3.NewSnapshotCache(false, xds.FleetHash{}, nil))
}

// startStockOverOurs is what somebody gets who puts our cache in place of the library's.
func startStockOverOurs(t testing.TB) running { return startStockOver(t, newCache()) }

func startStockOver(t testing.TB, cache cachev3.SnapshotCache) running {
	ctx, cancel := context.WithCancel(context.Background())
	s := serverv3.NewServer(ctx, cache, nil)
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	clusterservice.RegisterClusterDiscoveryServiceServer(g, s)
	endpointservice.RegisterEndpointDiscoveryServiceServer(g, s)
	listenerservice.RegisterListenerDiscoveryServiceServer(g, s)
	routeservice.RegisterRouteDiscoveryServiceServer(g, s)
	lis := listen(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = g.Serve(lis)
	}()
	t.Cleanup(func() {
		cancel()
		g.Stop()
		<-ended
	})
	return running{lis.Addr().String(), dial(t, lis), setter(t, cache), nil}
}

func setter(t testing.TB, cache cachev3.SnapshotCache) func(string, *snapshot.Snapshot) {
	return func(fleet string, s *snapshot.Snapshot) {
		if err := cache.SetSnapshot(context.Background(), fleet, s); err != nil {
			t.Errorf("SetSnapshot: %v", err)
		}
	}
}

func listen(t testing.TB) net.Listener {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

// dial is the connection that all peers of a server share.
func dial(t testing.TB, lis net.Listener) *grpc.ClientConn {
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// trial is one server put to one rule on one protocol. It gathers failures, for the test to compare
// with what is expected.
type trial struct {
	t testing.TB
	running
	protocol string
	patience time.Duration

	mu       sync.Mutex
	failures []string
}

// gaveUp is what Fatalf panics with.
type gaveUp struct{}

func (r *trial) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

// Fatalf ends the rule. Only the rule's own goroutine may call it.
func (r *trial) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	panic(gaveUp{})
}

func (r *trial) run(obeyed func(*trial)) {
	defer func() {
		if p := recover(); p != nil && p != (gaveUp{}) {
			panic(p)
		}
	}()
	obeyed(r)
}

func TestProtocol(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			for _, c := range rules {
				for _, protocol := range c.protocols {
					t.Run(c.id+" "+protocol, func(t *testing.T) {
						t.Parallel()
						s.put(t, c, protocol)
					})
				}
			}
		})
	}
}

// failing is the reason why the server is listed to fail a rule on a protocol.
func (s server) failing(id, protocol string) (reason string, listed bool) {
	if reason, listed = s.fails[id+" "+protocol]; !listed {
		reason, listed = s.fails[id]
	}
	return reason, listed
}

// put puts the server to a rule. One that it is listed to fail and obeys is to be taken off the list.
func (s server) put(t *testing.T, c rule, protocol string) {
	reason, listed := s.failing(c.id, protocol)
	r := &trial{t: t, running: s.start(t), protocol: protocol, patience: patience}
	if listed {
		r.patience = briefly
	}
	r.run(c.obeyed)
	switch {
	case !listed && len(r.failures) > 0:
		t.Errorf("%s: %s\n\t%s", c.id, c.sentence, strings.Join(r.failures, "\n\t"))
	case listed && len(r.failures) == 0:
		t.Errorf("%s: %s: obeyed, though listed as failing (%s): remove it from the list", c.id, c.sentence, reason)
	case listed:
		t.Logf("fails as listed (%s): %s", reason, r.failures[0])
	}
}

// TestListedFailuresAreRules keeps the lists free of what no rule is called any more.
func TestListedFailuresAreRules(t *testing.T) {
	known := map[string]bool{}
	for _, c := range rules {
		if known[c.id] {
			t.Errorf("two rules are called %s", c.id)
		}
		known[c.id] = true
		for _, protocol := range c.protocols {
			known[c.id+" "+protocol] = true
		}
	}
	for _, s := range servers {
		for id, reason := range s.fails {
			if !known[id] || reason == "" {
				t.Errorf("%s: %q (%q) is no rule, or has no reason", s.name, id, reason)
			}
		}
	}
}
