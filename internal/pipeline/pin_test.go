package pipeline

import (
	"bytes"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
)

const edge = "shop/edge"

// edits rebuilds a core with documents, by name, one update after the other.
type edits struct {
	t         *testing.T
	c         *core
	now       time.Time
	documents map[string]string
	store     *source.Store
}

func newEdits(t *testing.T, c *core, documents map[string]string) *edits {
	e := &edits{t: t, c: c, now: start, documents: map[string]string{}}
	e.apply(documents)
	return e
}

// apply writes the documents; "" deletes one. Objects whose text stays are the same objects.
func (e *edits) apply(documents map[string]string) {
	e.t.Helper()
	next := source.NewStore()
	for name, text := range documents {
		e.documents[name] = text
	}
	for name, text := range e.documents {
		if text == "" {
			continue
		}
		for ref, object := range store(e.t, text).All() {
			if _, edited := documents[name]; !edited && e.store != nil {
				object = e.store.Get(ref)
			}
			next.Add(object)
			next.Origins[ref] = &source.Origin{File: name + ".yaml", Line: 1}
		}
	}
	evidence := source.EvidenceFile
	if e.store == nil {
		evidence = source.EvidenceFirst
	}
	e.now = e.now.Add(time.Minute)
	update := source.Update{Store: next, Changes: source.Diff(e.store, next, evidence)}
	e.store = next
	e.c.rebuild(e.now, update)
}

func (e *edits) fleet() *fleet { return e.c.fleets[edge] }

func (e *edits) rollback(number uint64) *edits {
	e.t.Helper()
	if _, err := e.c.rollback(e.now, "a test", edge, number); err != nil {
		e.t.Fatal(err)
	}
	return e
}

// routed is the clusters that a fleet's listener on port 80 routes to.
func (e *edits) routed() string {
	return fmt.Sprint(e.fleet().served.Get(translate.RDS, edge+"/80").Refs[translate.CDS])
}

// parts are a Gateway, and of each service the Service with its endpoints and policy, and its route.
func parts(names ...string) map[string]string {
	out := map[string]string{"gateway": gateway}
	for i, name := range names {
		all := strings.Split(shop(name, i+1), "---\n")
		out[name] = strings.Join(all[:2], "---\n")
		out[name+"-policy"], out[name+"-route"] = all[2], all[3]
	}
	return out
}

func to(route, service string) string { // the route with another backend
	return strings.Replace(parts(route)[route+"-route"], "backendRefs: [{name: "+route, "backendRefs: [{name: "+service, 1)
}

// TestARollbackServesTheGenerationWithLiveEndpoints: routes are those of then, endpoints those of now, also
// of a service that the newest generation has no route to.
func TestARollbackServesTheGenerationWithLiveEndpoints(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart", "pay", "ship"))
	first := e.fleet().served
	e.apply(map[string]string{"cart-route": to("cart", "pay")})
	if got := e.routed(); got != "[shop/pay:80 shop/ship:80]" || e.fleet().number != 2 {
		t.Fatalf("generation %d routes to %s", e.fleet().number, got)
	}
	e.c.takeOutgoing()
	e.rollback(1)
	out := e.c.takeOutgoing()
	if len(out) != 1 || out[0].key != edge || !out[0].snapshot.Equal(first) {
		t.Fatalf("handed out %+v, want the first generation", out)
	}
	// A slice, a tick, and nothing else may change what is served.
	e.apply(map[string]string{"cart": strings.Replace(parts("cart")["cart"], "{addresses: [10.0.1.1]}, ", "", 1)})
	served := e.fleet().served
	if n := len(weightsIn(served.Get(translate.EDS, "shop/cart:80"))); n != 1 || !served.EqualButEndpoints(first) {
		t.Errorf("%d endpoints, want the one that is left; the rest as pinned: %v", n, served.EqualButEndpoints(first))
	}
	before := weightsIn(served.Get(translate.EDS, "shop/ship:80"))
	e.c.takeOutgoing()
	for range 5 {
		e.now = e.now.Add(Tick)
		e.c.step(e.now, measured("shop/ship:80", 3, e.now))
	}
	if after := weightsIn(e.fleet().served.Get(translate.EDS, "shop/ship:80")); slices.Equal(before, after) || len(e.c.takeOutgoing()) == 0 {
		t.Errorf("weights %v became %v: they stand still", before, after)
	}
	if e.fleet().pin == nil || !e.fleet().served.EqualButEndpoints(first) {
		t.Error("endpoints and weights ended the pin")
	}
	if err := e.c.unpin(edge); err != nil {
		t.Fatal(err)
	}
	if got := e.routed(); got != "[shop/pay:80 shop/ship:80]" {
		t.Errorf("after unpin it routes to %s", got)
	}
	if n := len(e.fleet().history); n != 2 {
		t.Errorf("%d generations, want none by pinning", n)
	}
}

// TestWhatEndsAPin: an edit of what was rolled back does, an edit of anything else waits.
func TestWhatEndsAPin(t *testing.T) {
	var log bytes.Buffer
	c := testCore(lastgood.State{})
	c.log = slog.New(slog.NewTextHandler(&log, nil))
	e := newEdits(t, c, parts("cart", "pay", "ship"))
	e.apply(map[string]string{"cart-route": to("cart", "pay"), "pay-policy": strings.Replace(parts("", "pay")["pay-policy"], "slowStart: 0s", "slowStart: 10s", 1)})
	e.rollback(1)
	pin := e.fleet().pin
	if !slices.Equal(pin.Objects, []string{"HTTPRoute shop/cart"}) || pin.AllObjects {
		t.Errorf("the pin ends with %v, all %v", pin.Objects, pin.AllObjects)
	}

	e.apply(map[string]string{"ship-policy": strings.Replace(parts("ship")["ship-policy"], "slowStart: 0s", "slowStart: 10s", 1)})
	e.apply(map[string]string{"pay-route": to("pay", "ship")})
	if e.fleet().pin == nil || e.routed() != "[shop/cart:80 shop/pay:80 shop/ship:80]" || e.fleet().number != 3 {
		t.Fatalf("an edit of another route: pin %v, generation %d, routes to %s", e.fleet().pin, e.fleet().number, e.routed())
	}
	if held := e.fleet().pin.Held; !slices.Equal(held, []string{"HTTPRoute shop/pay"}) || !strings.Contains(log.String(), "a change is held back") {
		t.Errorf("held back %v; the log says\n%s", held, log.String())
	}
	e.apply(map[string]string{"cart-route": to("cart", "ship")})
	if e.fleet().pin != nil || e.routed() != "[shop/ship:80]" {
		t.Errorf("the fix: pin %v, routes to %s", e.fleet().pin, e.routed())
	}
	for _, want := range []string{"a fleet is not pinned any more", "HTTPRoute shop/cart changed, which was rolled back", `audit.result="held back"`, `audit.op=unpin`, `audit.by="file cart-route.yaml"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, log.String())
		}
	}
}

func TestADeletedGatewayEndsItsPin(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart", "pay"))
	e.apply(map[string]string{"cart-route": to("cart", "pay")})
	e.rollback(1).apply(map[string]string{"gateway": strings.Split(gateway, "---\n")[0]})
	if f := e.fleet(); f.pin != nil || len(f.served.Resources(translate.LDS)) != 0 {
		t.Errorf("pin %v, %d listeners are left", f.pin, len(f.served.Resources(translate.LDS)))
	}
}

// TestARolledBackClusterWithoutItsService has no endpoints: those of the past may be anybody's.
func TestARolledBackClusterWithoutItsService(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart", "pay"))
	e.apply(map[string]string{"cart-route": to("cart", "pay"), "cart": "", "cart-policy": ""})
	pin, err := e.c.rollback(e.now, "a test", edge, 1)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(pin.Gone, []string{"shop/cart:80"}) {
		t.Errorf("gone %v", pin.Gone)
	}
	served := e.fleet().served
	if missing := served.Dangling(); len(missing) > 0 || len(weightsIn(served.Get(translate.EDS, "shop/cart:80"))) != 0 {
		t.Errorf("missing %v, endpoints %v", missing, served.Get(translate.EDS, "shop/cart:80").Message())
	}
	// The Service that comes back is part of what was rolled back, but makes no generation by itself.
	e.apply(map[string]string{"cart": parts("cart")["cart"]})
	if f := e.fleet(); f.pin == nil || len(weightsIn(f.served.Get(translate.EDS, "shop/cart:80"))) != 2 || len(f.pin.Gone) != 0 {
		t.Errorf("when it came back: %+v", f.pin)
	}
}

func TestARollbackThatCannotBe(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart", "pay"))
	e.apply(map[string]string{"cart-route": to("cart", "pay")})
	for want, act := range map[string]func() error{
		"generation 9 of shop/edge is not kept; there is 1, 2": func() error { _, err := e.c.rollback(start, "", edge, 9); return err },
		"generation 2 of shop/edge is the newest, and is":      func() error { _, err := e.c.rollback(start, "", edge, 2); return err },
		`no fleet "shop/none"; there is shop/edge`:             func() error { _, err := e.c.rollback(start, "", "shop/none", 1); return err },
		`no fleet "eds:shop"`:                                  func() error { return e.c.unpin("eds:shop") },
		"fleet shop/edge is not pinned":                        func() error { return e.c.unpin(edge) },
		errNotRead.Error():                                     func() error { _, err := testCore(lastgood.State{}).rollback(start, "", edge, 1); return err },
	} {
		if err := act(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if e.fleet().pin != nil || len(e.c.takeOutgoing()) != 3 { // the fleet twice, and its namespace
		t.Error("a refused action did something")
	}
}

// TestAPinnedGenerationIsKept: however many come after it.
func TestAPinnedGenerationIsKept(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart", "pay"))
	e.apply(map[string]string{"cart-route": to("cart", "pay")})
	e.rollback(1)
	for i := range historyLength + 5 {
		e.apply(map[string]string{"pay-route": strings.Replace(parts("", "pay")["pay-route"], "value: /pay", fmt.Sprintf("value: /pay%d", i), 1)})
	}
	h := e.fleet().history
	if len(h) != historyLength || h[0].Number != 1 || h[1].Number == 2 || e.fleet().pin == nil {
		t.Errorf("%d generations from %d, %d; pin %v", len(h), h[0].Number, h[1].Number, e.fleet().pin)
	}
	if err := e.c.unpin(edge); err != nil {
		t.Fatal(err)
	}
	e.rollback(1)
	if !e.fleet().pin.AllObjects {
		t.Error("what changed since a generation that the history does not follow on is thought to be known")
	}
}

// TestHistoryHoldsNoEndpoints, or every endpoint that ever was would stay in memory, and shares what did not change.
func TestHistoryHoldsNoEndpoints(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart", "pay"))
	e.apply(map[string]string{"cart-route": to("cart", "pay")})
	e.apply(map[string]string{"cart-route": to("cart", "cart")})
	h := e.fleet().history
	for _, g := range h {
		if n := len(g.Snapshot.Resources(translate.EDS)); n > 0 {
			t.Errorf("generation %d holds %d load assignments", g.Number, n)
		}
	}
	if !h[0].Snapshot.Table(translate.LDS).Same(h[2].Snapshot.Table(translate.LDS)) {
		t.Error("equal tables are not shared")
	}
}

// BenchmarkHistory says what a history of 64 generations costs: 1000 services of ten endpoints whose weights
// all change between any two generations.
func BenchmarkHistory(b *testing.B) {
	c := big(b, 1000, 10)
	f := c.fleets[edge]
	for b.Loop() {
		f.history = nil
		for i := range historyLength {
			next := f.newest
			var changed []*snapshot.Resource
			for _, s := range c.services {
				s.decisions.Endpoints[0].Weight = uint32(1000 + i)
				changed = append(changed, c.encode(translate.Assignment(s.object, &s.decisions), nil))
			}
			next = next.WithEndpoints(changed...)
			g := snapshot.Generation{Number: uint64(i)}
			if i > 0 {
				g.Snapshot = next.WithoutEndpoints(f.history[i-1].Snapshot)
			} else {
				g.Snapshot = next.WithoutEndpoints(nil)
			}
			f.remember(g)
		}
	}
	with := heap()
	f.history = nil
	b.ReportMetric(float64(with-heap())/1024, "KiB-history")
	runtime.KeepAlive(c)
}
