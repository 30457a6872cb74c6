package xds

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/auth/authority"
	"evenkeel.io/controlplane/internal/auth/authtest"
	"evenkeel.io/controlplane/internal/auth/identity"
	loadreports "evenkeel.io/controlplane/internal/signals/lrs"
	"evenkeel.io/controlplane/internal/translate"
)

const (
	edge  = "spiffe://cluster.local/fleet/shop/edge"
	vault = "spiffe://cluster.local/fleet/bank/gate"
)

// ca is an authority of a test.
type ca struct {
	*authority.Authority
	t   *testing.T
	pem []byte
}

func newCA(t *testing.T, name string) *ca {
	t.Helper()
	a, pair, err := authority.New(name, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{a, t, pair.Certificate}
}

// issue makes a certificate for 127.0.0.1, with a URI unless it is "".
func (c *ca) issue(name string, server bool) authority.Pair {
	c.t.Helper()
	r := authority.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: server, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	if name != "" {
		r.URI, _ = url.Parse(name)
	}
	pair, err := c.Issue(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return pair
}

// gated is a plane behind a gate. Certificates are of ca, until others are mounted.
type gated struct {
	*plane
	ca   *ca
	dir  string // the server's files
	gate *auth.Gate
}

func newGate(t *testing.T, c *ca, dir string, log *slog.Logger) *auth.Gate {
	t.Helper()
	authtest.Mount(t, dir, c.issue("", true), c.pem)
	rules, err := identity.ParseRules("cluster.local", "dns:envoy.shop.svc=shop/edge")
	if err != nil {
		t.Fatal(err)
	}
	gate, err := auth.Open(auth.Options{Dir: dir, Rules: rules, Poll: 5 * time.Millisecond, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = gate.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return gate
}

func startGated(t *testing.T, opts Options) *gated {
	t.Helper()
	g := &gated{ca: newCA(t, "ours"), dir: t.TempDir()}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	g.gate = newGate(t, g.ca, g.dir, opts.Log)
	opts.Auth = g.gate
	g.plane = startPlane(t, opts)
	return g
}

// as has what is dialled from now on show a certificate with a name.
func (g *gated) as(name string) *gated {
	g.t.Helper()
	pair := g.ca.issue(name, false)
	certificate, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		g.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(g.ca.Certificate())
	g.creds = credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}})
	return g
}

// refusal is how a stream of a protocol ends that names a fleet.
func (p *plane) refusal(protocol, fleet string) error {
	p.t.Helper()
	n := node("envoy-1", fleet)
	switch protocol {
	case delta:
		c := p.delta()
		defer c.cancel()
		c.send(&discoveryv3.DeltaDiscoveryRequest{Node: n, TypeUrl: resource.ClusterType})
		_, err := c.str.Recv()
		return err
	case sotw:
		c := p.sotw()
		defer c.cancel()
		c.send(&discoveryv3.DiscoveryRequest{Node: n, TypeUrl: resource.ClusterType})
		_, err := c.str.Recv()
		return err
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	str, err := loadv3.NewLoadReportingServiceClient(p.dial()).StreamLoadStats(ctx)
	if err != nil {
		return err
	}
	_ = str.Send(&loadv3.LoadStatsRequest{Node: n})
	_, err = str.Recv()
	return err
}

// TestAClientSeesItsOwnFleet: not another's, however it asks, and whether or not there is such a fleet.
func TestAClientSeesItsOwnFleet(t *testing.T) {
	reports := loadreports.New(loadreports.Options{
		Connected:   func(string, string) bool { return false },
		Subscribers: func(string) iter.Seq2[string, string] { return func(func(string, string) bool) {} },
		Logger:      slog.New(slog.DiscardHandler),
	})
	reports.SetTargets([]loadreports.Spec{{Service: "shop/cart:80", Fleets: []string{fleet, "bank/gate", "eds:shop"}}})
	p := startGated(t, Options{LoadReports: reports})
	for _, f := range []string{fleet, "bank/gate", "eds:shop"} {
		p.set(f, f, resourcesOf("shop/cart:80", 1))
	}
	for name, own := range map[string]string{edge: fleet, vault: "bank/gate", "spiffe://cluster.local/eds/shop": "eds:shop"} {
		p.as(name)
		for _, protocol := range []string{delta, sotw, lrs} {
			if err := p.refusal(protocol, own); err != nil {
				t.Errorf("%s, %s: %v, want an answer", name, protocol, err)
			}
			for _, other := range []string{fleet, "bank/gate", "eds:shop", "eds:bank", "no/such", "", "*", "shop/edge "} {
				if other == own {
					continue
				}
				before := p.counter("evenkeel_xds_refused_streams_total", "fleet")
				err := p.refusal(protocol, other)
				if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), fmt.Sprintf("%q", other)) || !strings.Contains(err.Error(), name) {
					t.Errorf("%s as %q, %s: %v", name, other, protocol, err)
				}
				if got := p.counter("evenkeel_xds_refused_streams_total", "fleet") - before; got != 1 {
					t.Errorf("%s as %q, %s: %v refusals counted, want 1", name, other, protocol, got)
				}
			}
		}
	}
	p.until("nobody is left", func() bool { return len(p.Registry().Proxies()) == 0 })
	c := p.as(edge).delta()
	c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.ClusterType})
	p.until("it says who it is", func() bool {
		proxies := p.Registry().Proxies()
		return len(proxies) == 1 && proxies[0].Identity == edge
	})
}

// TestStrangersReachNoMethod: what the server has, and what it has not.
func TestStrangersReachNoMethod(t *testing.T) {
	p := startGated(t, Options{})
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	p.as("spiffe://cluster.local/ns/shop/sa/envoy")
	conn := p.dial()
	for _, method := range []string{
		discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName,
		discoveryv3.AggregatedDiscoveryService_StreamAggregatedResources_FullMethodName,
		loadv3.LoadReportingService_StreamLoadStats_FullMethodName,
		"/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters",
		"/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/Nothing",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
	} {
		str, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err == nil {
			err = str.RecvMsg(&discoveryv3.DiscoveryResponse{})
		}
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "sa/envoy") {
			t.Errorf("%s: %v, want PermissionDenied", method, err)
		}
	}
	if got := p.counter("evenkeel_xds_streams"); got != 0 {
		t.Errorf("%v streams", got)
	}
}

// TestStreamsOfAnIdentityAreBounded: whatever its nodes are called; others have their own.
func TestStreamsOfAnIdentityAreBounded(t *testing.T) {
	p := startGated(t, Options{MaxIdentityStreams: 2})
	for _, f := range []string{fleet, "bank/gate"} {
		p.set(f, f, resourcesOf("shop/cart:80", 1))
	}
	p.as(edge)
	var first *deltaClient
	for i := range 2 {
		c := p.delta()
		c.send(&discoveryv3.DeltaDiscoveryRequest{Node: node(fmt.Sprint("envoy-", i), fleet), TypeUrl: resource.ClusterType})
		c.recv()
		first = c
	}
	if err := p.refusal(sotw, fleet); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), edge) {
		t.Errorf("%v, want ResourceExhausted", err)
	}
	if got := p.counter("evenkeel_xds_refused_streams_total", "identity_streams"); got != 1 {
		t.Errorf("%v refused, want 1", got)
	}
	if err := p.as(vault).refusal(delta, "bank/gate"); err != nil {
		t.Errorf("another identity: %v", err)
	}
	first.cancel()
	p.as(edge)
	p.until("there is room again", func() bool { return p.refusal(delta, fleet) == nil })
}

// TestAHostIsOneVoice: a client that has its fleet's certificate and as many node ids as it likes decides for
// nobody else; a second host with the same word does.
func TestAHostIsOneVoice(t *testing.T) {
	p := startGated(t, Options{})
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))
	p.as(edge)
	var clients []*deltaClient
	for i := range 3 {
		clients = append(clients, p.endpointsOf(fmt.Sprint("envoy-", i)))
	}
	far := p.from("127.0.0.2").endpointsOf("envoy-far")
	p.set(fleet, "2", resourcesOf("shop/cart:80", 2))
	for i, c := range clients {
		c.nack(c.recv(), `cluster_name: "shop/cart:80"`)
		p.untilState(fmt.Sprint("envoy-", i), translate.EDS, Nacked)
	}
	current := func() string { return p.cache.Current(fleet).Get(translate.EDS, "shop/cart:80").Version }
	if current() != p.labels["2"].Get(translate.EDS, "shop/cart:80").Version {
		t.Fatal("three nodes of one host took it back for the fleet")
	}
	far.nack(far.recv(), `cluster_name: "shop/cart:80"`)
	p.until("it is taken back", func() bool { return current() == p.labels["1"].Get(translate.EDS, "shop/cart:80").Version })
}

// from has a client of its own dialled from another address.
func (g *gated) from(address string) *plane {
	far := *g.plane
	far.dialer = net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &far
}

// shows says whether the server shows a certificate.
func (g *gated) shows(pair authority.Pair) bool {
	conn, err := tls.Dial("tcp", g.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		return false
	}
	defer conn.Close()
	return slices.Equal(conn.ConnectionState().PeerCertificates[0].Raw, certificateOf(g.t, pair.Certificate).Raw)
}

func certificateOf(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serial is a certificate's serial number as Envoy shows it.
func serial(t *testing.T, text []byte) string {
	t.Helper()
	return fmt.Sprintf("%x", certificateOf(t, text).SerialNumber)
}
