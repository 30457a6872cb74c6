package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"

	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// limit is a LimitPolicy on the route of a service, with one limit.
func limit(service, spec string) string {
	return strings.NewReplacer("NAME", service, "SPEC", spec).Replace(`apiVersion: evenkeel.io/v1alpha1
kind: LimitPolicy
metadata: {name: NAME, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: NAME}]
  limits: [{name: all, SPEC}]
`)
}

func perTenant(requests int) string {
	return fmt.Sprintf("key: [header:X-Tenant], rate: {requests: %d, per: 1h}", requests)
}

func perUser(requests int) string {
	return fmt.Sprintf("key: [header:X-User], rate: {requests: %d, per: 1h}", requests)
}

// counter is a Limiter that has what it was told last.
type counter struct {
	mu         sync.Mutex
	rules, old map[string]string // by fleet
	factors    map[string]map[string]float64
}

func newCounter() *counter { return &counter{rules: map[string]string{}, old: map[string]string{}} }

func (c *counter) Configure(fleet string, rules, old []*rlsconfig.Rule) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules[fleet], c.old[fleet] = text(rules), text(old)
}

func (c *counter) SetFactors(factors map[string]map[string]float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.factors = factors
}

// has is what the service knows of a fleet, the old rules after a bar.
func (c *counter) has(fleet string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules[fleet] + "|" + c.old[fleet]
}

// text is the key and the bound of each rule.
func text(rules []*rlsconfig.Rule) string {
	var all []string
	for _, r := range rules {
		all = append(all, fmt.Sprint(strings.Join(r.Limit.Key, "+"), "=", r.Limit.Rate.Requests))
	}
	return strings.Join(all, " ")
}

// here is where Envoys are to ask.
const here = "10.0.0.9:18081"

// limitedBy is a core that configures a service.
func limitedBy(l Limits, restored lastgood.State) *core {
	return newCore(Options{Catalog: catalog.Options{AllowLoopback: true}, Log: slog.New(slog.DiscardHandler), Limits: l}, newMetrics(nil), restored)
}

// handOut is what the cache is given, by key, and their order.
func (c *core) handOut(now time.Time) (snapshots map[string]*snapshot.Snapshot, order []string) {
	snapshots = map[string]*snapshot.Snapshot{}
	for _, o := range c.takeLimits(now, c.takeOutgoing()) {
		snapshots[o.key] = o.snapshot
		order = append(order, o.key)
	}
	return snapshots, order
}

// watchedCache has a look at what it is given before it is served.
type watchedCache struct {
	cachev3.SnapshotCache
	before func(key string, s *snapshot.Snapshot)
}

func (c watchedCache) SetSnapshot(ctx context.Context, key string, s cachev3.ResourceSnapshot) error {
	c.before(key, s.(*snapshot.Snapshot))
	return c.SnapshotCache.SetSnapshot(ctx, key, s)
}

// TestOldAndNewRulesHoldWhileEnvoysChange: the service knows the rules of what is served before anybody is served it,
// and those of before until every Envoy has acknowledged, or for 30 s.
func TestOldAndNewRulesHoldWhileEnvoysChange(t *testing.T) {
	with := func(spec string) *source.Store { return store(t, gateway, shop("cart", 1), limit("cart", spec)) }
	tenant10, tenant20, user20, user30, user40 := with(perTenant(10)), with(perTenant(20)), with(perUser(20)), with(perUser(30)), with(perUser(40))
	ip := with("key: [ip], rate: {requests: 5, per: 1h}")
	synctest.Test(t, func(t *testing.T) {
		limiter := newCounter()
		var mu sync.Mutex
		var served *snapshot.Snapshot // what Envoys are given
		var acked *snapshot.Snapshot  // what the Envoy of the fleet has acknowledged
		cache := watchedCache{snapshot.NewCache(xds.FleetHash{}), func(key string, s *snapshot.Snapshot) {
			mu.Lock()
			defer mu.Unlock()
			if key != edge {
				return
			}
			if has, _, _ := strings.Cut(limiter.has(edge), "|"); has != text(s.Get(translate.Limits, edge).Rules()) {
				t.Errorf("a snapshot is handed out with the rules %s, the service has %s", text(s.Get(translate.Limits, edge).Rules()), has)
			}
			served = s
		}}
		proxies := func() []xds.Proxy {
			mu.Lock()
			defer mu.Unlock()
			of := map[translate.Type]xds.TypeState{translate.LDS: {State: xds.NotSubscribed}}
			for _, kind := range []translate.Type{translate.CDS, translate.RDS, translate.ECDS} {
				of[kind] = xds.TypeState{State: xds.Synced, Version: acked.Version(kind)}
			}
			other := map[translate.Type]xds.TypeState{translate.RDS: {State: xds.Pending}}
			return []xds.Proxy{{Node: "a", Fleet: edge, Types: of}, {Node: "b", Fleet: "shop/other", Types: other}}
		}
		acknowledge := func() {
			mu.Lock()
			acked = served
			mu.Unlock()
		}
		s := script{updates: make(chan source.Update), fail: make(chan error)}
		p := New(Options{
			Source: s, Collectors: []Collector{silent}, Cache: cache, Limits: Limits{Service: limiter, Address: here, Proxies: proxies},
			Catalog: catalog.Options{AllowLoopback: true}, Log: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		defer func() { cancel(); <-done }()
		apply := func(objects *source.Store) {
			s.updates <- source.Update{Store: objects}
			time.Sleep(Tick / 2) // the quiet window ends; ticks are at whole numbers of Tick
			synctest.Wait()
		}
		expect := func(why, want string) {
			t.Helper()
			synctest.Wait()
			if got := limiter.has(edge); got != want {
				t.Errorf("%s: the service has %s, want %s", why, got, want)
			}
			if changing := p.View().Limits(edge).Changing; changing != !strings.HasSuffix(want, "|") {
				t.Errorf("%s: changing is shown as %v", why, changing)
			}
		}

		apply(tenant10)
		expect("from the start", "header:X-Tenant=10|")
		acknowledge()
		apply(tenant20)
		expect("a bound that Envoys are not told", "header:X-Tenant=20|")
		apply(user20)
		expect("another key", "header:X-User=20|header:X-Tenant=20")
		time.Sleep(5 * Tick)
		expect("no Envoy has it yet", "header:X-User=20|header:X-Tenant=20")
		apply(user30)
		expect("a bound, while Envoys change", "header:X-User=30|header:X-Tenant=20")
		acknowledge()
		time.Sleep(Tick)
		expect("all Envoys have it", "header:X-User=30|")
		apply(user40)
		expect("Envoys are told nothing", "header:X-User=40|")

		apply(ip)
		time.Sleep(contractAfter - Tick)
		expect("an Envoy that does not acknowledge, before its time is over", "ip=5|header:X-User=40")
		time.Sleep(2 * Tick)
		expect("an Envoy that never acknowledges", "ip=5|")
		acknowledge()
		apply(store(t, gateway, shop("cart", 1)))
		expect("the limit is gone", "|ip=5")
		acknowledge()
		time.Sleep(Tick)
		expect("nobody asks any more", "|")
	})
}

const ratelimit = `apiVersion: v1
kind: Service
metadata: {name: ratelimit, namespace: infra}
spec: {ports: [{name: grpc, port: 8081}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ratelimit-1, namespace: infra, labels: {kubernetes.io/service-name: ratelimit}}
addressType: IPv4
ports: [{name: grpc, port: 8081}]
endpoints: [{addresses: [10.9.0.1]}, {addresses: [10.9.0.2]}]
`

// TestReferenceServicesAreServedAllFleets: in one snapshot, before the Envoys, with factors; nothing before the
// fleets are known, and what is known when they are known.
func TestReferenceServicesAreServedAllFleets(t *testing.T) {
	second := strings.Replace(gateway, "metadata: {name: edge,", "metadata: {name: back,", 1)
	second = second[strings.Index(second, "---\n")+4:]
	pay := strings.Replace(shop("pay", 2), "parentRefs: [{name: edge}]", "parentRefs: [{name: back}]", 1)
	bare := []string{gateway, second, shop("cart", 1), pay, ratelimit}
	both := append(slices.Clone(bare), limit("cart", "rate: {requests: 100, per: 1s}"), limit("pay", "rate: {requests: 7, per: 1s}"))
	limits := Limits{Reference: "infra/ratelimit:8081"}

	c := limitedBy(limits, lastgood.State{Factors: map[string]map[string]adapt.Factor{edge: {"shop/cart/all": {Value: 0.5}}}})
	c.overdue()
	if _, order := c.handOut(start); len(order) > 0 {
		t.Errorf("%v is handed out before anything is known", order)
	}
	c.rebuild(start, source.Update{Store: store(t, both...)})
	snapshots, order := c.handOut(start)
	if len(order) == 0 || order[0] != translate.RLSFleet {
		t.Fatalf("handed out in the order %v, want the limits first", order)
	}
	bounds := func(s *snapshot.Snapshot) string {
		t.Helper()
		var all []string
		for _, name := range slices.Sorted(maps.Keys(s.Resources(translate.RLS))) {
			body, err := s.Get(translate.RLS, name).JSON()
			if err != nil {
				t.Fatal(err)
			}
			_, after, _ := strings.Cut(strings.ReplaceAll(string(body), " ", ""), `"requests_per_unit":`)
			n := strings.IndexAny(after, ",}")
			all = append(all, name+"="+strings.TrimSpace(after[:max(0, n)]))
		}
		return strings.Join(all, " ")
	}
	if got := bounds(snapshots[translate.RLSFleet]); got != "shop/back=7 shop/edge=50" {
		t.Errorf("served %s, want both fleets, one with its factor", got)
	}
	v := c.view(nil)
	if shown, _, ok := v.Snapshot(translate.RLSFleet); !ok || shown != snapshots[translate.RLSFleet] || slices.Contains(v.Fleets(), translate.RLSFleet) {
		t.Errorf("shown as %v, among the fleets %v", shown, v.Fleets())
	}
	var addresses []string
	assignment := snapshots[edge].Get(translate.EDS, translate.RLSCluster).Message().(*endpointv3.ClusterLoadAssignment)
	for _, l := range assignment.GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			addresses = append(addresses, e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
		}
	}
	if !slices.Equal(addresses, []string{"10.9.0.1", "10.9.0.2"}) {
		t.Errorf("Envoys are sent to %v, want the reference service's endpoints", addresses)
	}

	c.takeOverFactors(map[string]map[string]adapt.Factor{edge: {"shop/cart/all": {Value: 0.25}}})
	snapshots, order = c.handOut(start)
	if got := bounds(snapshots[translate.RLSFleet]); got != "shop/back=7 shop/edge=25" || len(order) != 1 {
		t.Errorf("a factor makes %s, handed out %v", got, order)
	}
	if _, order := c.handOut(start); len(order) > 0 {
		t.Errorf("%v is handed out without news", order)
	}

	// Limits that are gone are counted until the Envoys ask for them no more: there is none, so until the next tick.
	c.rebuild(start, source.Update{Store: store(t, bare...)})
	c.handOut(start)
	c.contract(start)
	snapshots, _ = c.handOut(start)
	if s := snapshots[translate.RLSFleet]; s == nil || bounds(s) != "" {
		t.Errorf("limits that are gone are served: %v", snapshots)
	}

	without := limitedBy(limits, lastgood.State{})
	without.rebuild(start, source.Update{Store: store(t, bare...)})
	if snapshots, _ := without.handOut(start); snapshots[translate.RLSFleet] == nil || bounds(snapshots[translate.RLSFleet]) != "" {
		t.Error("where it is known that there are no limits they wait for some")
	}

	// What was saved has the limits of all fleets before the objects are read.
	e := limitedBy(limits, lastgood.State{})
	e.rebuild(start, source.Update{Store: store(t, both...)})
	again := restart(t, e, start)
	again.options.Limits = limits
	snapshots, order = again.handOut(start)
	if order[0] != translate.RLSFleet || bounds(snapshots[translate.RLSFleet]) != "shop/back=7 shop/edge=100" {
		t.Errorf("of what was saved it serves %v: %s", order, bounds(snapshots[translate.RLSFleet]))
	}
}

// TestTheRulesAreThoseOfWhatIsServed: of a pinned fleet those of the generation that it is pinned to, and of a
// restored one those that were saved, before the objects are read and after.
func TestTheRulesAreThoseOfWhatIsServed(t *testing.T) {
	limiter := newCounter()
	e := newEdits(t, limitedBy(Limits{Service: limiter, Address: here}, lastgood.State{}), parts("cart"))
	expect := func(why, want string) {
		t.Helper()
		e.c.handOut(e.now)
		e.now = e.now.Add(contractAfter)
		e.c.step(e.now, nil)
		e.c.handOut(e.now)
		if got := limiter.has(edge); got != want {
			t.Errorf("%s: the service has %s, want %s", why, got, want)
		}
	}
	e.apply(map[string]string{"limit": limit("cart", perTenant(10))})
	expect("generation 2", "header:X-Tenant=10|")
	e.apply(map[string]string{"limit": limit("cart", perUser(20))})
	expect("generation 3", "header:X-User=20|")
	e.rollback(2)
	expect("pinned to 2", "header:X-Tenant=10|")
	e.apply(parts("pay"))
	expect("a change that is held back", "header:X-Tenant=10|")

	limiter = newCounter()
	saved := restart(t, e.c, e.now)
	saved.options.Limits = Limits{Service: limiter, Address: here}
	saved.handOut(e.now)
	if got := limiter.has(edge); got != "header:X-Tenant=10|" {
		t.Errorf("restored: the service has %s", got)
	}
	e.c = saved
	e.apply(nil)
	expect("the objects are read", "header:X-Tenant=10|")
	if err := e.c.unpin(edge); err != nil {
		t.Fatal(err)
	}
	expect("unpinned", "header:X-User=20|")
	e.apply(map[string]string{"gateway": "", "limit": ""})
	expect("nothing is served any more", "|")
	if n := len(e.c.limits.of); n > 0 {
		t.Errorf("%d fleets without limits are remembered", n)
	}
}

// TestFactorsAreTheLeaders: a follower multiplies by what its leader told, moves nothing of itself, and goes on from
// there when it leads.
func TestFactorsAreTheLeaders(t *testing.T) {
	p := newPair()
	services := map[*core]*counter{}
	for _, c := range []*core{p.leader, p.follower} {
		services[c] = newCounter()
		c.options.Limits = Limits{Service: services[c], Address: here}
		c.rebuild(p.now, source.Update{Store: store(t, gateway, shop("cart", 1), limit("cart", "rate: {requests: 100, per: 1s}, adapt: {by: Health}"))})
		c.handOut(p.now)
	}
	factor := func(why string, c *core, want float64) {
		t.Helper()
		if got := services[c].factors[edge]["shop/cart/all"]; got != want {
			t.Errorf("%s: the factor is %v, want %v", why, got, want)
		}
	}
	p.leader.hear(p.now, replica.Event{Joined: true})
	p.tick(t)
	factor("nothing is measured", p.follower, 1)
	p.leader.takeOverFactors(map[string]map[string]adapt.Factor{edge: {"shop/cart/all": {Value: 0.5, Moved: p.now}}})
	p.tell(t)
	factor("told", p.follower, 0.5)
	for range 3 {
		p.now = p.now.Add(Tick)
		p.follower.step(p.now, measured("shop/cart:80", 1, p.now))
	}
	factor("a follower's ticks", p.follower, 0.5)

	p.follower.hear(p.now, replica.Event{Role: &replica.Role{Leads: true}})
	factor("it leads", p.follower, 0.5)
	p.now = p.now.Add(Tick)
	p.follower.step(p.now, nil)
	factor("it leads, and nothing was read yet", p.follower, 0.5)
	if d := p.follower.view(nil).Limits(edge).Decisions["shop/cart/all"]; d.Value != 0.5 || d.Frozen == "" {
		t.Errorf("shown as %+v, want it held", d)
	}
	if state, ok := p.follower.takeState(p.now); !ok || state.Factors[edge]["shop/cart/all"].Value != 0.5 {
		t.Errorf("saved as %+v", state.Factors)
	}

	restarted := newCounter()
	limitedBy(Limits{Service: restarted, Address: here}, lastgood.State{Factors: p.follower.limits.factors})
	if got := restarted.factors[edge]["shop/cart/all"]; got != 0.5 {
		t.Errorf("after a restart the service multiplies by %v", got)
	}

	// A limit that adapts no more is multiplied by nothing, at followers too.
	p.leader.rebuild(p.now, source.Update{Store: store(t, gateway, shop("cart", 1), limit("cart", "rate: {requests: 100, per: 1s}"))})
	p.leader.handOut(p.now)
	p.follower.hear(p.now, replica.Event{Role: &replica.Role{Leader: replica.Peer{Name: "a"}}})
	p.tick(t)
	factor("it adapts no more", p.follower, 0)
}
