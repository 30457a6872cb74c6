package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// tester is what is common to a testing.T and a rapid.T.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is what a fleet is served, in short: the content of clusters, endpoints and routes by name, and
// which clusters a route names.
type world struct {
	clusters, endpoints map[string]int
	routes              map[string][]string
}

// snapshot is the world in the form of a Snapshot, the successor of what the cache has.
func (w world) snapshot(t tester, cache *snapshot.Cache) *snapshot.Snapshot {
	t.Helper()
	resources := map[string][]types.Resource{}
	for name, content := range w.clusters {
		resources[translate.CDS.URL()] = append(resources[translate.CDS.URL()], &clusterv3.Cluster{
			Name: name, ConnectTimeout: durationpb.New(time.Duration(content+1) * time.Second),
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{ServiceName: name},
		})
	}
	for name, content := range w.endpoints {
		resources[translate.EDS.URL()] = append(resources[translate.EDS.URL()], &endpointv3.ClusterLoadAssignment{
			ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{Priority: uint32(content)}},
		})
	}
	for name, clusters := range w.routes {
		rc := &routev3.RouteConfiguration{Name: name}
		for _, c := range clusters {
			rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{Name: c, Domains: []string{c}, Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: c}}},
			}}})
		}
		resources[translate.RDS.URL()] = append(resources[translate.RDS.URL()], rc)
	}
	s, err := cachev3.NewSnapshot("", resources)
	if err != nil {
		t.Fatal(err)
	}
	if err := cache.SetSnapshot(context.Background(), "fleet", s); err != nil {
		t.Fatal(err)
	}
	return cache.Current("fleet")
}

// client is a correct client of a session, without a network: what it stores is what the protocol says.
type client struct {
	t       tester
	session *Session
	delta   bool
	now     time.Time
	served  *snapshot.Snapshot
	// store is the version of each resource it has, by type and name: the hash of its bytes, on either protocol.
	store map[translate.Type]map[string]string
	// refuses says what a client does not like.
	refuses func(kind translate.Type, name, version string) bool
	// names has the words of a refusal name the resource.
	names bool
	// asked are the names that it wants now, by type.
	asked map[translate.Type][]string
	// last is the last nonce, version the last that it took, as a SotW client repeats them.
	last, version map[translate.Type]string
	log           []string
}

var selections snapshot.Selections

func newClient(t tester, protocol Protocol) *client {
	return &client{t: t, delta: protocol == Delta, now: epoch, store: map[translate.Type]map[string]string{},
		asked: map[translate.Type][]string{}, last: map[translate.Type]string{}, version: map[translate.Type]string{},
		session: New(&Options{
			Protocol: protocol, MaxTypes: 16, MaxNames: 1000, Wait: 5 * time.Second, Retry: 30 * time.Second, MaxRetry: 10 * time.Minute,
			Select: selections.Of,
		})}
}

func (c *client) ask(req Request) *Answer {
	c.t.Helper()
	answer, err := c.session.Receive(c.now, req, c.served)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// subscribe asks for names of a type, none for all there are.
func (c *client) subscribe(kind translate.Type, names ...string) {
	c.t.Helper()
	for _, name := range names {
		if !slices.Contains(c.asked[kind], name) {
			c.asked[kind] = append(slices.Clone(c.asked[kind]), name)
		}
	}
	if c.delta {
		c.ask(Request{URL: kind.URL(), Subscribe: names})
		return
	}
	c.ask(Request{URL: kind.URL(), Names: c.asked[kind], Nonce: c.last[kind], Version: c.version[kind]})
}

// response is a decoded response.
type response struct {
	kind    translate.Type
	nonce   string
	version string
	has     map[string]string // version by name
	removed []string
}

// next takes the response that is due, if any.
func (c *client) next() (response, bool) {
	c.t.Helper()
	r, wait := c.session.Next(c.now, c.served)
	if r == nil {
		return response{}, false
	}
	if wait != 0 {
		c.t.Fatal("a response and a wait")
	}
	wire := slices.Concat(r.Wire...)
	out := response{kind: r.Type, nonce: r.Nonce, version: r.Version, has: map[string]string{}}
	if c.delta {
		var m discoveryv3.DeltaDiscoveryResponse
		if err := proto.Unmarshal(wire, &m); err != nil {
			c.t.Fatal(err)
		}
		if m.GetNonce() != r.Nonce || m.GetTypeUrl() != r.Type.URL() || len(m.GetResources()) != r.Resources {
			c.t.Fatalf("the wire says %v, the session %+v", &m, r)
		}
		for _, res := range m.GetResources() {
			if _, twice := out.has[res.GetName()]; twice {
				c.t.Fatalf("%s twice in a response", res.GetName())
			}
			if res.GetResource().GetTypeUrl() != m.GetTypeUrl() {
				c.t.Fatalf("%s in a response of %s", res.GetResource().GetTypeUrl(), m.GetTypeUrl())
			}
			out.has[res.GetName()] = res.GetVersion()
		}
		out.removed = m.GetRemovedResources()
	} else {
		var m discoveryv3.DiscoveryResponse
		if err := proto.Unmarshal(wire, &m); err != nil {
			c.t.Fatal(err)
		}
		if m.GetNonce() != r.Nonce || m.GetTypeUrl() != r.Type.URL() || len(m.GetResources()) != r.Resources || m.GetVersionInfo() != r.Version {
			c.t.Fatalf("the wire says %v, the session %+v", &m, r)
		}
		for _, packed := range m.GetResources() {
			message, err := packed.UnmarshalNew()
			if err != nil {
				c.t.Fatal(err)
			}
			out.has[cachev3.GetResourceName(message)] = cachev3.HashResource(packed.GetValue())
		}
	}
	return out, true
}

// take stores a response and acknowledges it, or refuses it whole. It returns the session's Answer.
func (c *client) take(r response) *Answer {
	c.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(r.has)) {
		if c.refuses != nil && c.refuses(r.kind, name, r.has[name]) {
			words := "malformed IP address: foo.bar"
			if c.names {
				words = fmt.Sprintf(`Proto constraint validation failed: cluster_name: "%s"`, name)
			}
			return c.refuse(r, words)
		}
	}
	if c.store[r.kind] == nil {
		c.store[r.kind] = map[string]string{}
	}
	if !c.delta && fullState(r.kind) {
		clear(c.store[r.kind])
	}
	maps.Copy(c.store[r.kind], r.has)
	for _, name := range r.removed {
		delete(c.store[r.kind], name)
	}
	line := fmt.Sprintf("%s %s", r.kind, strings.Join(slices.Sorted(maps.Keys(r.has)), ","))
	if len(r.removed) > 0 {
		line += " -" + strings.Join(r.removed, ",-")
	}
	c.log = append(c.log, line)
	c.version[r.kind] = r.version
	return c.ask(c.answerTo(r))
}

// refuse takes nothing of a response.
func (c *client) refuse(r response, words string) *Answer {
	c.t.Helper()
	c.log = append(c.log, fmt.Sprintf("refuse %s %s", r.kind, strings.Join(slices.Sorted(maps.Keys(r.has)), ",")))
	req := c.answerTo(r)
	req.Refused = &words
	return c.ask(req)
}

func (c *client) answerTo(r response) Request {
	c.last[r.kind] = r.nonce
	req := Request{URL: r.kind.URL(), Nonce: r.nonce}
	if !c.delta {
		req.Names, req.Version = c.asked[r.kind], c.version[r.kind]
	}
	return req
}

// settle takes and answers all that is due, and returns what happened.
func (c *client) settle() []string {
	c.t.Helper()
	from := len(c.log)
	for range 2000 {
		r, ok := c.next()
		if !ok {
			return c.log[from:]
		}
		c.take(r)
	}
	c.t.Fatal("responses without end")
	return nil
}
