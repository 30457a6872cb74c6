package xds

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/auth/authtest"
	"evenkeel.io/controlplane/internal/limittest"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// perHour is a node of a rule: so many requests an hour for each tenant.
func perHour(rule string, requests uint32) *ratelimitv3.RateLimitDescriptor {
	return &ratelimitv3.RateLimitDescriptor{Key: "rule", Value: rule, Descriptors: []*ratelimitv3.RateLimitDescriptor{{
		Key: "tenant", RateLimit: &ratelimitv3.RateLimitPolicy{Unit: ratelimitv3.RateLimitUnit_HOUR, RequestsPerUnit: requests},
	}}}
}

// limits are the rules of a domain. They are not checked: some are to be refused.
func limits(t *testing.T, domain string, rules ...*ratelimitv3.RateLimitDescriptor) *snapshot.Resource {
	t.Helper()
	r, err := snapshot.EncodeUnchecked(translate.Resource{Type: translate.RLS, Name: domain, Source: "Gateway " + domain,
		Message: &ratelimitv3.RateLimitConfig{Name: domain, Domain: domain, Descriptors: rules}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (p *plane) setLimits(resources ...*snapshot.Resource) *snapshot.Snapshot {
	p.t.Helper()
	s := snapshot.New(resources...)
	if err := p.cache.SetSnapshot(p.t.Context(), translate.RLSFleet, s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

// caller is a client of a rate limit service, as an Envoy is one.
type caller struct {
	t      *testing.T
	client rlsv3.RateLimitServiceClient
}

func callerOf(t *testing.T, address string) caller {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return caller{t, rlsv3.NewRateLimitServiceClient(conn)}
}

// admitted is how many of so many requests of a tenant are let through.
func (a caller) admitted(n int, domain, rule, tenant string) int {
	a.t.Helper()
	admitted := 0
	for range n {
		answer, err := a.client.ShouldRateLimit(a.t.Context(), &rlsv3.RateLimitRequest{Domain: domain, Descriptors: []*commonv3.RateLimitDescriptor{
			{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "rule", Value: rule}, {Key: "tenant", Value: tenant}}},
		}})
		if err != nil {
			a.t.Fatal(err)
		}
		if answer.GetOverallCode() == rlsv3.RateLimitResponse_OK {
			admitted++
		}
	}
	return admitted
}

func wait(t *testing.T, s *limittest.ReferenceService) {
	t.Helper()
	if err := s.WaitListening(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// runs waits until the service says that it runs a limit, as its debug page has it.
func (p *plane) runs(s *limittest.ReferenceService, limit string) {
	p.t.Helper()
	p.until("the service runs "+limit, func() bool {
		text, err := s.Configuration(p.t.Context())
		return err == nil && strings.Contains(text, limit)
	})
}

// TestTheReferenceServiceIsConfigured: nothing before there is a first build, then what is served, and a limit
// that changes acts on the counters that there are.
func TestTheReferenceServiceIsConfigured(t *testing.T) {
	p := startPlane(t, Options{})
	s := limittest.Reference(t, limittest.ReferenceOptions{XDS: p.address, Node: "rls/one"})
	p.until("it is connected", func() bool { return len(p.Registry().Proxies()) == 1 })
	if one := p.Registry().Proxies()[0]; one.Fleet != translate.RLSFleet || one.Node != "rls/one" {
		t.Errorf("it is %s of %s", one.Node, one.Fleet)
	}
	if sent := p.counter("evenkeel_xds_responses_total"); sent != 0 {
		t.Errorf("%v responses before anything was built", sent)
	}

	served := p.setLimits(limits(t, "shop/edge", perHour("shop/api/a", 3)), limits(t, "bank/gate", perHour("bank/api/a", 5)))
	wait(t, s)
	if got := p.untilState("rls/one", translate.RLS, Synced); got.Version != served.Version(translate.RLS) {
		t.Errorf("version %s, served is %s", got.Version, served.Version(translate.RLS))
	}
	a := callerOf(t, s.Address)
	for _, c := range []struct {
		domain, rule, tenant string
		want                 int
	}{
		{"shop/edge", "shop/api/a", "x", 3},
		{"shop/edge", "shop/api/a", "y", 3},
		{"bank/gate", "bank/api/a", "x", 5},
		{"shop/edge", "bank/api/a", "x", 10}, // no rule of this domain
	} {
		if got := a.admitted(10, c.domain, c.rule, c.tenant); got != c.want {
			t.Errorf("%v: %d of 10 admitted", c, got)
		}
	}

	p.setLimits(limits(t, "shop/edge", perHour("shop/api/a", 30)), limits(t, "bank/gate", perHour("bank/api/a", 5)))
	p.runs(s, "requests_per_unit=30,")
	// Ten were counted in this hour, seven of which were refused: refusals count.
	if got := a.admitted(30, "shop/edge", "shop/api/a", "x"); got != 20 {
		t.Errorf("after 3 -> 30, with 10 asked before: %d of 30 admitted, want 20", got)
	}
	if got := a.admitted(1, "bank/gate", "bank/api/a", "x"); got != 0 {
		t.Error("the other domain's counter was reset")
	}
}

// TestARefusedConfigurationIsParked: the last good one of that domain stays, the others arrive, and nobody
// sends it again and again.
func TestARefusedConfigurationIsParked(t *testing.T) {
	p := startPlane(t, Options{Retry: time.Hour})
	good, other := limits(t, "shop/edge", perHour("shop/api/a", 3)), limits(t, "bank/gate", perHour("bank/api/a", 5))
	p.setLimits(good, other)
	s := limittest.Reference(t, limittest.ReferenceOptions{XDS: p.address})
	wait(t, s)
	p.untilState("rls", translate.RLS, Synced)

	bad := limits(t, "shop/edge", perHour("shop/api/a", 4), perHour("shop/api/b", 1), perHour("shop/api/b", 2))
	p.setLimits(bad, limits(t, "bank/gate", perHour("bank/api/a", 50)))
	p.untilState("rls", translate.RLS, Nacked)
	p.runs(s, "requests_per_unit=50,")
	p.runs(s, "requests_per_unit=3,")

	nacks := p.Registry().Nacks()
	if len(nacks) != 1 || nacks[0].Resource != "shop/edge" || nacks[0].Count != 1 || !strings.Contains(nacks[0].Message, "duplicate descriptor") ||
		nacks[0].Source != "LimitPolicy shop/api" {
		t.Errorf("%+v", nacks)
	}
	a := callerOf(t, s.Address)
	if got := a.admitted(10, "shop/edge", "shop/api/a", "x"); got != 3 {
		t.Errorf("%d of 10 admitted, the last good limit is 3", got)
	}
	sent := p.counter("evenkeel_xds_responses_total")

	// It comes back when what it refused is another.
	p.setLimits(limits(t, "shop/edge", perHour("shop/api/a", 7)), other)
	p.runs(s, "requests_per_unit=7,")
	p.untilState("rls", translate.RLS, Synced)
	if more := p.counter("evenkeel_xds_responses_total") - sent; more != 1 {
		t.Errorf("%v responses for one change", more)
	}
}

// TestTheReferenceServiceComesBack: with what it has it is sent nothing, by this control plane and by the next.
func TestTheReferenceServiceComesBack(t *testing.T) {
	p := startPlaneOf(t, newCache(), lasting(t), Options{})
	served := []*snapshot.Resource{limits(t, "shop/edge", perHour("shop/api/a", 3)), limits(t, "bank/gate", perHour("bank/api/a", 5))}
	p.setLimits(served...)
	s := limittest.Reference(t, limittest.ReferenceOptions{XDS: p.address})
	wait(t, s)
	p.untilState("rls", translate.RLS, Synced)
	loaded := strings.Count(s.Log(), "Successfully loaded new configuration")
	p.stop()

	next := startPlaneOf(t, newCache(), p.address, Options{})
	next.setLimits(slices.Clone(served)...)
	next.untilState("rls", translate.RLS, Synced)
	if sent := next.counter("evenkeel_xds_responses_total"); sent != 0 {
		t.Errorf("%v responses to what it has", sent)
	}
	if now := strings.Count(s.Log(), "Successfully loaded new configuration"); now != loaded {
		t.Errorf("it loaded %d configurations for nothing", now-loaded)
	}
	next.setLimits(served[0], limits(t, "bank/gate", perHour("bank/api/a", 6)))
	next.runs(s, "requests_per_unit=6,")
	next.runs(s, "requests_per_unit=3,")
}

// TestARefusalIsNotTakenForWhatItHas: the service comes back with the version that it was sent last, be it one
// that it refused. It must not be taken to have that.
func TestARefusalIsNotTakenForWhatItHas(t *testing.T) {
	p := startPlaneOf(t, newCache(), lasting(t), Options{Retry: time.Hour})
	p.setLimits(limits(t, "shop/edge", perHour("shop/api/a", 3)))
	s := limittest.Reference(t, limittest.ReferenceOptions{XDS: p.address})
	wait(t, s)
	p.untilState("rls", translate.RLS, Synced)
	bad := limits(t, "shop/edge", perHour("shop/api/a", 3), perHour("shop/api/b", 1), perHour("shop/api/b", 2))
	p.setLimits(bad)
	p.untilState("rls", translate.RLS, Nacked)
	p.until("what it has is confirmed", func() bool { return p.state("rls", translate.RLS).Acked >= 2 })
	p.stop()

	next := startPlaneOf(t, newCache(), p.address, Options{})
	next.setLimits(bad)
	next.untilState("rls", translate.RLS, Nacked)
	if nacks := next.Registry().Nacks(); nacks[0].Count != 1 {
		t.Errorf("%+v", nacks)
	}
}

// TestWhoIsAReferenceService: it has a setting for its node.id alone.
func TestWhoIsAReferenceService(t *testing.T) {
	for _, c := range []struct{ id, cluster, want string }{
		{"rls", "", translate.RLSFleet},
		{"rls/ratelimit-0", "", translate.RLSFleet},
		{"envoy-1", translate.RLSFleet, translate.RLSFleet},
		{"rls", fleet, fleet},
		{"default", "", ""}, // what it says if nobody names it
		{"rlsx", "", ""},
	} {
		if got := (FleetHash{}).ID(node(c.id, c.cluster)); got != c.want {
			t.Errorf("%q of %q: %q, want %q", c.id, c.cluster, got, c.want)
		}
	}
}

// TestAServiceThatNobodyNamed waits, and is shown to.
func TestAServiceThatNobodyNamed(t *testing.T) {
	p := startPlane(t, Options{})
	p.setLimits(limits(t, "shop/edge", perHour("shop/api/a", 3)))
	limittest.Reference(t, limittest.ReferenceOptions{XDS: p.address, Node: "default"})
	p.untilState("default", translate.RLS, NoFleet)
	if sent := p.counter("evenkeel_xds_responses_total"); sent != 0 {
		t.Errorf("%v responses", sent)
	}
}

// TestWhoSeesAllLimits: with certificates, a client that is a rate limit service, and no fleet's Envoy.
func TestWhoSeesAllLimits(t *testing.T) {
	p := startGated(t, Options{})
	p.setLimits(limits(t, fleet, perHour("shop/api/a", 3)), limits(t, "bank/gate", perHour("bank/api/a", 5)))
	p.set(fleet, "1", resourcesOf("shop/cart:80", 1))

	c := p.as(edge).sotw()
	c.send(&discoveryv3.DiscoveryRequest{Node: node("envoy-1", fleet), TypeUrl: resource.RateLimitConfigType})
	if answer := c.recv(); len(answer.GetResources()) > 0 {
		t.Errorf("an Envoy was sent %d configurations", len(answer.GetResources()))
	}
	c.cancel()
	for _, n := range []*corev3.Node{node("envoy-1", translate.RLSFleet), node("rls", "")} {
		c := p.sotw()
		c.send(&discoveryv3.DiscoveryRequest{Node: n, TypeUrl: resource.RateLimitConfigType})
		if _, err := c.str.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("an Envoy as %v: %v, want PermissionDenied", n, err)
		}
	}

	files := t.TempDir()
	pair := p.ca.issue("spiffe://cluster.local/rls", false)
	authtest.Mount(t, files, pair, p.ca.pem)
	s := limittest.Reference(t, limittest.ReferenceOptions{XDS: p.address, Node: "rls/one", Env: []string{
		"CONFIG_GRPC_XDS_SERVER_USE_TLS=true", "CONFIG_GRPC_XDS_SERVER_TLS_CACERT=" + files + "/ca.crt",
		"CONFIG_GRPC_XDS_CLIENT_TLS_CERT=" + files + "/tls.crt", "CONFIG_GRPC_XDS_CLIENT_TLS_KEY=" + files + "/tls.key",
	}})
	wait(t, s)
	p.untilState("rls/one", translate.RLS, Synced)
	if got := callerOf(t, s.Address).admitted(10, "bank/gate", "bank/api/a", "x"); got != 5 {
		t.Errorf("%d of 10 admitted, want 5", got)
	}
}
