package pipeline

import (
	"strings"
	"testing"

	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

func envoy(fleet, build string) xds.Proxy {
	return xds.Proxy{Node: build, Fleet: fleet, Agent: "envoy", Build: build}
}

func oldEnvoy() []xds.Proxy { return []xds.Proxy{envoy(edge, "1.38.3")} }

func noEnvoy() []xds.Proxy { return nil }

// split are objects with a route that splits traffic and a limit, whose bound it can carry.
func split(t *testing.T) *source.Store {
	t.Helper()
	return store(t, gateway, splitRoute, shop("pay", 2), limit("cart", "rate: {requests: 100, per: 1s}"))
}

var splitRoute = strings.Replace(shop("cart", 1), "backendRefs: [{name: cart, port: 80}]", "backendRefs: [{name: cart, port: 80, weight: 9}, {name: pay, port: 80, weight: 1}]", 1)

// carries tells whether the routes that are served carry bounds of limits.
func carries(t *testing.T, c *core) bool {
	t.Helper()
	body, err := c.fleets[edge].served.Get(translate.RDS, edge+"/80").JSON()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(body), "requests_per_unit")
}

// TestQuotasAreForEnvoysThatTakeThem: while one below 1.39 is connected bounds are not in routes, at whichever
// replica it is.
func TestQuotasAreForEnvoysThatTakeThem(t *testing.T) {
	objects := split(t)
	p := newPair()
	var connected []xds.Proxy
	p.leader.options.Limits.Proxies = func() []xds.Proxy { return connected }
	p.follower.options.Limits.Proxies = func() []xds.Proxy { return nil }
	for _, c := range []*core{p.leader, p.follower} {
		c.rebuild(p.now, source.Update{Store: objects})
	}
	p.leader.hear(p.now, replica.Event{Joined: true})
	quotas := func(why string, want bool, generation uint64) {
		t.Helper()
		p.tick(t)
		for name, c := range map[string]*core{"leader": p.leader, "follower": p.follower} {
			if got, number := carries(t, c), c.fleets[edge].number; got != want || number != generation {
				t.Errorf("%s: bounds in the %s's routes: %v, want %v; generation %d, want %d", why, name, got, want, number, generation)
			}
		}
		if differ := p.different(); len(differ) > 0 {
			t.Errorf("%s: %v differ", why, differ)
		}
	}
	quotas("nobody is connected", true, 1)
	connected = []xds.Proxy{envoy(edge, "1.40.0"), envoy(edge, "1.39.1"), envoy(edge, ""), envoy("shop/other", "1.38.3"), {Node: "grpc", Fleet: edge, Agent: "gRPC Go", Build: "1.38.0"}}
	quotas("those that are connected take them", true, 1)
	connected = append(connected, envoy(edge, "1.38.3"))
	quotas("one does not", false, 2)
	quotas("it is there still", false, 2)
	if h := p.leader.fleets[edge].history; !strings.Contains(h[len(h)-1].Why, "an Envoy 1.38.3 is connected") {
		t.Errorf("the generation is there because %q", h[len(h)-1].Why)
	}
	late := newPair().follower
	p.leader.hear(p.now, replica.Event{Joined: true})
	told := p.leader.takeTold(p.now)
	late.hear(p.now, replica.Event{Told: told})
	late.rebuild(p.now, source.Update{Store: objects})
	if !late.fleets[edge].served.Equal(p.leader.fleets[edge].served) {
		t.Error("a replica that comes late serves other routes than its leader")
	}
	connected = connected[:1]
	quotas("it is gone, maybe for a moment", false, 2)
	p.now = p.now.Add(oldStays)
	quotas("it is gone", true, 3)
}

// TestANewLeaderKnowsOldEnvoys: it was told of one, whose replica has not come to it yet; or it was told nothing,
// and has one itself. In neither case do routes carry bounds for a moment.
func TestANewLeaderKnowsOldEnvoys(t *testing.T) {
	p := newPair()
	p.leader.options.Limits.Proxies, p.follower.options.Limits.Proxies = oldEnvoy, noEnvoy
	for _, c := range []*core{p.leader, p.follower} {
		c.rebuild(p.now, source.Update{Store: split(t)})
	}
	p.leader.hear(p.now, replica.Event{Joined: true})
	p.tick(t)
	p.now = p.now.Add(oldStays) // it was told long ago
	p.follower.hear(p.now, replica.Event{Role: &replica.Role{Leads: true}})
	p.follower.step(p.now, nil)
	if carries(t, p.follower) {
		t.Error("the new leader's routes carry bounds, as if the old Envoy of another replica had gone")
	}
	p.now = p.now.Add(oldStays)
	p.follower.step(p.now, nil)
	if !carries(t, p.follower) {
		t.Error("nobody has brought an old Envoy, and the routes carry no bounds")
	}

	untold := newPair().follower
	untold.options.Limits.Proxies = oldEnvoy
	untold.hear(p.now, replica.Event{Role: &replica.Role{Leads: true}})
	untold.rebuild(p.now, source.Update{Store: split(t)})
	if carries(t, untold) {
		t.Error("a leader that was told nothing does not look at its own Envoys before it serves")
	}
}

// TestALimitOfLaterKnowsOldEnvoys: the Envoy was there before any limit of which routes could carry the bound.
func TestALimitOfLaterKnowsOldEnvoys(t *testing.T) {
	p := newPair()
	p.leader.options.Limits.Proxies, p.follower.options.Limits.Proxies = oldEnvoy, noEnvoy
	for _, c := range []*core{p.leader, p.follower} {
		c.rebuild(p.now, source.Update{Store: store(t, gateway, splitRoute, shop("pay", 2))})
	}
	p.leader.hear(p.now, replica.Event{Joined: true})
	p.tick(t)
	for name, c := range map[string]*core{"leader": p.leader, "follower": p.follower} {
		c.rebuild(p.now, source.Update{Store: split(t)})
		if carries(t, c) {
			t.Errorf("the %s's routes carry bounds", name)
		}
	}
}

// TestAStartKnowsOldEnvoys: those that come back before the objects are read are seen, those that come later are
// remembered.
func TestAStartKnowsOldEnvoys(t *testing.T) {
	connected := func(proxies func() []xds.Proxy) Limits {
		return Limits{Service: newCounter(), Address: here, Proxies: proxies}
	}
	c := limitedBy(connected(oldEnvoy), lastgood.State{})
	c.rebuild(start, source.Update{Store: split(t)})
	if carries(t, c) {
		t.Error("the routes carry bounds, with an old Envoy connected")
	}
	again := restart(t, c, start)
	again.options.Limits = connected(noEnvoy)
	now := start.Add(oldStays)
	again.rebuild(now, source.Update{Store: split(t)})
	again.step(now, nil)
	if carries(t, again) {
		t.Error("the routes carry bounds before the old Envoy can have come back")
	}
	now = now.Add(oldStays)
	again.step(now, nil)
	if !carries(t, again) {
		t.Error("the old Envoy has not come back, and the routes carry no bounds")
	}
}
