package translate_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// fataler is a *testing.T or a *rapid.T.
type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// forGRPC is what gRPC clients of a fleet are served, of which nothing may be refused.
func forGRPC(t fataler, f *catalog.Fleet, services ...*catalog.Service) (envoys, grpc *snapshot.Snapshot) {
	t.Helper()
	unencoded := translate.Fleet(f, translate.Options{})
	for _, s := range services {
		unencoded = append(unencoded, translate.Cluster(s), translate.Assignment(s, nil))
	}
	var all []*snapshot.Resource
	for _, r := range unencoded {
		e, err := snapshot.Encode(r)
		if err != nil {
			t.Fatalf("%v", err)
		}
		all = append(all, e)
	}
	envoys = snapshot.New(all...)
	return envoys, envoys.ForGRPC(func(err error) { t.Fatalf("for gRPC clients: %v", err) })
}

// TestGoldenGRPC is TestGolden of the rendering for gRPC clients.
func TestGoldenGRPC(t *testing.T) {
	f, services := shop()
	_, s := forGRPC(t, f, slices.Collect(maps.Values(services))...)
	for _, typ := range translate.Types {
		resources := s.Resources(typ)
		if len(resources) == 0 {
			continue
		}
		t.Run(string(typ), func(t *testing.T) {
			var got bytes.Buffer
			for _, name := range slices.Sorted(maps.Keys(resources)) {
				text, err := resources[name].YAML()
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&got, "# %s, from %s\n---\n%s", name, resources[name].Source, text)
			}
			golden := filepath.Join("testdata", "shop.grpc."+string(typ)+".yaml")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s is not what was generated, which is:\n%s", golden, got.Bytes())
			}
		})
	}
}

// TestGRPCKeepsEndpoints: each with its weight, health and metadata, alone in a locality of that weight.
func TestGRPCKeepsEndpoints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawService.Draw(t, "service")
		envoys, grpc := forGRPC(t, &catalog.Fleet{}, s)
		of := func(s *snapshot.Snapshot, name string) (all []*endpointv3.LocalityLbEndpoints) {
			return s.Get(translate.EDS, name).Message().(*endpointv3.ClusterLoadAssignment).GetEndpoints()
		}
		var want, got []*endpointv3.LbEndpoint
		for _, l := range of(envoys, s.Name) {
			want = append(want, l.GetLbEndpoints()...)
		}
		ids := map[string]bool{}
		for _, l := range of(grpc, s.Name) {
			if len(l.GetLbEndpoints()) != 1 {
				t.Fatalf("%d endpoints in %v", len(l.GetLbEndpoints()), l)
			}
			e := l.GetLbEndpoints()[0]
			got = append(got, e)
			if l.GetPriority() != 0 || l.GetLoadBalancingWeight().GetValue() != e.GetLoadBalancingWeight().GetValue() || ids[l.GetLocality().String()] {
				t.Fatalf("%v", l)
			}
			ids[l.GetLocality().String()] = true
			if !slices.ContainsFunc(s.Endpoints, func(e catalog.Endpoint) bool {
				return netip.MustParseAddrPort(e.Address).String() == l.GetLocality().GetSubZone() && e.Zone == l.GetLocality().GetZone()
			}) {
				t.Fatalf("%v is the locality of no endpoint", l.GetLocality())
			}
		}
		if !slices.EqualFunc(want, got, func(a, b *endpointv3.LbEndpoint) bool { return proto.Equal(a, b) }) {
			t.Fatalf("\n got %v\nwant %v", got, want)
		}
	})
}

// request is a gRPC request.
type request struct {
	path    string
	headers map[string]string
}

// matches says whether a route is one for the request, of which a client shows also what only it knows.
func (r request) matches(m *routev3.RouteMatch, more map[string]string) bool {
	is := func(value string, s *matcherv3.StringMatcher) bool {
		if re := s.GetSafeRegex(); re != nil {
			return regexp.MustCompile("^(?:" + re.GetRegex() + ")$").MatchString(value)
		}
		return value == s.GetExact()
	}
	for _, h := range m.GetHeaders() {
		value, ok := r.headers[h.GetName()]
		if v, known := more[h.GetName()]; known {
			value, ok = v, true
		}
		if !ok || !is(value, h.GetStringMatch()) {
			return false
		}
	}
	if len(m.GetQueryParameters()) > 0 {
		return false
	}
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Path:
		return r.path == p.Path
	case *routev3.RouteMatch_Prefix:
		return strings.HasPrefix(r.path, p.Prefix)
	case *routev3.RouteMatch_PathSeparatedPrefix:
		return r.path == p.PathSeparatedPrefix || strings.HasPrefix(r.path, p.PathSeparatedPrefix+"/")
	case *routev3.RouteMatch_SafeRegex:
		return is(r.path, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: p.SafeRegex}})
	}
	panic(fmt.Sprintf("unexpected %T", m.GetPathSpecifier()))
}

// first is the route that takes the request, nil for none.
func (r request) first(routes []*routev3.Route, more map[string]string) *routev3.Route {
	if i := slices.IndexFunc(routes, func(route *routev3.Route) bool { return r.matches(route.GetMatch(), more) }); i >= 0 {
		return routes[i]
	}
	return nil
}

// TestGRPCRoutesAsEnvoyDoes: whatever the routes, a gRPC request is taken by the one that takes it in an
// Envoy, and either goes to the same backends unchanged or fails; and nothing is in the routes that a gRPC
// library refuses.
func TestGRPCRoutesAsEnvoyDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFleet.Draw(t, "fleet")
		for i := range f.Listeners {
			for j := range f.Listeners[i].VirtualHosts {
				routes := f.Listeners[i].VirtualHosts[j].Routes
				for k := range routes {
					routes[k].Name = fmt.Sprint("route ", k)
					routes[k].Match.Method = rapid.SampledFrom([]string{"", "GET", "POST"}).Draw(t, "method")
					// A request is to have a chance of matching, and of being sent on.
					if rapid.Bool().Draw(t, "any headers") {
						routes[k].Match.Headers = nil
					}
					if rapid.Bool().Draw(t, "any query") {
						routes[k].Match.Queries = nil
					}
					if routes[k].Redirect == nil && rapid.Bool().Draw(t, "resolvable") {
						routes[k].Backends = []catalog.Backend{{Service: "shop/cart:80", Weight: 1}}
					}
				}
			}
		}
		envoys, grpc := forGRPC(t, f)
		for name, r := range envoys.Resources(translate.RDS) {
			hosts := r.Message().(*routev3.RouteConfiguration).GetVirtualHosts()
			rendered := grpc.Get(translate.RDS, name).Message().(*routev3.RouteConfiguration).GetVirtualHosts()
			for i := range hosts {
				checkSameRoutes(t, hosts[i].GetRoutes(), rendered[i].GetRoutes())
			}
		}
	})
}

func checkSameRoutes(t *rapid.T, envoy, grpc []*routev3.Route) {
	var paths []string
	for _, r := range envoy {
		m := r.GetMatch()
		path := m.GetPath() + m.GetPathSeparatedPrefix() + m.GetPrefix()
		paths = append(paths, path, path+"/Method", path+"more")
	}
	paths = append(paths, "/pkg.Service/Method", "/abc")
	headers := rapid.MapOf(rapid.StringMatching(`[a-z]{1,2}`), rapid.StringMatching(`[a-z]{1,2}`)).Draw(t, "headers")
	for _, path := range paths {
		checkSameRoute(t, request{path, headers}, envoy, grpc)
	}
	for _, route := range grpc {
		switch a := route.GetAction().(type) {
		case *routev3.Route_Route, *routev3.Route_NonForwardingAction:
		default:
			t.Fatalf("gRPC refuses %T", a)
		}
	}
}

func checkSameRoute(t *rapid.T, r request, envoy, grpc []*routev3.Route) {
	want, got := r.first(envoy, map[string]string{":method": "POST"}), r.first(grpc, nil)
	if want.GetName() != got.GetName() {
		t.Fatalf("%v is taken by %v, in an Envoy by %v", r, got, want)
	}
	action := got.GetRoute()
	if action == nil {
		return
	}
	if want.GetRoute() == nil || len(want.GetRequestHeadersToAdd())+len(want.GetRequestHeadersToRemove()) > 0 || want.GetRoute().GetPrefixRewrite() != "" ||
		want.GetRoute().GetRegexRewrite() != nil || want.GetRoute().GetHostRewriteLiteral() != "" {
		t.Fatalf("%v goes where an Envoy sends it changed or not at all: %v", got, want)
	}
	if action.GetCluster() != want.GetRoute().GetCluster() {
		t.Fatalf("%v goes elsewhere than %v", got, want)
	}
	parts := want.GetRoute().GetWeightedClusters().GetClusters()
	for i, p := range action.GetWeightedClusters().GetClusters() {
		to := parts[i].GetName()
		if len(parts[i].GetRequestHeadersToAdd())+len(parts[i].GetRequestHeadersToRemove()) > 0 {
			to = translate.UnresolvedCluster
		}
		if p.GetName() != to || p.GetWeight().GetValue() != parts[i].GetWeight().GetValue() {
			t.Fatalf("part %v, of %v", p, parts[i])
		}
	}
}
