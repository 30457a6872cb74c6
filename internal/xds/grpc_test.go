package xds_test

import (
	"context"
	"encoding/json"
	"net"
	"strconv"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrlocalityv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	grpcxds "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// mesh is grpc-go's own xDS client, the second data plane, against our server, with backends that
// serve the health service.
type mesh struct {
	*testing.T
	running
	backends []string // addresses
	client   healthgrpc.HealthClient
}

func newMesh(t *testing.T, backends int) *mesh {
	m := &mesh{T: t, running: startOurs(t)}
	for range backends {
		lis := listen(t)
		s := grpc.NewServer()
		healthgrpc.RegisterHealthServer(s, health.NewServer())
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
	return m
}

// dial opens the channel; it is called once there is something to serve.
func (m *mesh) dial() {
	bootstrap, err := json.Marshal(map[string]any{
		"xds_servers": []any{map[string]any{"server_uri": m.address, "channel_creds": []any{map[string]any{"type": "insecure"}}, "server_features": []string{"xds_v3"}}},
		"node":        map[string]any{"id": "checkout-1", "cluster": fleet},
	})
	if err != nil {
		m.Fatal(err)
	}
	resolver, err := grpcxds.NewXDSResolverWithConfigForTesting(bootstrap)
	if err != nil {
		m.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///web", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { conn.Close() })
	m.client = healthgrpc.NewHealthClient(conn)
}

// check is one request; it returns the address of the backend that answered.
func (m *mesh) check() (string, error) {
	ctx, cancel := context.WithTimeout(m.Context(), patience)
	defer cancel()
	var by grpcpeer.Peer
	_, err := m.client.Check(ctx, &healthgrpc.HealthCheckRequest{}, grpc.Peer(&by), grpc.WaitForReady(true))
	if err != nil {
		return "", err
	}
	return by.Addr.String(), nil
}

// shares counts where n requests went; refused ones are counted under "". grpc-go itself refuses some
// when a route changes to a cluster that it did not know: its routes may be newer than its pickers.
func (m *mesh) shares(n int) map[string]int {
	counts := map[string]int{}
	for range n {
		backend, err := m.check()
		if err != nil && status.Code(err) != codes.Unavailable {
			m.Fatal(err)
		}
		counts[backend]++
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

// unchecked is a resource as snapshot.Encode would make it, without its validation.
func unchecked(t translate.Type, name string, m proto.Message) served {
	r, err := snapshot.EncodeUnchecked(translate.Resource{Type: t, Name: name, Message: m, Source: "a test"})
	if err != nil {
		panic(err)
	}
	return r
}

// apiListener is what grpc-go asks for by the name in its target: a listener that binds nothing.
func apiListener(name, routes string) served {
	hcm := &hcmv3.HttpConnectionManager{
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: routes, ConfigSource: overADS}},
		HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&routerv3.Router{})}}},
	}
	return unchecked(translate.LDS, name, &listenerv3.Listener{Name: name, ApiListener: &listenerv3.ApiListener{ApiListener: packed(hcm)}})
}

func (m *mesh) service(name string, backends ...string) *catalog.Service {
	s := &catalog.Service{Name: name, HTTP2: true}
	for _, b := range backends {
		s.Endpoints = append(s.Endpoints, catalog.Endpoint{Address: b, Zone: "a", Base: 1, Multiplier: 1})
	}
	return s
}

// rendered are a Service's cluster and assignment, as Envoys are served them.
func rendered(t *testing.T, s *catalog.Service) []served {
	var out []served
	for _, r := range []translate.Resource{translate.Cluster(s), translate.Assignment(s, nil)} {
		e, err := snapshot.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// renderedRoutes are those of a Gateway's listener that sends everything to a Service.
func renderedRoutes(t *testing.T, listener, service string) served {
	f := &catalog.Fleet{Listeners: []catalog.Listener{{Name: listener, Port: 80, VirtualHosts: []catalog.VirtualHost{{
		Domain: "*", Routes: []catalog.Route{{Backends: []catalog.Backend{{Service: service, Weight: 1}}}},
	}}}}}
	for _, r := range translate.Fleet(f, translate.Options{}) {
		if r.Type == translate.RDS {
			e, err := snapshot.Encode(r)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
	}
	t.Fatal("a fleet without routes")
	return nil
}

// TestGRPCTakesWhatEnvoysAreServed: clusters, assignments and routes as they are made for Envoys are
// good for grpc-go too, once a listener that binds nothing leads it to them.
func TestGRPCTakesWhatEnvoysAreServed(t *testing.T) {
	m := newMesh(t, 3)
	cart, pay := m.service("shop/cart:80", m.backends[:2]...), m.service("shop/pay:80", m.backends[2])
	resources := append(rendered(t, cart), rendered(t, pay)...)
	route := func(name string) *snapshot.Snapshot {
		return snapshotOf(append(resources, apiListener("web", "web"), renderedRoutes(t, "web", name))...)
	}
	m.set(fleet, route(cart.Name))
	m.dial()
	got := m.shares(50)
	if got[m.backends[0]] == 0 || got[m.backends[1]] == 0 || got[m.backends[0]]+got[m.backends[1]] != 50 {
		t.Errorf("requests went %v, expected both endpoints of cart", got)
	}
	m.set(fleet, route(pay.Name))
	m.until("a request to pay", func() bool { return m.shares(1)[m.backends[2]] == 1 })
	if n := m.refusals(); len(n) != 0 {
		t.Errorf("grpc-go refused %+v", n)
	}
}

// byLocality renders weights as grpc-go's round_robin heeds them: a locality per endpoint, with the
// weight on it.
func byLocality(name string, weights map[string]uint32, dropPercent uint32) served {
	a := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	for address, weight := range weights {
		host, port, _ := net.SplitHostPort(address)
		number, _ := strconv.Atoi(port)
		endpoint := at(number)
		endpoint.GetSocketAddress().Address = host
		a.Endpoints = append(a.Endpoints, &endpointv3.LocalityLbEndpoints{
			Locality: &corev3.Locality{Zone: "a", SubZone: address}, LoadBalancingWeight: wrapperspb.UInt32(weight),
			LbEndpoints: []*endpointv3.LbEndpoint{{LoadBalancingWeight: wrapperspb.UInt32(weight),
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: endpoint}}}},
		})
	}
	if dropPercent > 0 {
		a.Policy = &endpointv3.ClusterLoadAssignment_Policy{DropOverloads: []*endpointv3.ClusterLoadAssignment_Policy_DropOverload{{
			Category: "overload", DropPercentage: &typev3.FractionalPercent{Numerator: dropPercent},
		}}}
	}
	return encoded(translate.EDS, name, a)
}

func wrrLocality(name string) served {
	policy := func(name string, m proto.Message) *clusterv3.LoadBalancingPolicy {
		return &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
			TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: packed(m)},
		}}}
	}
	return encoded(translate.CDS, name, &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{ServiceName: name, EdsConfig: overADS},
		LoadBalancingPolicy: policy("wrr_locality", &wrrlocalityv3.WrrLocality{
			EndpointPickingPolicy: policy("round_robin", &roundrobinv3.RoundRobin{}),
		}),
	})
}

// TestGRPCHeedsWeightsOfLocalities shows the form in which weights and drops reach grpc-go. Bounds are
// six standard deviations of the share, and more.
func TestGRPCHeedsWeightsOfLocalities(t *testing.T) {
	m := newMesh(t, 2)
	a, b := m.backends[0], m.backends[1]
	serve := func(weightA, weightB, drop uint32) {
		m.set(fleet, snapshotOf(apiListener("web", "web"), routes("web", "shop/cart:80"), wrrLocality("shop/cart:80"),
			byLocality("shop/cart:80", map[string]uint32{a: weightA, b: weightB}, drop)))
	}
	serve(3, 1, 0)
	m.dial()
	near := func(count, n int, share float64) bool { return abs(float64(count)/float64(n)-share) < 0.1 }
	m.until("both endpoints", func() bool { got := m.shares(20); return got[a] > 0 && got[b] > 0 })
	if got := m.shares(1000); !near(got[a], 1000, 0.75) || got[""] > 0 {
		t.Errorf("at 3 to 1 requests went %v", got)
	}
	serve(1, 3, 0)
	m.until("the shares of 1 to 3, with no request failed", func() bool {
		got := m.shares(400)
		if got[""] > 0 {
			t.Fatalf("a change of weights failed %d requests", got[""])
		}
		return near(got[b], 400, 0.75)
	})
	serve(1, 3, 100)
	m.until("every request dropped", func() bool { return m.shares(20)[""] == 20 })
	serve(1, 3, 30)
	m.until("three in ten dropped", func() bool { return near(m.shares(400)[""], 400, 0.3) })
	serve(1, 3, 0)
	m.until("none dropped", func() bool { return m.shares(40)[""] == 0 })
	if n := m.refusals(); len(n) != 0 {
		t.Errorf("grpc-go refused %+v", n)
	}
}

func abs(x float64) float64 { return max(x, -x) }
