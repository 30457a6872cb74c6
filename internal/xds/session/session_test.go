package session

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

func newCache() *snapshot.Cache { return snapshot.NewCache(nil) }

// envoy is a delta client that asks as an Envoy does.
func envoy(t *testing.T, served *snapshot.Snapshot, names ...string) *client {
	c := newClient(t, Delta)
	c.served = served
	c.subscribe(translate.CDS)
	c.settle()
	c.subscribe(translate.EDS, names...)
	c.subscribe(translate.RDS, "r")
	c.settle()
	return c
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

// TestARouteMovesWithoutAGap moves a route from cluster x to y and takes x away: y comes first, and
// x goes when the route has left it.
func TestARouteMovesWithoutAGap(t *testing.T) {
	cache := newCache()
	c := envoy(t, world{map[string]int{"x": 1}, map[string]int{"x": 1, "y": 1}, map[string][]string{"r": {"x"}}}.snapshot(t, cache), "x", "y")
	c.served = world{map[string]int{"y": 1}, map[string]int{"x": 1, "y": 1}, map[string][]string{"r": {"y"}}}.snapshot(t, cache)
	expect(t, c.settle(), "cds y", "rds r", "cds  -x")
}

// TestRoutesWaitForTheClustersTheyName, and not for ever.
func TestRoutesWaitForTheClustersTheyName(t *testing.T) {
	cache := newCache()
	c := envoy(t, world{map[string]int{"x": 1}, nil, map[string][]string{"r": {"x"}}}.snapshot(t, cache))
	c.served = world{map[string]int{"x": 1, "y": 1}, nil, map[string][]string{"r": {"y"}}}.snapshot(t, cache)
	if r, _ := c.next(); r.kind != translate.CDS {
		t.Fatalf("%v, want the cluster first", r)
	}
	r, wait := c.session.Next(c.now, c.served)
	if r != nil || wait != 5*time.Second {
		t.Fatalf("%v, wait %s; want nothing for 5 s", r, wait)
	}
	c.now = c.now.Add(wait)
	if r, _ := c.next(); r.kind != translate.RDS {
		t.Errorf("%v, want the route after 5 s without an answer", r)
	}
}

// TestAChangedClusterGetsItsEndpointsAgain, after it and before other endpoints.
func TestAChangedClusterGetsItsEndpointsAgain(t *testing.T) {
	cache := newCache()
	c := envoy(t, world{map[string]int{"x": 1, "y": 1}, map[string]int{"x": 1, "y": 1}, nil}.snapshot(t, cache), "x", "y")
	c.served = world{map[string]int{"x": 2, "y": 1}, map[string]int{"x": 1, "y": 1}, nil}.snapshot(t, cache)
	expect(t, c.settle(), "cds x", "eds x")
}

// TestARefusedResourceIsLeftOut: named by the client, the others of its response arrive in the next one.
func TestARefusedResourceIsLeftOut(t *testing.T) {
	cache := newCache()
	all := map[string]int{"a": 1, "b": 1, "c": 1}
	c := envoy(t, world{nil, all, nil}.snapshot(t, cache), "a", "b", "c")
	c.served = world{nil, map[string]int{"a": 2, "b": 2, "c": 2}, nil}.snapshot(t, cache)
	bad := c.served.Get(translate.EDS, "b").Version
	c.refuses, c.names = func(_ translate.Type, _, version string) bool { return version == bad }, true
	expect(t, c.settle(), "refuse eds a,b,c", "eds a,c")
	if st := c.session.Status(translate.EDS, c.served); st.State != Refused || !slices.Equal(st.Refused, []string{"b"}) {
		t.Errorf("%+v", st)
	}
	c.served = world{nil, map[string]int{"a": 2, "b": 3, "c": 2}, nil}.snapshot(t, cache)
	expect(t, c.settle(), "eds b")
	if st := c.session.Status(translate.EDS, c.served); st.State != Synced {
		t.Errorf("%+v", st)
	}
}

// TestARefusalWithoutANameIsHalved until the culprit is alone.
func TestARefusalWithoutANameIsHalved(t *testing.T) {
	cache := newCache()
	content := map[string]int{}
	var names []string
	for i := range 8 {
		names = append(names, string(rune('a'+i)))
		content[names[i]] = 1
	}
	c := envoy(t, world{nil, content, nil}.snapshot(t, cache), names...)
	for name := range content {
		content[name] = 2
	}
	c.served = world{nil, content, nil}.snapshot(t, cache)
	bad := c.served.Get(translate.EDS, "f").Version
	c.refuses = func(_ translate.Type, name, version string) bool { return name == "f" && version == bad }
	expect(t, c.settle(), "refuse eds a,b,c,d,e,f,g,h", "eds a,b,c,d", "refuse eds e,f,g,h", "refuse eds e,f", "eds e", "refuse eds f", "eds g,h")
	if got := c.store[translate.EDS]["f"]; got == bad {
		t.Error("it took what it refused")
	}
	// It is tried again alone after 30 s, then after a minute.
	for _, wait := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute} {
		if _, got := c.session.Next(c.now, c.served); got != wait {
			t.Fatalf("the next attempt is in %s, want %s", got, wait)
		}
		c.now = c.now.Add(wait)
		expect(t, c.settle(), "refuse eds f")
	}
	c.refuses = nil
	c.now = c.now.Add(4 * time.Minute)
	expect(t, c.settle(), "eds f")
}

// TestAClientThatRefusesEverythingIsLeftAlone after a few attempts, whatever changes and whatever it says;
// and has all again as soon as it takes something.
func TestAClientThatRefusesEverythingIsLeftAlone(t *testing.T) {
	for _, names := range []bool{false, true} {
		cache := newCache()
		content := map[string]int{}
		var all []string
		for i := range 500 {
			all = append(all, fmt.Sprint("c", i))
			content[all[i]] = 1
		}
		c := newClient(t, Delta)
		c.served = world{nil, content, nil}.snapshot(t, cache)
		sent := 0
		c.refuses, c.names = func(translate.Type, string, string) bool { return true }, names
		settle := func() {
			for _, line := range c.settle() {
				sent += 1 + strings.Count(line, ",")
			}
		}
		c.subscribe(translate.EDS, all...)
		settle()
		if sent > 7*len(all) {
			t.Errorf("names %v: %d resources before it is left alone", names, sent)
		}
		sent = 0
		for tick := range 100 { // of 100 ms
			for i := range 25 {
				content[all[i]] = 2 + tick
			}
			c.served = world{nil, content, nil}.snapshot(t, cache)
			c.now = c.now.Add(100 * time.Millisecond)
			settle()
		}
		if sent > 10 {
			t.Errorf("names %v: %d resources within 10 s", names, sent)
		}
		c.refuses = nil
		c.now = c.now.Add(time.Second)
		settle()
		for range 2 * len(all) { // what did not change since it was refused is tried again, later
			_, wait := c.session.Next(c.now, c.served)
			c.now = c.now.Add(wait)
			settle()
		}
		if st := c.session.Status(translate.EDS, c.served); st.State != Synced || len(c.store[translate.EDS]) != len(all) {
			t.Errorf("names %v: %v with %d resources", names, st.State, len(c.store[translate.EDS]))
		}
	}
}

// TestOtherEndpointsWaitWhileClustersWarm: refused, they would end the warming without hosts.
func TestOtherEndpointsWaitWhileClustersWarm(t *testing.T) {
	cache := newCache()
	c := envoy(t, world{map[string]int{"x": 1}, map[string]int{"x": 1, "y": 1}, nil}.snapshot(t, cache), "x", "y")
	c.served = world{map[string]int{"x": 2}, map[string]int{"x": 1, "y": 2}, nil}.snapshot(t, cache)
	expect(t, c.settle(), "cds x", "eds x,y")

	c.served = world{map[string]int{"x": 3}, map[string]int{"x": 1, "y": 3}, nil}.snapshot(t, cache)
	cds, _ := c.next()
	eds, _ := c.next()
	c.take(eds)
	if r, ok := c.next(); ok || len(eds.has) != 1 {
		t.Fatalf("%v, then %v before the cluster is acknowledged", eds, r)
	}
	c.take(cds)
	expect(t, c.settle(), "eds y")
}

// TestARefusalOfEndpointsRescuesWarmingClusters: an Envoy ends the warming of all of them without hosts.
func TestARefusalOfEndpointsRescuesWarmingClusters(t *testing.T) {
	cache := newCache()
	c := envoy(t, world{map[string]int{"x": 1}, map[string]int{"x": 1, "y": 1}, nil}.snapshot(t, cache), "x", "y")
	c.served = world{map[string]int{"x": 2, "y": 2}, map[string]int{"x": 1, "y": 2}, nil}.snapshot(t, cache)
	cds, _ := c.next()
	eds, _ := c.next()
	if cds.kind != translate.CDS || len(eds.has) != 2 {
		t.Fatalf("%v, %v", cds, eds)
	}
	words := `cluster_name: "y"`
	c.ask(Request{URL: translate.EDS.URL(), Nonce: eds.nonce, Refused: &words})
	if r, ok := c.next(); !ok || r.has["x"] == "" || r.has["y"] != "" {
		t.Errorf("%v, want x, whose cluster is not acknowledged, without y", r)
	}
}

// TestAReturningClientIsSentWhatDiffers and what is gone.
func TestAReturningClientIsSentWhatDiffers(t *testing.T) {
	cache := newCache()
	before := world{map[string]int{"a": 1, "b": 1, "c": 1}, nil, nil}.snapshot(t, cache)
	versions := map[string]string{}
	for name, r := range before.Resources(translate.CDS) {
		versions[name] = r.Version
	}
	back := func(served *snapshot.Snapshot) []string {
		c := newClient(t, Delta)
		c.served = served
		c.ask(Request{URL: translate.CDS.URL(), Initial: versions})
		return c.settle()
	}
	expect(t, back(before))
	expect(t, back(world{map[string]int{"a": 1, "b": 2, "d": 1}, nil, nil}.snapshot(t, cache)), "cds b,d", "cds  -c")
}

func TestWhatDoesNotExist(t *testing.T) {
	c := newClient(t, Delta)
	c.served = world{nil, map[string]int{"x": 1}, nil}.snapshot(t, newCache())
	c.subscribe(translate.EDS, "none", "x")
	c.subscribe(translate.RDS, "r")
	c.subscribe(translate.CDS)
	expect(t, c.settle(), "cds ", "eds x -none", "rds r")
}

// TestBothProtocolsConverge: whatever is served and asked, refused and answered, each client ends up with
// what it wants of what there is, but for what it refused; and then there is silence.
func TestBothProtocolsConverge(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	rapid.Check(t, func(t *rapid.T) {
		cache := newCache()
		draw := func() world {
			w := world{map[string]int{}, map[string]int{}, map[string][]string{}}
			for _, name := range names {
				if rapid.Bool().Draw(t, "cluster") {
					w.clusters[name] = rapid.IntRange(1, 3).Draw(t, "content")
					w.endpoints[name] = rapid.IntRange(1, 3).Draw(t, "content")
				}
			}
			if len(w.clusters) > 0 {
				w.routes["r"] = []string{rapid.SampledFrom(slices.Sorted(maps.Keys(w.clusters))).Draw(t, "route")}
			}
			return w
		}
		clients := []*client{newClient(t, Delta), newClient(t, SotW)}
		served := draw().snapshot(t, cache)
		for _, c := range clients {
			c.served = served
			c.subscribe(translate.CDS)
			c.subscribe(translate.EDS, names[:2]...)
			c.subscribe(translate.RDS, "r")
		}
		refusing := rapid.Bool().Draw(t, "refusing")
		pending := map[*client][]response{}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			i := rapid.IntRange(0, 1).Draw(t, "client")
			c := clients[i]
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				served = draw().snapshot(t, cache)
				for _, c := range clients {
					c.served = served
				}
			case 1:
				if r, ok := c.next(); ok {
					pending[c] = append(pending[c], r)
				}
			case 2:
				if len(pending[c]) > 0 {
					r := pending[c][0]
					pending[c] = pending[c][1:]
					if refusing && rapid.Bool().Draw(t, "refuse") {
						c.refuse(r, "no")
					} else {
						c.take(r)
					}
				}
			case 3:
				c.now = c.now.Add(10 * time.Second)
			case 4:
				c.subscribe(translate.EDS, rapid.SampledFrom(names).Draw(t, "name"))
			}
		}
		for _, c := range clients {
			for _, r := range pending[c] {
				c.take(r)
			}
			for range 30 { // what was refused is tried again, and taken
				c.settle()
				c.now = c.now.Add(11 * time.Minute)
			}
			for kind, table := range map[translate.Type]func(string) bool{
				translate.CDS: func(string) bool { return true },
				translate.EDS: func(name string) bool { return slices.Contains(c.asked[translate.EDS], name) },
			} {
				want := map[string]string{}
				for name, r := range served.Resources(kind) {
					if table(name) {
						want[name] = r.Version
					}
				}
				have := maps.Clone(c.store[kind])
				if !c.delta && kind == translate.EDS {
					// SotW cannot say that an assignment is gone.
					maps.DeleteFunc(have, func(name, _ string) bool { return want[name] == "" })
				}
				if !maps.Equal(have, want) && len(have)+len(want) > 0 {
					t.Fatalf("delta %v, %s: has %v, want %v\n%s", c.delta, kind, have, want, strings.Join(c.log, "\n"))
				}
			}
			if got := c.settle(); len(got) > 0 {
				t.Fatalf("no silence: %q", got)
			}
		}
	})
}
