package xds_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	grpcxds "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/emptypb"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// mesh is grpc-go's own xDS client, the second data plane, against our server. Its backends know no method
// at all: that one answered "unimplemented" says that it was asked, and who was.
type mesh struct {
	*testing.T
	running
	backends []string // addresses
	resolver resolver.Builder
}

func newMesh(t *testing.T, backends int) *mesh {
	m := &mesh{T: t, running: startOurs(t)}
	for range backends {
		lis := listen(t)
		s := grpc.NewServer()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.Serve(lis)
		}()
		t.Cleanup(func() {
			s.Stop()
			<-ended
		})
		m.backends = append(m.backends, lis.Addr().String())
	}
	bootstrap, err := json.Marshal(map[string]any{
		"xds_servers": []any{map[string]any{"server_uri": m.address, "channel_creds": []any{map[string]any{"type": "insecure"}}}},
		"node":        map[string]any{"id": "checkout-1", "cluster": fleet},
	})
	if err != nil {
		m.Fatal(err)
	}
	if m.resolver, err = grpcxds.NewXDSResolverWithConfigForTesting(bootstrap); err != nil {
		m.Fatal(err)
	}
	return m
}

// service is a Service with these backends; weight i is that of the i-th, 1 if there are none.
func (m *mesh) service(name string, backends []string, weights ...float64) *catalog.Service {
	s := &catalog.Service{Name: name}
	for i, b := range backends {
		e := catalog.Endpoint{Address: b, Zone: "a", Base: 1, Multiplier: 1}
		if weights != nil {
			e.Base = weights[i]
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// toAll are routes of everything to a Service, for all hosts.
func toAll(service string) []catalog.VirtualHost {
	return []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{Backends: []catalog.Backend{{Service: service, Weight: 1}}}}}}
}

// serve serves a Gateway with one listener, as Envoys are served it.
func (m *mesh) serve(hosts []catalog.VirtualHost, dropPercent uint32, services ...*catalog.Service) {
	m.Helper()
	f := &catalog.Fleet{Name: fleet, Listeners: []catalog.Listener{{Name: fleet + "/8080", Port: 8080, VirtualHosts: hosts}}}
	unencoded := translate.Fleet(f, translate.Options{})
	for _, s := range services {
		a := translate.Assignment(s, nil)
		if dropPercent > 0 {
			a.Message.(*endpointv3.ClusterLoadAssignment).Policy = &endpointv3.ClusterLoadAssignment_Policy{
				DropOverloads: []*endpointv3.ClusterLoadAssignment_Policy_DropOverload{{
					Category: "overload", DropPercentage: &typev3.FractionalPercent{Numerator: dropPercent},
				}},
			}
		}
		unencoded = append(unencoded, translate.Cluster(s), a)
	}
	var all []served
	for _, r := range unencoded {
		e, err := snapshot.Encode(r)
		if err != nil {
			m.Fatal(err)
		}
		all = append(all, e)
	}
	m.set(fleet, snapshotOf(all...))
}

// channel is a client's to a name.
type channel struct {
	*mesh
	conn *grpc.ClientConn
}

func (m *mesh) dial(name string, options ...grpc.DialOption) channel {
	m.Helper()
	options = append(options, grpc.WithResolvers(m.resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("xds:///"+name, options...)
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { conn.Close() })
	return channel{m, conn}
}

// call sends a request, and returns who answered it: "" if the client refused to send it.
func (c channel) call(method string, headers ...string) string {
	c.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(c.Context(), headers...), patience)
	defer cancel()
	var by grpcpeer.Peer
	err := c.conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{}, grpc.Peer(&by))
	switch status.Code(err) {
	case codes.Unimplemented:
		return by.Addr.String()
	case codes.Unavailable:
		return ""
	}
	c.Fatalf("%s: %v", method, err)
	return ""
}

// shares counts where n requests went. grpc-go itself refuses some when a route changes to a cluster that
// it did not know: its routes may be newer than its pickers.
func (c channel) shares(n int) map[string]int {
	counts := map[string]int{}
	for range n {
		counts[c.call("/shop.Cart/Get")]++
	}
	return counts
}

// until sends requests until a condition holds of the answers.
func (m *mesh) until(what string, holds func() bool) {
	m.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			m.Fatalf("never: %s; refusals %+v", what, m.refusals())
		}
	}
}

func (m *mesh) nothingRefused() {
	m.Helper()
	if n := m.refusals(); len(n) != 0 {
		m.Errorf("grpc-go refused %+v", n)
	}
}

// near allows for six standard deviations of a share of n.
func near(count, n int, share float64) bool {
	return math.Abs(float64(count)-share*float64(n)) <= 6*math.Sqrt(float64(n)*share*(1-share))
}

// TestGRPCHeedsWeights and their changes, with no request failed, and no longer sends to an endpoint that
// is gone.
func TestGRPCHeedsWeights(t *testing.T) {
	const cart = "shop/cart:80"
	m := newMesh(t, 3)
	a, b, late := m.backends[0], m.backends[1], m.backends[2]
	m.serve(toAll(cart), 0, m.service(cart, m.backends[:2], 3, 1))
	c := m.dial(fleet + "/8080")
	m.until("both endpoints", func() bool { got := c.shares(20); return got[a] > 0 && got[b] > 0 })
	if got := c.shares(1000); !near(got[a], 1000, 0.75) || got[""] > 0 {
		t.Errorf("at 3 to 1 requests went %v", got)
	}
	unfailed := func(n int) map[string]int {
		t.Helper()
		got := c.shares(n)
		if got[""] > 0 {
			t.Fatalf("a change of endpoints failed %d requests", got[""])
		}
		return got
	}
	m.serve(toAll(cart), 0, m.service(cart, m.backends[:2], 1, 3))
	m.until("the shares of 1 to 3", func() bool { return near(unfailed(400)[b], 400, 0.75) })
	m.serve(toAll(cart), 0, m.service(cart, m.backends, 1, 1, 2))
	m.until("the shares of 1, 1 and 2", func() bool { got := unfailed(400); return near(got[late], 400, 0.5) && near(got[a], 400, 0.25) })
	m.serve(toAll(cart), 0, m.service(cart, m.backends[1:], 1, 1))
	m.until("nothing for the endpoint that is gone", func() bool { return unfailed(50)[a] == 0 })
	if got := unfailed(400); got[a] > 0 || !near(got[b], 400, 0.5) {
		t.Errorf("of two equal endpoints that are left requests went %v", got)
	}
	m.nothingRefused()
}

// TestGRPCDropsWhatItIsTold, in proportion, and nothing any more when it is not.
func TestGRPCDropsWhatItIsTold(t *testing.T) {
	const cart = "shop/cart:80"
	m := newMesh(t, 2)
	serve := func(percent uint32) { m.serve(toAll(cart), percent, m.service(cart, m.backends)) }
	serve(30)
	c := m.dial(fleet + "/8080")
	m.until("an answer", func() bool { return c.call("/shop.Cart/Get") != "" })
	const n = 1500
	if got := c.shares(n); !near(got[""], n, 0.3) {
		t.Errorf("%d of %d dropped, expected 30 %%", got[""], n)
	}
	serve(100)
	m.until("every request dropped", func() bool { return c.shares(20)[""] == 20 })
	serve(0)
	m.until("none dropped", func() bool { return c.shares(40)[""] == 0 })
	m.nothingRefused()
}

// TestGRPCFollowsRoutes of every kind that there is: it takes them, goes where an Envoy would send the
// request, and nowhere where it cannot do to the request what an Envoy would.
func TestGRPCFollowsRoutes(t *testing.T) {
	const cart, pay = "shop/cart:80", "shop/pay:80"
	m := newMesh(t, 2)
	backend := map[string]string{m.backends[0]: "cart", m.backends[1]: "pay", "": "nobody"}
	to := func(name string) []catalog.Backend { return []catalog.Backend{{Service: name, Weight: 1}} }
	at := func(kind catalog.MatchType, path string) catalog.Match {
		return catalog.Match{Path: catalog.PathMatch{Type: kind, Value: path}}
	}
	only := func(match catalog.Match, change func(*catalog.Match)) catalog.Match { change(&match); return match }
	root := at(catalog.Prefix, "/")
	tenant := catalog.HeaderChange{Set: []catalog.Header{{Name: "x-tenant", Value: "a"}}}
	elsewhere := "/shop.Elsewhere"
	shop := []catalog.Route{
		{Match: only(root, func(m *catalog.Match) {
			m.Queries = []catalog.ValueMatch{{Name: "q", Type: catalog.Regex, Value: ".*"}}
		}), Backends: to(pay)},
		{Match: only(root, func(m *catalog.Match) { m.Method = "GET" }), Backends: to(pay)},
		{Match: only(root, func(m *catalog.Match) {
			m.Headers = []catalog.ValueMatch{{Name: "x-team", Type: catalog.Exact, Value: "pay"}, {Name: "x-build", Type: catalog.Regex, Value: "[0-9]+"}}
		}), Backends: to(pay)},
		{Match: only(at(catalog.Prefix, "/shop.Pay"), func(m *catalog.Match) { m.Method = "POST" }), Backends: to(pay), Timeout: 30 * time.Second},
		{Match: at(catalog.Prefix, "/shop.Cart/Checkout"), Backends: to(pay), BackendTimeout: 30 * time.Second},
		{Match: at(catalog.Exact, "/shop.Cart/Pay"), Backends: to(pay)},
		{Match: at(catalog.Regex, "/shop[.]v[0-9]+[.]Pay/.*"), Backends: to(pay), ResponseHeaders: tenant},
		{Match: at(catalog.Prefix, "/shop.Moved"), Redirect: &catalog.Redirect{Hostname: "new.example.com", Code: 302}},
		{Match: at(catalog.Prefix, "/shop.Rewritten"), Backends: to(cart), Rewrite: &catalog.Rewrite{Path: &catalog.PathChange{Prefix: &elsewhere}}},
		{Match: at(catalog.Prefix, "/shop.Renamed"), Backends: to(cart), Rewrite: &catalog.Rewrite{Hostname: "inner.example.com"}},
		{Match: at(catalog.Prefix, "/shop.Changed"), Backends: to(cart), RequestHeaders: tenant},
		{Match: at(catalog.Prefix, "/shop.Nobody"), Backends: []catalog.Backend{{Weight: 1}}},
		{Match: at(catalog.Prefix, "/shop.Split"), Backends: []catalog.Backend{{Service: cart, Weight: 50}, {Weight: 25}, {Service: pay, Weight: 25, RequestHeaders: tenant}}},
		{Match: root, Backends: to(cart)},
	}
	m.serve([]catalog.VirtualHost{
		{Domain: "shop.example.com", Routes: shop},
		{Domain: "*.example.com", Routes: []catalog.Route{{Match: root, Backends: to(pay)}}},
		{Domain: "*", Routes: []catalog.Route{{Match: root, Backends: to(cart)}}},
	}, 0, m.service(cart, m.backends[:1]), m.service(pay, m.backends[1:]))

	c := m.dial("shop.example.com")
	m.until("an answer of each", func() bool { return c.call("/shop.Cart/Get") != "" && c.call("/shop.Pay/Pay") != "" })
	for _, want := range []struct {
		method, by string
		headers    []string
	}{
		{"/shop.Cart/Get", "cart", nil},
		{"/shop.Cart/Get", "pay", []string{"x-team", "pay", "x-build", "7"}},
		{"/shop.Cart/Get", "cart", []string{"x-team", "pay", "x-build", "seven"}},
		{"/shop.Pay/Pay", "pay", nil},
		{"/shop.Payment/Pay", "cart", nil},
		{"/shop.Cart/Checkout", "pay", nil},
		{"/shop.Cart/CheckoutLater", "cart", nil},
		{"/shop.Cart/Pay", "pay", nil},
		{"/shop.v2.Pay/Pay", "pay", nil},
		{"/shop.Moved/Get", "nobody", nil},
		{"/shop.Rewritten/Get", "nobody", nil},
		{"/shop.Renamed/Get", "nobody", nil},
		{"/shop.Changed/Get", "nobody", nil},
		{"/shop.Nobody/Get", "nobody", nil},
	} {
		if got := backend[c.call(want.method, want.headers...)]; got != want.by {
			t.Errorf("%s %v went to %s, expected %s", want.method, want.headers, got, want.by)
		}
	}
	split := map[string]int{}
	for range 400 {
		split[backend[c.call("/shop.Split/Get")]]++
	}
	if split["pay"] > 0 || !near(split["nobody"], 400, 0.5) {
		t.Errorf("of a split that half can be sent requests went %v", split)
	}
	for _, want := range []struct{ name, authority, by string }{
		{"shop.example.com:8080", "", "cart"},
		{fleet + "/8080", "", "cart"}, // of any host
		{fleet + "/8080", "api.example.com", "pay"},
		{fleet + "/8080", "api.example.com:8080", "pay"},
	} {
		var options []grpc.DialOption
		if want.authority != "" {
			options = append(options, grpc.WithAuthority(want.authority))
		}
		c := m.dial(want.name, options...)
		m.until(fmt.Sprintf("an answer for %v", want), func() bool { return c.call("/shop.Cart/Get") != "" })
		if got := backend[c.call("/shop.Cart/Get")]; got != want.by {
			t.Errorf("xds:///%s as %q reached %s, expected %s", want.name, want.authority, got, want.by)
		}
	}

	m.serve([]catalog.VirtualHost{{Domain: "shop.example.com", Routes: []catalog.Route{{Match: root, Backends: to(pay)}}}},
		0, m.service(cart, m.backends[:1]), m.service(pay, m.backends[1:]))
	m.until("the new route", func() bool { return backend[c.call("/shop.Cart/Get")] == "pay" })
	m.nothingRefused()
}
