package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/weights"
	"evenkeel.io/controlplane/internal/xds"
)

// hostile is what a name or a message may hold at worst.
const hostile = `<script>alert("1")</script> & '` + "\x1b[31m"

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// world is a Model, Proxies, Targets and Actions made by hand: a fleet with a policy-balanced Service
// of three endpoints (busy, idle, silent) and one of equal endpoints; two proxies, one of them refusing.
type world struct {
	notReady    error
	store       *source.Store
	catalog     *catalog.Catalog
	decisions   map[string]weights.Decisions
	readings    map[signals.Key]signals.Reading
	generations []snapshot.Generation
	pushes      map[string][]snapshot.Push
	proxies     []xds.Proxy
	nacks       []xds.Nack
	targets     []signals.Target

	pin      *snapshot.Pin // of shop/edge
	lastGood time.Time

	reference *snapshot.Snapshot // of reference rate limit services

	actions []string // taken, in order
	refuse  error    // answer of the actions
}

func (w *world) Ready() error              { return w.notReady }
func (w *world) Store() *source.Store      { return w.store }
func (w *world) Catalog() *catalog.Catalog { return w.catalog }
func (w *world) Decisions(s string) (weights.Decisions, bool) {
	d, ok := w.decisions[s]
	return d, ok
}
func (w *world) Reading(k signals.Key) (signals.Reading, bool) {
	r, ok := w.readings[k]
	return r, ok
}
func (w *world) Fleets() []string {
	if w.catalog == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(w.catalog.Fleets))
}
func (w *world) Snapshot(fleet string) (*snapshot.Snapshot, uint64, bool) {
	if fleet == translate.RLSFleet {
		return w.reference, 0, w.reference != nil
	}
	if fleet != "shop/edge" || len(w.generations) == 0 {
		return nil, 0, false
	}
	served := w.generations[len(w.generations)-1]
	if w.pin != nil {
		served = w.generations[0]
	}
	return served.Snapshot, served.Number, true
}
func (w *world) Generations(fleet string) []snapshot.Generation {
	if fleet != "shop/edge" {
		return nil
	}
	return w.generations
}
func (w *world) Pushes(s string) []snapshot.Push { return w.pushes[s] }
func (w *world) Refusals() []*snapshot.Refusal   { return nil }
func (w *world) Proxies() []xds.Proxy            { return w.proxies }
func (w *world) Nacks() []xds.Nack               { return w.nacks }
func (w *world) Targets() []signals.Target       { return w.targets }
func (w *world) LastKnownGood() time.Time        { return w.lastGood }
func (w *world) Pin(fleet string) *snapshot.Pin {
	if fleet != "shop/edge" {
		return nil
	}
	return w.pin
}
func (w *world) Rollback(_ context.Context, by, fleet string, generation uint64) (snapshot.Pin, error) {
	w.actions = append(w.actions, fmt.Sprint("rollback ", fleet, " ", generation, " by ", by))
	return snapshot.Pin{Number: generation, Objects: []string{"HTTPRoute shop/web", "Service shop/new"}, Gone: []string{"shop/old:1"}}, w.refuse
}
func (w *world) Unpin(_ context.Context, by, fleet string) error {
	w.actions = append(w.actions, "unpin "+fleet+" by "+by)
	return w.refuse
}
func (w *world) Freeze(_ context.Context, _, s string) error {
	w.actions = append(w.actions, "freeze "+s)
	return w.refuse
}
func (w *world) Unfreeze(_ context.Context, _, s string) error {
	w.actions = append(w.actions, "unfreeze "+s)
	return w.refuse
}
func (w *world) Accept(_ context.Context, _, s string) error {
	w.actions = append(w.actions, "accept "+s)
	return w.refuse
}

func (w *world) options() Options {
	return Options{
		Model: func() Model { return w }, Proxies: w, Targets: []Targets{w}, Actions: w, Metrics: prometheus.NewRegistry(),
		AllowedHosts: []string{"evenkeel.example"}, Now: func() time.Time { return now }, Version: "v1.2.3",
	}
}

func (w *world) handler() http.Handler { return New(w.options()) }

// empty is a control plane that has read nothing yet.
func empty() *world {
	return &world{notReady: errors.New("waiting for the first complete set of objects")}
}

func cluster(name string, timeout time.Duration) *snapshot.Resource {
	message := &clusterv3.Cluster{Name: name, ConnectTimeout: durationpb.New(timeout)}
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		panic(err)
	}
	return &snapshot.Resource{
		Type: translate.CDS, Name: name, Version: "cafe" + timeout.String(), Bytes: bytes,
		Refs: map[translate.Type][]string{translate.EDS: {name}}, Source: "Service shop/cart",
	}
}

func small() *world {
	gateway := source.Ref{Kind: source.KindGateway, Namespace: "shop", Name: "edge"}
	cartRef := source.Ref{Kind: source.KindService, Namespace: "shop", Name: "cart"}
	plainRef := source.Ref{Kind: source.KindService, Namespace: "shop", Name: "plain"}
	routeRef := source.Ref{Kind: source.KindHTTPRoute, Namespace: "shop", Name: "web"}
	policyRef := source.Ref{Kind: source.KindBalancePolicy, Namespace: "shop", Name: "cart"}
	mode, strategy := v1alpha1.ModeEnforce, v1alpha1.StrategyCapacity
	const cart = "shop/cart:8080"
	key := func(address string) signals.Key { return signals.Key{Service: cart, Address: address} }
	accepted := catalog.Condition{OK: true, Reason: "Accepted", Message: "accepted"}
	resolved := catalog.Condition{OK: true, Reason: "ResolvedRefs", Message: "all references resolve"}
	all := signals.TermRequests | signals.TermErrors | signals.TermCPU | signals.TermInFlight | signals.TermLatency

	refusal := xds.Nack{
		At: now.Add(-30 * time.Second), Node: "envoy-2", Fleet: "shop/edge", Type: translate.RDS, Nonce: "7", Version: "badbad",
		Message: "route: unknown cluster " + hostile, Resource: "shop/edge/80", Source: routeRef.String(),
		Instead: "the version it acknowledged last", Count: 3,
	}
	synced := func(ago time.Duration) xds.TypeState {
		return xds.TypeState{State: xds.Synced, Version: "beef", SentVersion: "beef", SentAt: now.Add(-ago), AckedAt: now.Add(-ago), Sent: 4, Acked: 4}
	}
	return &world{
		store: &source.Store{
			Origins: map[source.Ref]*source.Origin{
				gateway: {File: "gateway.yaml", Line: 1}, cartRef: {File: "cart.yaml", Line: 1}, plainRef: {File: "plain.yaml", Line: 1},
				routeRef:  {File: "route.yaml", Line: 1, Fields: map[string]int{"spec.rules[1]": 14}},
				policyRef: {File: "cart.yaml", Line: 20},
			},
			Problems: []source.Problem{
				{File: "cart.yaml", Line: 27, Object: policyRef, Field: "spec.publish.intervall", Message: `unknown field, did you mean "interval"?`, Kept: "the version before stays in force"},
				{File: "broken<b>.yaml", Line: 3, Message: "could not find expected ':' " + hostile, Kept: "nothing: it was never accepted"},
			},
		},
		catalog: &catalog.Catalog{
			Fleets: map[string]*catalog.Fleet{"shop/edge": {Name: "shop/edge", Object: gateway, Services: []string{cart}}},
			Services: map[string]*catalog.Service{
				cart: {
					Name: cart, Namespace: "shop", Object: cartRef, HasPolicy: true, Policies: []source.Ref{policyRef},
					Policy: v1alpha1.BalancePolicySpec{Mode: &mode, Strategy: &strategy},
					Endpoints: []catalog.Endpoint{
						{Address: "10.0.0.7:8080", Zone: "a", Pod: "shop/cart-7", Base: 1, Multiplier: 1},
						{Address: "10.0.0.8:8080", Zone: "b", Pod: "shop/cart-8", Base: 1, Multiplier: 1},
						{Address: "10.0.0.9:8080", Zone: "b", Pod: "shop/cart-9", Base: 1, Multiplier: 1},
					},
				},
				"shop/plain:80": {
					Name: "shop/plain:80", Namespace: "shop", Object: plainRef,
					Endpoints: []catalog.Endpoint{{Address: "10.0.1.1:80"}, {Address: "10.0.1.2:80"}},
				},
			},
			Verdicts: []catalog.Verdict{
				{Object: policyRef, Parent: cartRef, Accepted: accepted, ResolvedRefs: resolved},
				{Object: gateway, Accepted: accepted, ResolvedRefs: resolved},
				{Object: routeRef, Parent: gateway, Accepted: accepted,
					ResolvedRefs: catalog.Condition{Reason: "BackendNotFound", Field: "spec.rules[1].backendRefs[0]", Message: "there is no Service shop/gone"}},
				{Object: cartRef, Accepted: accepted, ResolvedRefs: resolved},
				{Object: plainRef, Accepted: accepted, ResolvedRefs: resolved},
			},
		},
		decisions: map[string]weights.Decisions{cart: {
			Service: cart, At: now.Add(-2 * time.Second),
			Strain: "answers take 2 times as long", Shed: 0.15, Shedding: "shedding 15% of the requests " + hostile,
			Endpoints: []weights.Decision{
				{Key: key("10.0.0.7:8080"), State: weights.Serving, Weight: 500, Computed: 0.5, HealthScore: 0.95, QPSDecayFactor: 0.8, Reasons: []weights.Reason{
					{Term: "base", Value: 1, Factor: 1, Text: "every endpoint of the Service is taken to be worth the same"},
					{Term: "capacity", Value: 78.8, Unit: "requests/s", Factor: 0.5, Text: "41 requests/s at 52 % of the CPU limit " + hostile},
				}},
				{Key: key("10.0.0.8:8080"), State: weights.Warming, Weight: 1000, Computed: 1, HealthScore: 1, QPSDecayFactor: 1},
				{Key: key("10.0.0.9:8080"), State: weights.NoSignal, Weight: 500, Computed: 0.5, HealthScore: 1, QPSDecayFactor: 1},
			},
		}},
		readings: map[signals.Key]signals.Reading{
			key("10.0.0.7:8080"): {Endpoint: key("10.0.0.7:8080"), From: now.Add(-11 * time.Second), To: now.Add(-1 * time.Second), SourceInterval: 2 * time.Second,
				Terms: all, Done: 400, Failed: 10, CPU: 0.52, InFlight: 2, P50: 18 * time.Millisecond, P90: 40123 * time.Microsecond,
				Reported: signals.Reported{From: now.Add(-8 * time.Second), To: now.Add(-3 * time.Second), SourceInterval: 5 * time.Second,
					All: true, Done: 180, Failed: 20, Issued: 201, InFlight: 3, Claim: 1.1}},
			key("10.0.0.8:8080"): {Endpoint: key("10.0.0.8:8080"), From: now.Add(-11 * time.Second), To: now.Add(-1 * time.Second), SourceInterval: 2 * time.Second,
				Terms: signals.TermCPU, CPU: 0.26},
			key("10.0.0.9:8080"): {Endpoint: key("10.0.0.9:8080"), From: now.Add(-70 * time.Second), To: now.Add(-60 * time.Second), SourceInterval: 2 * time.Second,
				Terms: signals.TermCPU | signals.TermRequests, CPU: 0.9, Done: 100},
		},
		generations: []snapshot.Generation{
			{Number: 6, At: now.Add(-time.Hour), Why: "First sync", Snapshot: snapshot.New(cluster(cart, time.Second), cluster("shop/old:1", time.Second))},
			{Number: 7, At: now.Add(-time.Minute), Why: "HTTPRoute shop/web changed (File edit)", By: "file route.yaml", Snapshot: snapshot.New(cluster(cart, 2*time.Second), cluster("shop/new:1", time.Second))},
		},
		pushes: map[string][]snapshot.Push{cart: {
			{At: now.Add(-50 * time.Second), Why: "First sync", Weights: []snapshot.EndpointWeight{{Address: "10.0.0.6:8080", Weight: 700}, {Address: "10.0.0.7:8080", Weight: 1000}, {Address: "10.0.0.8:8080", Weight: 1000}}},
			{At: now.Add(-20 * time.Second), Why: "urgent: 10.0.0.7:8080 -50%", Weights: []snapshot.EndpointWeight{{Address: "10.0.0.7:8080", Weight: 500}, {Address: "10.0.0.8:8080", Weight: 1000}, {Address: "10.0.0.9:8080", Weight: 500}}},
		}},
		proxies: []xds.Proxy{
			{Node: "envoy-2", Fleet: "shop/edge", Build: "1.40.0", Agent: "envoy", Zone: "b", Protocol: "sotw", ConnectedAt: now.Add(-time.Minute),
				Types: map[translate.Type]xds.TypeState{
					translate.CDS: synced(time.Minute), translate.LDS: {State: xds.Pending, Version: "beef", SentVersion: "feed", SentAt: now.Add(-1500 * time.Millisecond), Sent: 5, Acked: 4},
					translate.RDS: {State: xds.Nacked, Version: "beef", SentVersion: "badbad", SentAt: now.Add(-30 * time.Second), Sent: 5, Acked: 2, Nacked: 3},
				}, LastNack: &refusal},
			{Node: "envoy-1", Fleet: "shop/edge", Identity: "spiffe://cluster.local/fleet/shop/edge", Build: "1.40.0", Agent: "envoy", Zone: "a", Workers: 4, Protocol: "delta", ConnectedAt: now.Add(-2 * time.Hour),
				Types: map[translate.Type]xds.TypeState{
					translate.CDS: synced(time.Minute), translate.EDS: synced(time.Second), translate.LDS: synced(time.Hour),
					translate.RDS: synced(time.Hour), translate.ECDS: {State: xds.NotSubscribed},
				}},
			{Node: "lost", Fleet: "shop/nowhere", Build: "1.39.1", Agent: "envoy", Protocol: "delta", ConnectedAt: now.Add(-time.Second),
				Types: map[translate.Type]xds.TypeState{translate.CDS: {State: xds.NoFleet}}},
		},
		nacks: []xds.Nack{{At: now.Add(-time.Hour), Node: "envoy-1", Fleet: "shop/edge", Type: translate.CDS, Nonce: "1", Version: "0dd", Message: "no", Count: 1}, refusal},
		targets: []signals.Target{
			{URL: "http://10.0.0.7:9090/metrics", Owner: "shop/cart-7", Services: []string{cart}, Health: signals.Up, LastScrape: now.Add(-time.Second), LastDuration: 3210 * time.Microsecond, Samples: 40},
			{URL: "http://10.0.0.9:9090/metrics", Owner: "shop/cart-9", Services: []string{cart}, Health: signals.Down, LastScrape: now.Add(-2 * time.Second), LastDuration: time.Second, LastError: "timed out after 1s"},
			{URL: "http://10.0.0.8:9090/metrics", Owner: "shop/cart-8", Services: []string{cart}, Health: signals.Up, LastScrape: now.Add(-time.Second), LastDuration: time.Millisecond, Missing: []string{"latency", "inFlight"}, Samples: 2},
			{URL: "http://prometheus:9090", Query: `sum by (pod) (rate(x{a="<b>"}[30s]))`, Owner: cart + " requests", Services: []string{cart}, Health: signals.Up, LastScrape: now.Add(-5 * time.Second), LastDuration: 4 * time.Millisecond, Missing: []string{"requests of 1 of 3 endpoints"}, Rejected: []string{"requests: infinite or negative"}, Samples: 2},
		},
	}
}
