package xds_test

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"pgregory.net/rapid"
)

// TestClientsConverge (P26): whatever happens, in whatever order, clients of both protocols on two
// replicas of ours and on go-control-plane's server end with the same bytes: those of the last
// snapshot that they asked for.
//
// Clients refuse some versions of servers that are not listed to lose the others by it.
func TestClientsConverge(t *testing.T) {
	type host struct {
		running
		server
	}
	var hosts []host
	for _, s := range []server{servers[0], servers[0], servers[1]} {
		hosts = append(hosts, host{s.start(t), s})
	}
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		// Each opens connections and streams by the dozen; more of them when they are asked for.
		_ = flag.Set("rapid.checks", "25")
		t.Cleanup(func() { _ = flag.Set("rapid.checks", checks.DefValue) })
	}
	var fleets atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		fleet := fmt.Sprint("shop/", fleets.Add(1))
		world := map[string]int{"a": 1}
		var clients []*model
		defer func() {
			for _, c := range clients {
				c.close()
			}
		}()
		set := func() {
			var resources []served
			for name, revision := range world {
				resources = append(resources, service(name, revision)...)
			}
			next := snapshotOf(resources...)
			for _, h := range hosts {
				h.set(fleet, next)
			}
		}
		set()
		all := &trial{t: t, patience: patience}
		all.run(func(r *trial) {
			for _, h := range hosts {
				for _, protocol := range both {
					_, fails := h.failing("P9 changed", protocol)
					c := &model{host: &trial{t: t, running: h.running, protocol: protocol, patience: patience}, refusing: !fails, fleet: fleet, wanted: map[string]bool{"a": true}}
					c.connect()
					clients = append(clients, c)
				}
			}
			names := rapid.SampledFrom([]string{"a", "b", "c", "d"})
			for range rapid.IntRange(1, 12).Draw(rt, "steps") {
				switch rapid.SampledFrom([]string{"set", "set", "subscribe", "unsubscribe", "read", "reconnect"}).Draw(rt, "step") {
				case "set":
					for range rapid.IntRange(1, 3).Draw(rt, "changes") {
						name, revision := names.Draw(rt, "name"), rapid.IntRange(0, badRevision).Draw(rt, "revision")
						if revision == 0 {
							delete(world, name)
						} else {
							world[name] = revision
						}
					}
					set()
				case "subscribe":
					name := names.Draw(rt, "name")
					for _, c := range clients {
						c.want(name)
					}
				case "unsubscribe":
					name := names.Draw(rt, "name")
					for _, c := range clients {
						c.drop(name)
					}
				case "read":
					for _, c := range clients {
						c.read(time.Millisecond)
					}
				case "reconnect":
					for _, c := range clients {
						c.close()
						c.connect()
					}
				}
			}
			for i, c := range clients {
				for deadline := time.Now().Add(patience); !c.has(world); {
					if !c.read(time.Until(deadline)) {
						r.Fatalf("client %d (%s) never has %v of %v: %v", i, c.host.protocol, slices.Sorted(maps.Keys(c.wanted)), world, c.peer.has())
					}
				}
			}
		})
		for _, c := range clients {
			all.failures = append(all.failures, c.host.failures...)
		}
		if len(all.failures) > 0 {
			rt.Fatal(all.failures)
		}
	})
}

// badRevision is one of an assignment that a refusing client refuses.
const badRevision = 5

// model is a client that does what the protocol says, at a pace of its own, over several streams.
type model struct {
	*peer
	host     *trial
	fleet    string
	refusing bool
	wanted   map[string]bool

	connections int
}

// connect opens a stream and asks for what the client wants, telling what it has.
func (c *model) connect() {
	before := c.peer
	c.connections++
	// Under another name each time: the streams of a node are bounded, and the last may not be known to have ended.
	c.peer = c.host.peer(fmt.Sprintf("envoy-%s-%d", c.host.protocol, c.connections), c.fleet)
	if before != nil {
		c.peer.store, c.peer.versions, c.peer.accepted = before.store, before.versions, before.accepted
	}
	c.request(resource.ClusterType)
	if len(c.wanted) > 0 {
		c.request(resource.EndpointType, slices.Sorted(maps.Keys(c.wanted))...)
	}
}

func (c *model) request(url string, names ...string) {
	if c.protocol == sotw {
		c.subscribe(url, names...)
		return
	}
	c.send(request{url: url, subscribe: names, initial: c.versions[url]})
}

func (c *model) want(name string) {
	if !c.wanted[name] {
		c.wanted[name] = true
		c.subscribe(resource.EndpointType, name)
	}
}

// drop keeps the last name: a list without any, as the first, would ask for everything.
func (c *model) drop(name string) {
	if c.wanted[name] && len(c.wanted) > 1 {
		delete(c.wanted, name)
		delete(c.store[resource.EndpointType], name)
		delete(c.versions[resource.EndpointType], name)
		c.unsubscribe(resource.EndpointType, name)
	}
}

// read answers one message; false if none came in time.
func (c *model) read(within time.Duration) bool {
	m := c.any(within)
	if m == nil {
		return false
	}
	if m.url == resource.EndpointType {
		for name, body := range m.bodies {
			if c.refusing && string(body.GetValue()) == string(assignment(name, badRevision).Bytes) {
				c.nack(m, "no")
				return true
			}
			if !c.wanted[name] {
				delete(m.bodies, name)
			}
		}
	}
	c.accept(m)
	return true
}

// has reports whether the client has exactly the clusters of a world, and of the assignments that it
// wants those that exist. On SotW no one says that an assignment is gone; of one that it refuses the
// client has an older version, or none.
func (c *model) has(world map[string]int) bool {
	if len(c.store[resource.ClusterType]) != len(world) {
		return false
	}
	for name, revision := range world {
		if !c.holds(cluster(name, revision)) {
			return false
		}
		if c.wanted[name] && !(c.refusing && revision == badRevision) && !c.holds(assignment(name, revision)) {
			return false
		}
	}
	if c.protocol == delta {
		for name := range c.store[resource.EndpointType] {
			if world[name] == 0 {
				return false
			}
		}
	}
	return true
}
