package xds

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"evenkeel.io/controlplane/internal/translate"
)

const cartEndpoints = "shop/cart:80"

// pair are two replicas of the same objects, of which the first leads. Their messages pass when the test says so.
type pair struct {
	t                *testing.T
	leader, follower *plane
	alone            atomic.Bool // the follower hears nobody
}

func startPair(t *testing.T) *pair {
	p := &pair{t: t}
	// The second has nodes of the fleet when one is connected.
	p.leader = startPlane(t, Options{
		Voters: func(string) []string {
			if p.follower != nil && len(p.follower.Registry().Proxies()) > 0 {
				return []string{"b"}
			}
			return nil
		},
		Elsewhere: func(string, int) int { return len(p.follower.Registry().Proxies()) },
	})
	p.follower = startPlane(t, Options{
		Judges: func() bool { return p.alone.Load() }, Voters: func(string) []string { return nil },
		Elsewhere: func(string, int) int { return len(p.leader.Registry().Proxies()) },
	})
	return p
}

// over is v as the other replica decodes it.
func over[T any](t *testing.T, v T) (decoded T) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

// talk is one exchange of messages.
func (p *pair) talk() {
	p.t.Helper()
	leader, follower := p.leader.Registry(), p.follower.Registry()
	leader.HearVotes("b", over(p.t, follower.Votes(over(p.t, leader.Cases()))))
	follower.Rule(over(p.t, leader.Verdicts()))
}

func (p *pair) set(version string, n uint32) {
	p.t.Helper()
	for _, plane := range []*plane{p.leader, p.follower} {
		plane.set(fleet, version, resourcesOf(cartEndpoints, n))
	}
}

// refuse has a client refuse what it is sent next, and waits until that is known.
func (p *pair) refuse(plane *plane, id string, c *deltaClient) {
	p.t.Helper()
	c.nack(c.recv(), `cluster_name: "shop/cart:80"`)
	plane.untilState(id, translate.EDS, Nacked)
}

// served is the version of the endpoints that each replica serves, by the label that the leader's was set with.
func (p *pair) served() (labels [2]string) {
	for i, plane := range []*plane{p.leader, p.follower} {
		now := plane.cache.Current(fleet).Get(translate.EDS, cartEndpoints).Version
		for label, s := range p.leader.labels {
			if s.Get(translate.EDS, cartEndpoints).Version == now {
				labels[i] = label
			}
		}
	}
	return labels
}

func (p *pair) want(what, label string) {
	p.t.Helper()
	if got := p.served(); got != [2]string{label, label} {
		p.t.Errorf("%s: the replicas serve %v, want %s", what, got, label)
	}
}

// TestTwoVoicesOverAllReplicas: one node of each replica refuses, and none took it: all are served the version
// before, until the object changes, which ends it everywhere.
func TestTwoVoicesOverAllReplicas(t *testing.T) {
	p := startPair(t)
	p.set("1", 1)
	here, there := p.leader.endpointsOf("envoy-0"), p.follower.endpointsOf("envoy-1")
	p.set("2", 2)
	p.refuse(p.leader, "envoy-0", here)
	p.talk()
	p.want("only one has refused it", "2")
	p.refuse(p.follower, "envoy-1", there)
	p.talk()
	p.want("one of each has refused it", "1")
	for what, plane := range map[string]*plane{"leader": p.leader, "follower": p.follower} {
		if n := plane.Registry().Nacks(); len(n) != 1 || !strings.Contains(n[0].Instead, "the whole fleet") {
			t.Errorf("the %s's refusal: %+v", what, n)
		}
		if got := plane.state("envoy-0", translate.EDS).State; plane == p.leader && got != Nacked {
			t.Errorf("the node is %s: what it has is not what was meant", got)
		}
	}
	p.talk()
	p.want("it stays so", "1")
	// The object changes, at one replica before the other.
	p.leader.set(fleet, "3", resourcesOf(cartEndpoints, 3))
	p.talk()
	if got := p.served(); got != [2]string{"3", "1"} {
		t.Errorf("one has seen the change: %v", got)
	}
	p.follower.set(fleet, "3", resourcesOf(cartEndpoints, 3))
	p.talk()
	p.want("both have seen the change", "3")
	here.ack(here.recv())
	there.ack(there.recv())
	if n := len(p.leader.Registry().Verdicts()) + len(p.leader.Registry().Cases()) + len(p.follower.Registry().Votes(nil)); n != 0 {
		t.Errorf("%d things are said about what nobody serves", n)
	}
	p.set("2", 2)
	p.want("it is tried again when the object is as it was", "2")
}

// TestTheOnlyEnvoyOverAllReplicas: what it refuses is taken back at all, wherever it is connected; a node of the
// other replica makes it one of two.
func TestTheOnlyEnvoyOverAllReplicas(t *testing.T) {
	for _, others := range []int{0, 1} {
		p := startPair(t)
		p.set("1", 1)
		c := p.follower.endpointsOf("envoy-1")
		want := "1"
		if others == 1 {
			want = "2"
			p.leader.endpointsOf("envoy-0")
		}
		p.set("2", 2)
		p.refuse(p.follower, "envoy-1", c)
		p.want("the leader has not been told", "2")
		p.talk()
		p.want("of the only one", want)
	}
}

// TestWhatIsTakenElsewhereIsNotTakenBack, and not before a replica that has nodes of the fleet was heard.
func TestWhatIsTakenElsewhereIsNotTakenBack(t *testing.T) {
	p := startPair(t)
	p.set("1", 1)
	one, two, there := p.leader.endpointsOf("envoy-0"), p.leader.endpointsOf("envoy-1"), p.follower.endpointsOf("envoy-2")
	p.set("2", 2)
	there.ack(there.recv())
	p.follower.untilState("envoy-2", translate.EDS, Synced)
	p.refuse(p.leader, "envoy-0", one)
	p.refuse(p.leader, "envoy-1", two)
	p.want("the follower was not asked", "2")
	for range 3 {
		p.talk()
		p.want("a node of the follower took it", "2")
	}
	if n := p.leader.Registry().Cases(); len(n) != 0 {
		t.Errorf("it is asked about still: %v", n)
	}

	p.set("3", 3)
	p.refuse(p.leader, "envoy-0", one)
	p.refuse(p.leader, "envoy-1", two)
	p.want("the follower was not asked", "3")
	p.talk()
	p.want("its node has not taken this one", "1")
}

// TestAReplicaThatIsBehindParksInTime: what was found before a replica has the version is not served by it.
func TestAReplicaThatIsBehindParksInTime(t *testing.T) {
	p := startPair(t)
	p.set("1", 1)
	c := p.leader.endpointsOf("envoy-0")
	late := p.follower.delta()
	p.leader.set(fleet, "2", resourcesOf(cartEndpoints, 2))
	p.refuse(p.leader, "envoy-0", c) // the only one
	p.talk()
	p.follower.set(fleet, "2", resourcesOf(cartEndpoints, 2))
	p.want("the follower has come to it", "1")
	late.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{cartEndpoints}})
	if got := late.recv().GetResources()[0].GetVersion(); got != p.follower.labels["1"].Get(translate.EDS, cartEndpoints).Version {
		t.Error("a node of the follower is served what nobody took")
	}
}

// TestAReplicaOnItsOwn judges for itself, and the leader takes it over when it is heard again. Who takes over
// from the leader goes on from its verdicts.
func TestAReplicaOnItsOwn(t *testing.T) {
	p := startPair(t)
	p.alone.Store(true)
	p.set("1", 1)
	one, two := p.follower.endpointsOf("envoy-1"), p.follower.endpointsOf("envoy-2")
	p.set("2", 2)
	p.refuse(p.follower, "envoy-1", one)
	p.refuse(p.follower, "envoy-2", two)
	if got := p.served(); got != [2]string{"2", "1"} {
		t.Fatalf("the replica on its own: %v", got)
	}
	p.alone.Store(false)
	p.talk()
	p.want("the leader hears of it", "1")

	p.alone.Store(true) // the leader is dead
	if got := p.follower.Registry().Verdicts(); len(got) != 1 || got[0].Name != cartEndpoints {
		t.Errorf("who takes over has verdicts %v", got)
	}
}

// TestVotesAreBounded: no more cases than one can tell of, and nothing that is not valid.
func TestVotesAreBounded(t *testing.T) {
	p := startPair(t)
	p.set("1", 1)
	p.leader.endpointsOf("envoy-0")
	var asked []Case
	for i := range maxCases + 3 {
		asked = append(asked, Case{Fleet: fleet, Type: translate.EDS, Name: strings.Repeat("x", i+1), Version: "1"})
	}
	if n := len(p.follower.Registry().Votes(asked)); n != maxCases {
		t.Errorf("%d votes, want %d", n, maxCases)
	}
	if n := p.follower.counter("evenkeel_xds_cases_untold_total"); n != 3 {
		t.Errorf("%v are counted, want 3", n)
	}
	served := p.leader.cache.Current(fleet).Get(translate.EDS, cartEndpoints)
	what := Case{Fleet: fleet, Type: translate.EDS, Name: cartEndpoints, Version: served.Version}
	for name, good := range map[string]string{
		"nothing": `null`, "no resource": `{"type": "eds", "name": "shop/cart:80", "version": "1", "bytes": "AAAA"}`,
		"itself": string(must(json.Marshal(&Good{served}))),
	} {
		var v Verdict
		if err := json.Unmarshal([]byte(`{"good": `+good+`}`), &v); err != nil {
			t.Fatal(err)
		}
		v.Case = what
		p.leader.Registry().Rule([]Verdict{v})
		p.leader.Registry().HearVotes("b", []Vote{{Case: what, Served: true, RefusedBy: []string{"a", "b"}, Good: v.Good}})
		if now := p.leader.cache.Current(fleet).Get(translate.EDS, cartEndpoints); !reflect.DeepEqual(now, served) {
			t.Errorf("%s is served instead: %v", name, now)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
