package translate_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/weights"
)

// The generators draw what package catalog lets through.

var (
	drawPath   = rapid.StringMatching(`(/[-A-Za-z0-9._~!$&'()*+,;=:@]{1,5}){1,2}`)
	drawHeader = rapid.Custom(func(t *rapid.T) catalog.Header {
		return catalog.Header{
			Name:  rapid.StringMatching("x-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,5}").Draw(t, "header name"),
			Value: rapid.StringMatching(`[ -~äß]{1,9}`).Draw(t, "header value"),
		}
	})
	drawChange = rapid.Custom(func(t *rapid.T) catalog.HeaderChange {
		return catalog.HeaderChange{
			Set:    rapid.SliceOfN(drawHeader, 0, 1).Draw(t, "set"),
			Add:    rapid.SliceOfN(drawHeader, 0, 1).Draw(t, "add"),
			Remove: rapid.SliceOfN(rapid.StringMatching(`x-[a-z]{1,3}`), 0, 2).Draw(t, "remove"),
		}
	})
	drawMatch = rapid.Custom(func(t *rapid.T) catalog.Match {
		value := func(label string) []catalog.ValueMatch {
			return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) catalog.ValueMatch {
				return catalog.ValueMatch{
					Name:  rapid.StringMatching(`[a-z][a-z-]{0,3}`).Draw(t, "name"),
					Type:  rapid.SampledFrom([]catalog.MatchType{catalog.Exact, catalog.Regex}).Draw(t, "type"),
					Value: rapid.StringMatching(`[a-z.]{1,3}`).Draw(t, "value"),
				}
			}), 0, 2).Draw(t, label)
		}
		m := catalog.Match{
			Path:    catalog.PathMatch{Type: rapid.SampledFrom([]catalog.MatchType{catalog.Exact, catalog.Prefix, catalog.Regex}).Draw(t, "path type")},
			Method:  rapid.SampledFrom([]string{"", "GET", "PATCH"}).Draw(t, "method"),
			Headers: value("headers"), Queries: value("queries"),
		}
		if m.Path.Value = drawPath.Draw(t, "path"); m.Path.Type == catalog.Regex {
			m.Path.Value = rapid.StringMatching(`/[a-z]{1,9}(\.\*|\[0-9\]\+|\\p\{L\})?`).Draw(t, "expression")
		}
		return m
	})
	drawPathChange = rapid.Custom(func(t *rapid.T) *catalog.PathChange {
		to := rapid.OneOf(rapid.Just("/"), drawPath).Draw(t, "to")
		return rapid.SampledFrom([]*catalog.PathChange{nil, {Full: &to}, {Prefix: &to}}).Draw(t, "path change")
	})
	drawServiceName = rapid.SampledFrom([]string{"shop/cart:80", "shop/api:9090", "other/db:5432"})
	drawRoute       = rapid.Custom(func(t *rapid.T) catalog.Route {
		r := catalog.Route{
			Object: source.Ref{Kind: source.KindHTTPRoute, Namespace: "shop", Name: "web"},
			Name:   "shop/web/0/0", Match: drawMatch.Draw(t, "match"),
			RequestHeaders: drawChange.Draw(t, "request headers"), ResponseHeaders: drawChange.Draw(t, "response headers"),
			Timeout:        time.Duration(rapid.Int64Range(-1, int64(time.Hour)).Draw(t, "timeout")),
			BackendTimeout: time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "backend timeout")),
		}
		if rapid.Bool().Draw(t, "redirects") {
			r.Redirect = &catalog.Redirect{
				Scheme:   rapid.SampledFrom([]string{"", "http", "https"}).Draw(t, "scheme"),
				Hostname: rapid.SampledFrom([]string{"", "new.example.com"}).Draw(t, "hostname"),
				Port:     rapid.Uint32Range(0, 65535).Draw(t, "port"),
				Path:     drawPathChange.Draw(t, "path change"),
				Code:     rapid.SampledFrom([]int{301, 302, 303, 307, 308}).Draw(t, "code"),
			}
			return r
		}
		r.Backends = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) catalog.Backend {
			return catalog.Backend{
				Service:        rapid.OneOf(rapid.Just(""), drawServiceName).Draw(t, "service"),
				Weight:         rapid.Uint32Range(0, 1_000_000).Draw(t, "weight"),
				RequestHeaders: drawChange.Draw(t, "request headers"), ResponseHeaders: drawChange.Draw(t, "response headers"),
			}
		}), 0, 3).Draw(t, "backends")
		_, limits := shopLimits()
		r.Limits = rapid.SliceOfNDistinct(rapid.SampledFrom(limits), 0, 3, func(l catalog.RouteLimit) string { return l.Rule.ID }).Draw(t, "limits")
		if rapid.Bool().Draw(t, "rewrites") {
			r.Rewrite = &catalog.Rewrite{
				Hostname: rapid.SampledFrom([]string{"", "inner.example.com"}).Draw(t, "hostname"),
				Path:     drawPathChange.Draw(t, "path change"),
			}
		}
		return r
	})
	drawListener = rapid.Custom(func(t *rapid.T) catalog.Listener {
		port := rapid.Uint32Range(1, 65535).Draw(t, "port")
		l := catalog.Listener{
			Name: fmt.Sprintf("shop/edge/%d", port), Port: port,
			Address: rapid.SampledFrom([]string{"", "127.0.0.1", "::", "::1"}).Draw(t, "address"),
		}
		for _, domain := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"*", "*.example.com", "shop.example.com", "a.b"}), 0, 3, rapid.ID[string]).Draw(t, "domains") {
			l.VirtualHosts = append(l.VirtualHosts, catalog.VirtualHost{Domain: domain, Routes: rapid.SliceOfN(drawRoute, 0, 2).Draw(t, "routes")})
		}
		return l
	})
	drawFleet = rapid.Custom(func(t *rapid.T) *catalog.Fleet {
		rules, _ := shopLimits()
		return &catalog.Fleet{
			Name: "shop/edge", Rules: rules, Object: source.Ref{Kind: source.KindGateway, Namespace: "shop", Name: "edge"},
			Listeners: rapid.SliceOfNDistinct(drawListener, 0, 2, func(l catalog.Listener) uint32 { return l.Port }).Draw(t, "listeners"),
			Services:  []string{"shop/cart:80", "shop/api:9090", "other/db:5432"},
		}
	})
	drawWorth   = rapid.OneOf(rapid.Just(1.0), rapid.Float64Range(1e-3, 1e3), rapid.Float64())
	drawService = rapid.Custom(func(t *rapid.T) *catalog.Service {
		s := &catalog.Service{
			Name: drawServiceName.Draw(t, "service"), HTTP2: rapid.Bool().Draw(t, "http2"),
			Object: source.Ref{Kind: source.KindService, Namespace: "shop", Name: "some"},
		}
		for i := range rapid.IntRange(0, 12).Draw(t, "endpoints") {
			address := fmt.Sprintf("10.0.%d.1:8080", i)
			if rapid.Bool().Draw(t, "v6") {
				address = fmt.Sprintf("[fd00::%x]:8080", i)
			}
			s.Endpoints = append(s.Endpoints, catalog.Endpoint{
				Address: address, Zone: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone"),
				Base: drawWorth.Draw(t, "base"), Multiplier: drawWorth.Draw(t, "multiplier"),
			})
		}
		return s
	})
)

func drawDecisions(t *rapid.T, s *catalog.Service) *weights.Decisions {
	if rapid.Bool().Draw(t, "undecided") {
		return nil
	}
	d := &weights.Decisions{Service: s.Name}
	for _, e := range s.Endpoints {
		if rapid.Float64Range(0, 1).Draw(t, "known") < 0.8 {
			d.Endpoints = append(d.Endpoints, weights.Decision{
				Key: signals.Key{Service: s.Name, Address: e.Address}, Weight: max(1, rapid.Uint32().Draw(t, "weight")),
				PublishedHealthScore:    rapid.Float64Range(0, 1).Draw(t, "health"),
				PublishedQPSDecayFactor: rapid.SampledFrom([]float64{0, 0.1, 1}).Draw(t, "decay"),
			})
		}
	}
	return d
}

// encodeAll fails for a resource that is refused and returns the rest of the checks a Snapshot makes.
func encodeAll(t *rapid.T, resources []translate.Resource) *snapshot.Snapshot {
	var out []*snapshot.Resource
	for _, r := range resources {
		encoded, err := snapshot.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		decoded := proto.Clone(r.Message)
		proto.Reset(decoded)
		if err := proto.Unmarshal(encoded.Bytes, decoded); err != nil || !proto.Equal(decoded, r.Message) {
			t.Fatalf("%s %s: does not decode to what was encoded: %v", r.Type, r.Name, err)
		}
		if _, err := encoded.YAML(); err != nil {
			t.Fatal(err)
		}
		out = append(out, encoded)
	}
	return snapshot.New(out...)
}

func TestEveryCatalogIsServable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFleet.Draw(t, "fleet")
		resources := translate.Fleet(f, translate.Options{})
		for _, name := range f.Services {
			s := drawService.Draw(t, "service")
			s.Name = name
			resources = append(resources, translate.Cluster(s), translate.Assignment(s, drawDecisions(t, s)))
		}
		if dangling := encodeAll(t, resources).Dangling(); len(dangling) > 0 {
			t.Fatal(dangling)
		}
	})
}

// TestRoutesDoNotTouchListeners: what routes and limits say never reaches a listener, whose change would drain
// it, nor what routes say the filters, which would begin to count anew.
func TestRoutesDoNotTouchListeners(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFleet.Draw(t, "fleet")
		bare := &catalog.Fleet{Name: f.Name, Object: f.Object}
		for _, l := range f.Listeners {
			l.VirtualHosts = nil
			bare.Listeners = append(bare.Listeners, l)
		}
		a, b := encodeAll(t, translate.Fleet(f, translate.Options{})), encodeAll(t, translate.Fleet(bare, translate.Options{}))
		if a.Version(translate.LDS) != b.Version(translate.LDS) {
			t.Fatal("a listener depends on routes or limits")
		}
		bare.Rules = f.Rules
		b = encodeAll(t, translate.Fleet(bare, translate.Options{}))
		for _, typ := range []translate.Type{translate.ECDS, translate.RTDS, translate.Limits} {
			if a.Version(typ) != b.Version(typ) {
				t.Fatalf("%s depends on the routes", typ)
			}
		}
	})
}

func assignment(s *catalog.Service, d *weights.Decisions) (weight map[string]uint32, sum uint64, a *endpointv3.ClusterLoadAssignment) {
	a = translate.Assignment(s, d).Message.(*endpointv3.ClusterLoadAssignment)
	weight = map[string]uint32{}
	for _, l := range a.GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			address := e.GetEndpoint().GetAddress().GetSocketAddress()
			weight[address.GetAddress()] = e.GetLoadBalancingWeight().GetValue()
			sum += uint64(e.GetLoadBalancingWeight().GetValue())
		}
	}
	return weight, sum, a
}

func TestAssignmentsAreSoundWhateverTheNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawService.Draw(t, "service")
		d := drawDecisions(t, s)
		weight, sum, a := assignment(s, d)
		if len(weight) != len(s.Endpoints) {
			t.Fatalf("%d endpoints became %d", len(s.Endpoints), len(weight))
		}
		if sum > math.MaxUint32 {
			t.Fatalf("the weights add up to %d", sum)
		}
		for _, w := range weight {
			if w == 0 {
				t.Fatal("a weight is 0")
			}
		}
		for _, l := range a.GetEndpoints() {
			var sum uint32
			for _, e := range l.GetLbEndpoints() {
				sum += e.GetLoadBalancingWeight().GetValue()
			}
			if l.GetLoadBalancingWeight().GetValue() != sum {
				t.Fatalf("zone %q weighs %d, its endpoints %d", l.GetLocality().GetZone(), l.GetLoadBalancingWeight().GetValue(), sum)
			}
		}
		shuffled := *s
		shuffled.Endpoints = rapid.Permutation(s.Endpoints).Draw(t, "permutation")
		if _, _, b := assignment(&shuffled, d); !proto.Equal(a, b) {
			t.Fatal("the order of the endpoints matters")
		}
	})
}

func TestDecidedWeightsArePublishedAsTheyAre(t *testing.T) {
	s := &catalog.Service{Name: "shop/cart:80", Endpoints: []catalog.Endpoint{
		{Address: "10.0.0.1:80", Base: 1, Multiplier: 1},
		{Address: "10.0.0.2:80", Base: 1, Multiplier: 1},
		{Address: "10.0.0.3:80", Base: 2, Multiplier: 1},
	}}
	d := &weights.Decisions{Endpoints: []weights.Decision{
		{Key: signals.Key{Address: "10.0.0.1:80"}, Weight: 3000, PublishedHealthScore: 0.95, PublishedQPSDecayFactor: 0.5},
		{Key: signals.Key{Address: "10.0.0.2:80"}, Weight: 1000},
		{Key: signals.Key{Address: "10.9.9.9:80"}, Weight: 7},
	}}
	got, _, a := assignment(s, d)
	// The third is not decided on: it has twice the base of the others, and their mean is 2000.
	if want := map[string]uint32{"10.0.0.1": 3000, "10.0.0.2": 1000, "10.0.0.3": 4000}; !maps.Equal(got, want) {
		t.Errorf("weights %v, want %v", got, want)
	}
	hosts := a.GetEndpoints()[0].GetLbEndpoints()
	fields := hosts[0].GetMetadata().GetFilterMetadata()[translate.MetadataNamespace].GetFields()
	if fields["health_score"].GetNumberValue() != 0.95 || fields["qps_decay_factor"].GetNumberValue() != 0.5 {
		t.Errorf("metadata %v, want what was published", fields)
	}
	if hosts[1].GetMetadata() != nil || hosts[2].GetMetadata() != nil {
		t.Error("an endpoint carries metadata that was not published")
	}
}

// TestWeightsOfExtremeBases: a scale beyond any float would make a weight of infinity, or of no number.
func TestWeightsOfExtremeBases(t *testing.T) {
	s := &catalog.Service{Name: "shop/cart:80", Endpoints: []catalog.Endpoint{
		{Address: "10.0.0.1:80", Base: 1e-300, Multiplier: 1}, {Address: "10.0.0.2:80", Base: 1, Multiplier: 1},
	}}
	d := &weights.Decisions{Endpoints: []weights.Decision{{Key: signals.Key{Address: "10.0.0.1:80"}, Weight: math.MaxUint32}}}
	weight, sum, _ := assignment(s, d)
	if sum > math.MaxUint32 || weight["10.0.0.1"] < 1 || weight["10.0.0.2"] < weight["10.0.0.1"] {
		t.Errorf("weights %v", weight)
	}
	for _, worth := range []float64{5e-324, 1e-300, 1e-200, 1e200, math.MaxFloat64, math.Inf(1)} { // their product is none, 0 or infinite
		s.Endpoints[0].Base, s.Endpoints[0].Multiplier = worth, worth
		s.Endpoints[1].Base, s.Endpoints[1].Multiplier = worth, worth
		if weight, _, _ := assignment(s, nil); weight["10.0.0.1"] != 1000 || weight["10.0.0.2"] != 1000 {
			t.Errorf("two equal endpoints of base and multiplier %v weigh %v", worth, weight)
		}
	}
}

func TestFleetOrder(t *testing.T) {
	f, _ := shop()
	var got []string
	for _, r := range translate.Fleet(f, translate.Options{}) {
		got = append(got, string(r.Type)+" "+r.Name)
	}
	want := []string{"lds shop/edge/80", "lds shop/edge/8080", "rds shop/edge/80", "rds shop/edge/8080"}
	for n := range translate.BucketSlots {
		want = append(want, fmt.Sprintf("ecds evenkeel.bucket.%d", n+1))
	}
	want = append(want, "ecds evenkeel.custom_response", "ecds evenkeel.limit.allow", "ecds evenkeel.limit.deny", "rtds evenkeel", "limits shop/edge")
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// limitsOf are limits with any text in every place where a user's text goes.
func limitsOf(a, b string) []v1alpha1.Limit {
	rate := &v1alpha1.Rate{Requests: 1, Per: metav1.Duration{Duration: time.Second}}
	match := map[string]string{a: b}
	limits := []v1alpha1.Limit{
		{When: &v1alpha1.When{Methods: []string{a, b}, Headers: match, Backends: []string{"a"}}},
		{When: &v1alpha1.When{Paths: []string{a, "~" + b, "=/" + a}}},
		{When: &v1alpha1.When{Headers: map[string]string{a: "~" + b, b: "*"}}},
		{When: &v1alpha1.When{CEL: &a}},
		{Key: []string{"header:" + a, "query:" + b}, Values: []v1alpha1.ValueLimit{{Match: match, Unlimited: ptr(true)}}},
		{Key: []string{"header:" + a}, Missing: ptr(v1alpha1.MissingDeny), Reply: &v1alpha1.Reply{Headers: match, Body: &a}},
		{Key: []string{"query:" + a}, Missing: ptr(v1alpha1.MissingDeny)},
		{Key: []string{"namespace:" + a}, Values: []v1alpha1.ValueLimit{{Match: map[string]string{"namespace:" + a: b}, Unlimited: ptr(true)}}},
		{Key: []string{"cel:" + a}}, {Key: []string{a, "route"}},
	}
	for _, l := range limits { // and in each Envoy
		if l.Reply == nil {
			l.Scope = ptr(v1alpha1.ScopeProxy)
			limits = append(limits, l)
		}
	}
	for i := range limits {
		limits[i].Rate = rate
	}
	return limits
}

// FuzzUserStrings puts any text in every place where a user's text goes: what comes out is either
// valid or refused with a message that names the resource.
func FuzzUserStrings(f *testing.F) {
	for _, s := range []string{"", "/", "a", "Host", ":path", "%", "%REQ(x)%", "\x00", "\r\n", "\xff", "[", "(a{1000}){1000}", "*", "*.a.*", `\1`, "//", "/a?b#c", "x y", strings.Repeat("é", 300)} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		change := catalog.HeaderChange{Set: []catalog.Header{{Name: a, Value: b}}, Add: []catalog.Header{{Name: b, Value: a}}, Remove: []string{a}}
		to := []catalog.Backend{{Service: b, Weight: 1, RequestHeaders: change}, {Weight: 1}}
		path := &catalog.PathChange{Full: &a}
		prefix := &catalog.PathChange{Prefix: &b}
		listener := func(name, domain string, r catalog.Route) catalog.Listener {
			return catalog.Listener{Name: name, Port: 80, VirtualHosts: []catalog.VirtualHost{{Domain: domain, Routes: []catalog.Route{r}}}}
		}
		fleet := &catalog.Fleet{Listeners: []catalog.Listener{
			listener("headers", "*", catalog.Route{RequestHeaders: change, Backends: to}),
			listener("domain", a, catalog.Route{Name: b, Backends: []catalog.Backend{{Service: a, Weight: 1}}}),
			listener("exact", "*", catalog.Route{Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Exact, Value: a}}}),
			listener("prefix", "*", catalog.Route{Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: a}}, Backends: to[1:], Rewrite: &catalog.Rewrite{Hostname: a, Path: prefix}}),
			listener("regex", "*", catalog.Route{Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Regex, Value: a}, Method: b}}),
			listener("values", "*", catalog.Route{Match: catalog.Match{Headers: []catalog.ValueMatch{{Name: a, Value: b, Type: catalog.Regex}}, Queries: []catalog.ValueMatch{{Name: b, Value: a}}}}),
			listener("redirect", "*", catalog.Route{Redirect: &catalog.Redirect{Scheme: a, Hostname: b, Path: path}}),
			listener("redirect prefix", "*", catalog.Route{Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: a}}, Redirect: &catalog.Redirect{Path: prefix}}),
			listener(a, b, catalog.Route{}),
			{Name: "address", Address: a, Port: 80},
		}}
		for i, l := range limitsOf(a, b) {
			r, err := rlsconfig.Compile(fmt.Sprintf("%s/%d", b, i), v1alpha1.OnErrorDeny, l.WithDefaults())
			if err != nil {
				continue
			}
			fleet.Rules = append(fleet.Rules, r)
			fleet.Listeners = append(fleet.Listeners, listener(fmt.Sprintf("limit %d", i), "*", catalog.Route{
				Name: a, Backends: []catalog.Backend{{Service: "shop/a:80", Weight: 1}, {Service: "shop/b:80", Weight: 1}},
				Limits: []catalog.RouteLimit{{Rule: r, Labels: map[string]string{a: b}}},
			}))
		}
		resources := translate.Fleet(fleet, translate.Options{ListenerAddress: b})
		resources = append(resources, translate.RateLimitConfig(a, fleet.Rules, nil), translate.RateLimitService([]string{a}))
		s := &catalog.Service{Name: a, Endpoints: []catalog.Endpoint{{Address: b, Zone: a}}}
		resources = append(resources, translate.Cluster(s), translate.Assignment(s, nil))
		for _, r := range resources {
			encoded, err := snapshot.Encode(r)
			if err == nil {
				if _, err := encoded.YAML(); err != nil {
					t.Errorf("accepted, but it cannot be shown: %v", err)
				}
				continue
			}
			refusal, ok := errors.AsType[*snapshot.Refusal](err)
			if !ok || refusal.Name != r.Name || refusal.Type != r.Type {
				t.Errorf("%v does not name %s %q", err, r.Type, r.Name)
			}
			if len(refusal.Reason) > 600 {
				t.Errorf("a reason of %d bytes", len(refusal.Reason))
			}
		}
	})
}
