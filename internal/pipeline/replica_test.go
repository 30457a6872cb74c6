package pipeline

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// others are Replicas of a test: what is sent comes from it, what is told goes to it.
type others struct {
	events chan replica.Event
	told   []*replica.Told
	n      int // followers
}

func (o *others) Run(ctx context.Context, up chan<- replica.Event) error {
	for {
		select {
		case e := <-o.events:
			up <- e
		case <-ctx.Done():
			return nil
		}
	}
}
func (o *others) Tell(t *replica.Told) { o.told = append(o.told, t) }
func (o *others) Followers() int       { return o.n }

// pair is a leader and a follower. The follower is told what it would be over the wire.
type pair struct {
	leader, follower *core
	now              time.Time
}

func newPair() *pair {
	make := func(n int) *core {
		return newCore(Options{Catalog: catalog.Options{AllowLoopback: true}, Log: slog.New(slog.DiscardHandler), Replicas: &others{n: n}}, newMetrics(nil), lastgood.State{})
	}
	p := &pair{leader: make(1), follower: make(0), now: start}
	p.leader.hear(p.now, replica.Event{Role: &replica.Role{Leads: true}})
	p.follower.hear(p.now, replica.Event{Role: &replica.Role{Leader: replica.Peer{Name: "a", Address: "10.0.0.1:18000"}}})
	return p
}

// tell passes on what the leader has to tell.
func (p *pair) tell(t interface{ Fatal(...any) }) {
	told := p.leader.takeTold(p.now)
	if told == nil {
		return
	}
	body, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	var heard replica.Told
	if err := json.Unmarshal(body, &heard); err != nil {
		t.Fatal(err)
	}
	p.follower.hear(p.now, replica.Event{Told: &heard})
}

func (p *pair) tick(t interface{ Fatal(...any) }, readings ...signals.Reading) {
	p.now = p.now.Add(Tick)
	p.leader.step(p.now, readings)
	p.follower.step(p.now, readings) // of which it makes nothing
	p.tell(t)
}

func (p *pair) different() []string {
	var names []string
	for name, f := range p.leader.fleets {
		if g := p.follower.fleets[name]; g == nil || !f.served.Equal(g.served) {
			names = append(names, name)
		}
	}
	for key, s := range p.leader.edsOnly {
		if o := p.follower.edsOnly[key]; o == nil || !s.Equal(o) {
			names = append(names, key)
		}
	}
	return names
}

// Whatever happens to the objects, in whatever order the two see it, and whatever is measured: a tick after
// both have the same objects they serve the same bytes, and a follower that takes over goes on as the leader.
func TestAFollowerServesTheLeadersBytes(t *testing.T) {
	cart := shop("cart", 1)
	stores := []*source.Store{
		store(t, gateway, cart),
		store(t, gateway, cart, shop("pay", 2)),
		store(t, gateway, strings.Replace(cart, "[{addresses: [10.0.1.1]}, ", "[", 1)),
		store(t, gateway, strings.Replace(cart, "{addresses: [10.0.1.2]}", "{addresses: [10.0.1.2]}, {addresses: [10.0.1.3]}", 1), shop("pay", 2)),
		store(t, gateway, strings.Replace(cart, "slowStart: 0s", "slowStart: 30s", 1)),
		store(t, gateway, strings.Replace(cart, "  capacity:", "  mode: Equal\n  capacity:", 1)),
		store(t, gateway, unweighed("cart", 1), shop("pay", 2)),
	}
	rapid.Check(t, func(t *rapid.T) {
		p := newPair()
		at := map[*core]int{}
		see := func(c *core, i int) {
			at[c] = i
			c.rebuild(p.now, source.Update{Store: stores[i]})
			p.tell(t)
		}
		see(p.leader, 0)
		if rapid.Bool().Draw(t, "the follower is there from the start") {
			see(p.follower, 0)
		}
		for range rapid.IntRange(5, 25).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"tick", "tick", "tick", "leader sees", "follower sees", "freeze", "join", "rollback", "unpin"}).Draw(t, "what") {
			case "tick":
				p.tick(t, measured("shop/cart:80", 1, p.now)...)
			case "leader sees":
				see(p.leader, rapid.IntRange(0, len(stores)-1).Draw(t, "store"))
			case "follower sees":
				see(p.follower, rapid.IntRange(0, len(stores)-1).Draw(t, "store"))
			case "freeze":
				if err := p.leader.freeze("test", "", rapid.Bool().Draw(t, "frozen")); err != nil {
					t.Fatal(err)
				}
				p.tell(t)
			case "rollback":
				_, _ = p.leader.rollback(p.now, "test", "shop/edge", rapid.Uint64Range(1, 9).Draw(t, "generation")) // of which there may be none
				p.tell(t)
			case "unpin":
				_ = p.leader.unpin("shop/edge") // nor a pin
				p.tell(t)
			case "join":
				p.leader.hear(p.now, replica.Event{Joined: true})
				p.tell(t)
			}
		}
		if i, ok := at[p.follower]; !ok || i != at[p.leader] {
			see(p.follower, at[p.leader])
		}
		p.tick(t, measured("shop/cart:80", 1, p.now)...)
		if differ := p.different(); len(differ) > 0 {
			t.Fatalf("%v differ: leader %v, follower %v", differ, weightsOf(p.leader), weightsOf(p.follower))
		}
		x, y := p.leader.fleets["shop/edge"], p.follower.fleets["shop/edge"]
		if x.number != y.number || (x.pin == nil) != (y.pin == nil) {
			t.Fatalf("the leader's generation is %d, pinned %v; the follower's %d, %v", x.number, x.pin != nil, y.number, y.pin != nil)
		}
		// The Lease runs out, and nothing was read since: the successor does what the leader would have done.
		p.follower.hear(p.now, replica.Event{Role: &replica.Role{Leads: true}})
		p.now = p.now.Add(10 * Tick)
		p.leader.step(p.now, nil)
		p.follower.step(p.now, nil)
		if a, b := weightsOf(p.leader), weightsOf(p.follower); most(a, b) > 0.04 {
			t.Fatalf("the leader would have gone on with %v, its successor goes on with %v", a, b)
		}
		if p.follower.frozen != p.leader.frozen {
			t.Fatal("services to come are not frozen as the leader's are")
		}
	})
}

func weightsOf(c *core) []uint32 { return weightsIn(c.services["shop/cart:80"].assignment) }

// most is the largest |d ln w|.
func most(before, after []uint32) float64 {
	if len(before) != len(after) {
		return math.Inf(1)
	}
	d := 0.0
	for i := range before {
		d = max(d, math.Abs(math.Log(float64(before[i])/float64(after[i]))))
	}
	return d
}

// TestAPinIsTheLeaders: a follower serves the generation that its leader is pinned to, also one that it never
// saw, until the leader is not pinned any more; and it does not end the pin of itself.
func TestAPinIsTheLeaders(t *testing.T) {
	p := newPair()
	cart, pay := shop("cart", 1), shop("pay", 2)
	one, two, fixed := store(t, gateway, cart), store(t, gateway, cart, pay), store(t, gateway, cart, strings.Replace(pay, "value: /pay", "value: /paid", 1))
	changed := []source.Change{{Object: source.Ref{Kind: source.KindHTTPRoute, Namespace: "shop", Name: "pay"}, Op: source.Changed, Evidence: source.EvidenceFile}}
	p.leader.rebuild(p.now, source.Update{Store: one})
	p.leader.rebuild(p.now, source.Update{Store: two, Changes: changed})
	p.follower.rebuild(p.now, source.Update{Store: two})
	p.leader.hear(p.now, replica.Event{Joined: true})
	p.tell(t)
	if _, err := p.leader.rollback(p.now, "somebody", "shop/edge", 1); err != nil {
		t.Fatal(err)
	}
	p.tell(t)
	pinned := func(want bool) {
		t.Helper()
		f := p.follower.fleets["shop/edge"]
		if differ := p.different(); len(differ) > 0 || (f.pin != nil) != want {
			t.Errorf("%v differ, pinned %v, want %v", differ, f.pin != nil, want)
		}
		if served := f.served.Get(translate.CDS, "shop/pay:80") != nil; served == want {
			t.Errorf("the cluster of the newer generation is served: %v", served)
		}
	}
	pinned(true)
	p.follower.rebuild(p.now, source.Update{Store: fixed, Changes: changed})
	if p.follower.fleets["shop/edge"].pin == nil {
		t.Error("the follower ended the pin")
	}
	p.leader.rebuild(p.now, source.Update{Store: fixed, Changes: changed})
	p.tell(t)
	pinned(false)
	if err := p.follower.unpin("shop/edge"); err == nil || !strings.Contains(err.Error(), "ask the admin port of a") {
		t.Errorf("got %v of a follower that is to unpin", err)
	}
}

// TestNobodyIsToldNothing: without followers no state is taken, and what did not move is told in turns.
func TestNobodyIsToldNothing(t *testing.T) {
	p := newPair()
	to := p.leader.options.Replicas.(*others)
	to.n = 0
	p.leader.rebuild(start, source.Update{Store: store(t, gateway, shop("cart", 1), shop("pay", 2))})
	p.tick(t)
	if told := p.leader.takeTold(p.now); told != nil || len(p.leader.telling) > 0 {
		t.Errorf("%+v is told to nobody", told)
	}
	to.n = 1
	p.leader.hear(p.now, replica.Event{Joined: true})
	if told := p.leader.takeTold(p.now); told == nil || !slices.Equal(told.All, []string{"shop/cart:80", "shop/pay:80"}) || len(told.Services) != 2 {
		t.Fatalf("one that joins is told %+v, want everything", told)
	}
	times := map[string]int{}
	for range turns {
		p.now = p.now.Add(Tick)
		p.leader.step(p.now, nil)
		if told := p.leader.takeTold(p.now); told != nil {
			for name := range told.Services {
				times[name]++
			}
		}
	}
	if times["shop/cart:80"] != 1 || times["shop/pay:80"] != 1 {
		t.Errorf("in %d ticks states were told %v times, want each once", turns, times)
	}
	p.leader.rebuild(p.now, source.Update{Store: store(t, gateway, shop("cart", 1))})
	if told := p.leader.takeTold(p.now); told == nil || !slices.Equal(told.Gone, []string{"shop/pay:80"}) {
		t.Errorf("%+v is told of a service that is gone", told)
	}
}

// TestWhatALeaderTellsIsChecked: a state that no machine would have written leaves the follower with its own.
func TestWhatALeaderTellsIsChecked(t *testing.T) {
	p := newPair()
	objects := store(t, gateway, shop("cart", 1))
	p.leader.rebuild(start, source.Update{Store: objects})
	p.tell(t)
	p.follower.rebuild(start, source.Update{Store: objects})
	for range 5 {
		p.tick(t, measured("shop/cart:80", 1, p.now)...)
	}
	before := weightsOf(p.follower)
	state := p.leader.services["shop/cart:80"].machine.State()
	state.Endpoints[0].Weight = 0
	p.follower.hear(p.now, replica.Event{Told: &replica.Told{Services: map[string]*replica.Service{"shop/cart:80": {At: p.now, State: state}}}})
	if after := weightsOf(p.follower); !slices.Equal(before, after) {
		t.Errorf("weights %v became %v", before, after)
	}
}

// TestAFollowerMovesNothingOfItself: ticks and readings are the leader's.
func TestAFollowerMovesNothingOfItself(t *testing.T) {
	p := newPair()
	objects := store(t, gateway, shop("cart", 1))
	p.leader.rebuild(start, source.Update{Store: objects})
	p.follower.rebuild(start, source.Update{Store: objects})
	p.leader.hear(start, replica.Event{Joined: true})
	p.tick(t, measured("shop/cart:80", 1, p.now)...)
	before := weightsOf(p.follower)
	for range 10 {
		p.now = p.now.Add(Tick)
		p.follower.step(p.now, measured("shop/cart:80", 1, p.now))
	}
	if after := weightsOf(p.follower); !slices.Equal(before, after) || len(p.follower.readings) > 0 {
		t.Errorf("weights %v became %v, of %d readings", before, after, len(p.follower.readings))
	}
}

// TestAnActionIsTheLeaders: a follower refuses it and says whom to ask.
func TestAnActionIsTheLeaders(t *testing.T) {
	p := newPair()
	p.follower.rebuild(start, source.Update{Store: store(t, gateway, shop("cart", 1))})
	if err := p.follower.freeze("test", "", true); err == nil || !strings.Contains(err.Error(), "a (10.0.0.1:18000)") || p.follower.frozen {
		t.Errorf("got %v, want an error that names the leader", err)
	}
}

// TestAReplicaWaitsForItsLeader: one that joins others builds nothing before it was told the weights, within
// bounds, and one that leads does not wait. What is to be measured is the leader's business.
func TestAReplicaWaitsForItsLeader(t *testing.T) {
	objects := store(t, gateway, shop("cart", 1))
	following := replica.Event{Role: &replica.Role{Leader: replica.Peer{Name: "a"}}}
	for what, test := range map[string]struct {
		events []replica.Event
		ready  bool // at once
		leads  bool
	}{
		"it leads":              {[]replica.Event{{Role: &replica.Role{Leads: true}}}, true, true},
		"it was told":           {[]replica.Event{following, {Told: &replica.Told{All: []string{}}}}, true, false},
		"it was told something": {[]replica.Event{following, {Told: &replica.Told{}}}, false, false},
		"nobody is there":       {nil, false, false},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				of := &others{events: make(chan replica.Event)}
				var targets, reporting int
				collector, everywhere := silent, silent
				collector.Follow = func(c *catalog.Catalog) { targets = len(scrapeSpecs(c)) }
				everywhere.Everywhere, everywhere.Follow = true, func(c *catalog.Catalog) { reporting = len(c.Services) }
				s := script{updates: make(chan source.Update), fail: make(chan error)}
				p := New(Options{
					Source: s, Collectors: []Collector{collector, everywhere}, Cache: snapshot.NewCache(xds.FleetHash{}), Replicas: of,
					Catalog: catalog.Options{AllowLoopback: true}, Log: slog.New(slog.DiscardHandler),
				})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- p.Run(ctx) }()
				defer func() { cancel(); <-done }()
				s.updates <- source.Update{Store: objects}
				for _, e := range test.events {
					of.events <- e
				}
				synctest.Wait()
				if ready := p.View().Ready() == nil; ready != test.ready {
					t.Errorf("ready at once: %v, want %v", ready, test.ready)
				}
				time.Sleep(replica.Patience)
				synctest.Wait()
				if err := p.View().Ready(); err != nil {
					t.Errorf("not ready after all: %v", err)
				}
				if (targets > 0) != test.leads || reporting == 0 {
					t.Errorf("%d targets are measured, and it leads: %v; of %d services its Envoys are asked", targets, test.leads, reporting)
				}
				if !test.leads { // the leader dies
					of.events <- replica.Event{Role: &replica.Role{Leads: true}}
					synctest.Wait()
					if targets == 0 {
						t.Error("a follower that leads now measures nothing")
					}
				}
			})
		})
	}
}

// TestEventsAreBounded: what a leader tells while the worker is busy is one event, with the newest.
func TestEventsAreBounded(t *testing.T) {
	told := func(at time.Time, names ...string) replica.Event {
		e := replica.Event{Told: &replica.Told{Services: map[string]*replica.Service{}}}
		for _, n := range names {
			e.Told.Services[n] = &replica.Service{At: at}
		}
		return e
	}
	var events []replica.Event
	events = appendEvent(events, replica.Event{Role: &replica.Role{}})
	first := told(start, "a", "b")
	events = appendEvent(events, first)
	events = appendEvent(events, told(start.Add(Tick), "b", "c"))
	events = appendEvent(events, replica.Event{Told: &replica.Told{Gone: []string{"a"}, All: []string{"b", "c"}}})
	if len(events) != 2 {
		t.Fatalf("%d events, want a role and a told", len(events))
	}
	got := events[1].Told
	if len(got.Services) != 2 || got.Services["b"].At != start.Add(Tick) || got.Services["a"] != nil || !slices.Equal(got.Gone, []string{"a"}) || len(got.All) != 2 {
		t.Errorf("merged to %+v", got)
	}
	if len(first.Told.Services) != 2 {
		t.Error("what was told was changed")
	}
}
