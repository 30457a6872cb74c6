package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
	"evenkeel.io/controlplane/internal/limittest"
)

// daily is a limit of a tenant that earns nothing back while a test runs.
const daily = "  - {name: tenant, key: [header:X-Tenant], rate: {requests: %d, per: 24h}}\n"

// limitedPair are two replicas, the first of which leads, each with an Envoy. Both Envoys listen on the same port, and
// the kernel shares out its connections. The first one's xDS comes over the link.
func limitedPair(t *testing.T, requests int, args ...string) (a, b *rig, xds *link) {
	t.Helper()
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	a = newRig(t, 1)
	a.alone = true
	a.write("base.yaml", a.base())
	a.write("route.yaml", route(toCart))
	a.write("slice.yaml", a.slice("", 0))
	a.limited("Deny", fmt.Sprintf(daily, requests))
	args = append([]string{"--rls-timeout", "2s"}, args...)
	a.startReplica(server, namespace, "a", args...)
	b = a.oneMore()
	b.startReplica(server, namespace, "b", args...)
	if leader, err := b.follows(); err != nil || !strings.HasPrefix(leader, "a (") {
		t.Fatalf("b follows %q, %v", leader, err)
	}
	between := a.freePort(netip.MustParseAddr("127.0.0.1"))
	xds = a.listenBetween(between, a.ports.xds)
	a.startEnvoyOf("a", between)
	b.startEnvoyOf("b", b.ports.xds)
	return a, b, xds
}

func (r *rig) startEnvoyOf(node string, xds uint16) {
	r.t.Helper()
	path, err := demo.FindEnvoy()
	if err != nil {
		r.t.Skip(err)
	}
	r.startEnvoyWith(path, r.bootstrap("shop/edge", node, xds))
}

// sentTo waits until the Envoy of each rig asks the services of these, and of no others.
func sentTo(why string, rigs []*rig, services ...*rig) {
	var want []string
	for _, s := range services {
		want = append(want, loopback(s.ports.limits))
	}
	slices.Sort(want)
	for _, r := range rigs {
		r.t.Helper()
		r.eventually(why, func() error {
			all, err := r.envoy.Hosts(r.t.Context())
			if err != nil {
				return err
			}
			var asked []string
			for _, h := range all {
				if h.Cluster == "rls" {
					asked = append(asked, h.Address)
				}
			}
			if slices.Sort(asked); !slices.Equal(asked, want) {
				return fmt.Errorf("an Envoy asks %v, want %v", asked, want)
			}
			return nil
		})
	}
}

// inForce waits until every service answers every Envoy with a limit.
func (r *rig) inForce(limit string) {
	r.t.Helper()
	inARow := 0
	r.eventually("a limit of "+limit+" is in force", func() error {
		if err := r.limitIs(limit, "probe"); err != nil {
			inARow = 0
			return err
		}
		if inARow++; inARow < 20 {
			return fmt.Errorf("%d times in a row", inARow)
		}
		return nil
	})
}

// bothServed fails unless both Envoys had requests since the last call, which returned counts.
func bothServed(a, b *rig, before [2]int) [2]int {
	a.t.Helper()
	const requests = "http.shop/edge/%d.downstream_rq_total"
	now := [2]int{a.stat(requests), b.stat(requests)}
	for i := range now {
		if now[i] == before[i] {
			a.t.Errorf("Envoys served %v requests, and %v before: one of them none", now, before)
		}
	}
	return now
}

// TestTheLeaderCounts for the Envoys of all replicas; when it is gone, the one that leads next does.
func TestTheLeaderCounts(t *testing.T) {
	a, b, xds := limitedPair(t, 20)
	both := []*rig{a, b}
	sentTo("the leader is asked", both, a)
	a.inForce("20")
	served := bothServed(a, b, [2]int{})
	a.admits(60, 20, "a", "a tenant with 20, over both Envoys")
	served = bothServed(a, b, served)
	if n := b.metric("evenkeel_rls_requests_total"); n != 0 {
		t.Errorf("the follower was asked %v times", n)
	}

	a.plane.Kill()
	xds.to.Store(uint32(b.ports.xds))
	b.untilLeading()
	sentTo("the new leader is asked", both, b)
	a.inForce("20")
	a.admits(60, 20, "b", "another tenant, over both Envoys")
	bothServed(a, b, served)
}

// TestAllReplicasCountInRedis: both are asked, and what they admit together is what one would. A limit that changes
// half way holds at once, and what was used stays used.
func TestAllReplicasCountInRedis(t *testing.T) {
	a, b, _ := limitedPair(t, 100, "--rls-redis", limittest.Redis(t).URL())
	sentTo("both are asked", []*rig{a, b}, a, b)
	a.inForce("100")
	served := bothServed(a, b, [2]int{})
	a.admits(150, 100, "a", "a tenant with 100")
	a.admits(50, 50, "b", "another one, half way")
	bothServed(a, b, served)
	for _, r := range []*rig{a, b} {
		if r.metric("evenkeel_rls_requests_total") == 0 {
			t.Error("a replica was asked nothing")
		}
	}
	// What is used up stays used up: all of it, and half of it.
	a.limited("Deny", fmt.Sprintf(daily, 140))
	a.inForce("140")
	a.admits(20, 0, "a", "a tenant that used 100 of 100, when it became 140")
	a.admits(90, 70, "b", "a tenant that used 50 of 100, when it became 140")
	a.admits(70, 70, "c", "one that comes then, half way")
	a.limited("Deny", fmt.Sprintf(daily, 40))
	a.inForce("40")
	a.admits(20, 0, "b", "a tenant that used all of 140, when it became 40")
	a.admits(40, 20, "c", "a tenant that used 70 of 140, when it became 40")
}
