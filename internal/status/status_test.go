package status

import (
	"strings"
	"testing"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

var (
	gateway = source.Ref{Kind: source.KindGateway, Namespace: "shop", Name: "edge"}
	route   = source.Ref{Kind: source.KindHTTPRoute, Namespace: "shop", Name: "web"}
	other   = source.Ref{Kind: source.KindHTTPRoute, Namespace: "shop", Name: "other"}
	cart    = source.Ref{Kind: source.KindService, Namespace: "shop", Name: "cart"}
	policy  = source.Ref{Kind: source.KindBalancePolicy, Namespace: "shop", Name: "cart"}
	grant   = source.Ref{Kind: source.KindReferenceGrant, Namespace: "shop", Name: "g"}
	good    = catalog.Condition{OK: true, Reason: "Accepted"}
)

// fixture is one gateway with two routes to one Service under a policy, all accepted.
func fixture() Input {
	verdict := func(object, parent source.Ref, section string) catalog.Verdict {
		return catalog.Verdict{Object: object, Parent: parent, Section: section, Accepted: good,
			ResolvedRefs: catalog.Condition{OK: true, Reason: "ResolvedRefs"}}
	}
	origins := map[source.Ref]*source.Origin{}
	for i, ref := range []source.Ref{gateway, route, other, cart, policy, grant} {
		origins[ref] = &source.Origin{File: "all.yaml", Line: 1 + 10*i, Fields: map[string]int{"spec": 3 + 10*i}}
	}
	return Input{
		Store: &source.Store{Origins: origins},
		Catalog: &catalog.Catalog{
			Fleets: map[string]*catalog.Fleet{"shop/edge": {Name: "shop/edge", Object: gateway, Services: []string{"shop/cart:80"}}},
			Services: map[string]*catalog.Service{
				"shop/cart:80": {Name: "shop/cart:80", Namespace: "shop", Object: cart},
			},
			Verdicts: []catalog.Verdict{
				verdict(policy, cart, ""), verdict(gateway, source.Ref{}, ""), verdict(other, gateway, ""),
				verdict(route, gateway, "http"), verdict(grant, source.Ref{}, ""), verdict(cart, source.Ref{}, ""),
			},
		},
	}
}

// proxy is a node of the fleet in which every type has the same state.
func proxy(node, fleet string, state xds.SyncState) xds.Proxy {
	types := map[translate.Type]xds.TypeState{}
	for _, t := range translate.Types {
		types[t] = xds.TypeState{State: state}
	}
	return xds.Proxy{Node: node, Fleet: fleet, Types: types}
}

func find(t *testing.T, objects []Object, ref source.Ref) Object {
	t.Helper()
	for _, o := range objects {
		if o.Kind == ref.Kind && o.Namespace == ref.Namespace && o.Name == ref.Name {
			return o
		}
	}
	t.Fatalf("no %s among %+v", ref, objects)
	return Object{}
}

func condition(t *testing.T, o Object, kind string) Condition {
	t.Helper()
	for _, c := range o.Conditions {
		if c.Type == kind {
			return c
		}
	}
	t.Fatalf("no %s on %+v", kind, o)
	return Condition{}
}

func TestProgrammed(t *testing.T) {
	refusal := func(kind translate.Type, source string) xds.Proxy {
		p := proxy("bad", "shop/edge", xds.Synced)
		p.Types[kind] = xds.TypeState{State: xds.Nacked}
		p.LastNack = &xds.Nack{Type: kind, Source: source, Message: "no such filter"}
		return p
	}
	with := func(p xds.Proxy, kind translate.Type, state xds.SyncState) xds.Proxy {
		p.Types[kind] = xds.TypeState{State: state}
		return p
	}
	synced := proxy("good", "shop/edge", xds.Synced)
	for _, tc := range []struct {
		name    string
		proxies []xds.Proxy
		object  source.Ref
		want    Condition
	}{
		{"none connected", nil, route, Condition{Status: "False", Reason: "Pending", Message: "no connected proxy needs it"}},
		{"another fleet's proxy does not count", []xds.Proxy{proxy("x", "shop/inner", xds.Synced)}, gateway,
			Condition{Status: "False", Reason: "Pending", Message: "no connected proxy needs it"}},
		{"all acknowledged", []xds.Proxy{synced, proxy("b", "shop/edge", xds.Synced)}, route,
			Condition{Status: "True", Reason: "Programmed", Message: "acknowledged by 2 connected proxies"}},
		{"one waits", []xds.Proxy{synced, proxy("slow", "shop/edge", xds.Pending)}, policy,
			Condition{Status: "False", Reason: "Pending", Message: "1 of 2 connected proxies acknowledged it; waiting for slow"}},
		{"not subscribed yet", []xds.Proxy{with(proxy("new", "shop/edge", xds.Synced), translate.RDS, xds.NotSubscribed)}, route,
			Condition{Status: "False", Reason: "Pending", Message: "0 of 1 connected proxies acknowledged it; waiting for new"}},
		{"a type that does not carry the object is not waited for", []xds.Proxy{with(proxy("a", "shop/edge", xds.Synced), translate.RDS, xds.Pending)}, cart,
			Condition{Status: "True", Reason: "Programmed", Message: "acknowledged by 1 connected proxy"}},
		{"refused with Envoy's words", []xds.Proxy{synced, refusal(translate.RDS, route.String())}, route,
			Condition{Status: "False", Reason: "Rejected", Message: "bad refused it: no such filter"}},
		{"refused for another object", []xds.Proxy{synced, refusal(translate.RDS, other.String())}, route,
			Condition{Status: "True", Reason: "Programmed", Message: "acknowledged by 2 connected proxies"}},
		{"refused, nobody knows for which object", []xds.Proxy{refusal(translate.RDS, "")}, other,
			Condition{Status: "False", Reason: "Rejected", Message: "bad refused it: no such filter"}},
		{"EDS-only clients of the namespace count for a Service", []xds.Proxy{with(proxy("g", "eds:shop", xds.NotSubscribed), translate.EDS, xds.Synced)}, cart,
			Condition{Status: "True", Reason: "Programmed", Message: "acknowledged by 1 connected proxy"}},
		{"EDS-only clients of another namespace do not", []xds.Proxy{proxy("g", "eds:bank", xds.Pending)}, cart,
			Condition{Status: "False", Reason: "Pending", Message: "no connected proxy needs it"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := fixture()
			in.Proxies = tc.proxies
			got := condition(t, find(t, Conditions(in), tc.object), TypeProgrammed)
			got.Type, got.Ancestor = "", ""
			if got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

// TestARefusalConcernsAllThatTheResourceCarries: a route configuration has many routes, an assignment the work
// of a policy; each names one object as its source.
func TestARefusalConcernsAllThatTheResourceCarries(t *testing.T) {
	in := fixture()
	in.Catalog.Fleets["shop/edge"].Listeners = []catalog.Listener{
		{Name: "shop/edge/80", VirtualHosts: []catalog.VirtualHost{{Routes: []catalog.Route{{Object: route}, {Object: other}}}}},
		{Name: "shop/edge/81", VirtualHosts: []catalog.VirtualHost{{Routes: []catalog.Route{{Object: route}}}}},
	}
	in.Catalog.Services["shop/cart:80"].Policies = []source.Ref{policy}
	refusal := func(kind translate.Type, name, source string) []xds.Proxy {
		p := proxy("bad", "shop/edge", xds.Synced)
		p.Types[kind] = xds.TypeState{State: xds.Nacked}
		p.LastNack = &xds.Nack{Type: kind, Resource: name, Source: source, Message: "no"}
		return []xds.Proxy{p}
	}
	for _, tc := range []struct {
		proxies []xds.Proxy
		object  source.Ref
		want    string
	}{
		{refusal(translate.RDS, "shop/edge/80", route.String()), route, "bad refused it: no"},
		{refusal(translate.RDS, "shop/edge/80", route.String()), other, "bad refused rds shop/edge/80, which carries it: no"},
		{refusal(translate.RDS, "shop/edge/81", route.String()), other, "acknowledged by 1 connected proxy"},
		{refusal(translate.EDS, "shop/cart:80", cart.String()), cart, "bad refused it: no"},
		{refusal(translate.EDS, "shop/cart:80", cart.String()), policy, "bad refused eds shop/cart:80, which carries it: no"},
		{refusal(translate.EDS, "shop/other:80", "Service shop/other"), policy, "acknowledged by 1 connected proxy"},
	} {
		in.Proxies = tc.proxies
		if got := condition(t, find(t, Conditions(in), tc.object), TypeProgrammed).Message; got != tc.want {
			t.Errorf("%s: %q, want %q", tc.object, got, tc.want)
		}
	}
}

func TestAnEDSOnlyReaderOfAnotherNamespaceCounts(t *testing.T) {
	in := fixture()
	in.Catalog.Services["shop/cart:80"].Readers = []string{"bank"}
	in.Proxies = []xds.Proxy{proxy("g", "eds:bank", xds.Pending)}
	if c := condition(t, find(t, Conditions(in), cart), TypeProgrammed); c.Message != "0 of 1 connected proxies acknowledged it; waiting for g" {
		t.Errorf("got %+v", c)
	}
}

func TestConditionsSpeakPerAncestor(t *testing.T) {
	in := fixture()
	in.Catalog.Verdicts = append(in.Catalog.Verdicts,
		catalog.Verdict{Object: gateway, Section: "http", Accepted: good, ResolvedRefs: good},
		catalog.Verdict{Object: other, Parent: gateway, Section: "http", Port: 80, Accepted: good, ResolvedRefs: good})
	for ref, want := range map[source.Ref]string{gateway: "Gateway shop/edge http", other: "Gateway shop/edge http:80"} {
		o := find(t, Conditions(in), ref)
		if got := o.Conditions[len(o.Conditions)-1].Ancestor; got != want {
			t.Errorf("%s speaks for %q, want %q", ref, got, want)
		}
	}
	o := find(t, Conditions(fixture()), route)
	if len(o.Conditions) != 3 {
		t.Fatalf("want Accepted, ResolvedRefs and Programmed, got %+v", o.Conditions)
	}
	for _, c := range o.Conditions {
		if c.Ancestor != "Gateway shop/edge http" {
			t.Errorf("%s speaks for %q", c.Type, c.Ancestor)
		}
	}
	for _, c := range find(t, Conditions(fixture()), grant).Conditions {
		if c.Type == TypeProgrammed {
			t.Error("a ReferenceGrant is sent to no Envoy and cannot be Programmed")
		}
	}
}

func TestARefusedVerdictIsNotProgrammed(t *testing.T) {
	in := fixture()
	in.Proxies = []xds.Proxy{proxy("a", "shop/edge", xds.Synced)}
	in.Catalog.Verdicts[3].Accepted = catalog.Condition{Reason: "Invalid", Field: "spec.rules[0]", Message: "unknown method"}
	o := find(t, Conditions(in), route)
	if c := condition(t, o, TypeAccepted); c.Status != "False" || c.Field != "spec.rules[0]" || c.Message != "unknown method" {
		t.Errorf("Accepted: %+v", c)
	}
	if c := condition(t, o, TypeProgrammed); c.Status != "False" || c.Reason != "Invalid" {
		t.Errorf("Programmed: %+v", c)
	}
	if o.Line != 13 {
		t.Errorf("line %d, want that of the nearest enclosing field, 13", o.Line)
	}
}

func TestARefusedVersionOfAnAcceptedObjectIsDegraded(t *testing.T) {
	in := fixture()
	in.Catalog.Verdicts[3].Accepted = catalog.Condition{Reason: "Invalid", Message: "unknown method", Kept: true}
	c := condition(t, find(t, Conditions(in), route), TypeDegraded)
	if c.Status != "True" || c.Reason != "LastKnownGood" || c.Ancestor != "Gateway shop/edge http" {
		t.Errorf("got %+v", c)
	}
}

func TestProblems(t *testing.T) {
	in := fixture()
	in.Store.Problems = []source.Problem{
		{File: "all.yaml", Line: 14, Object: route, Field: "spec.rulez", Message: "unknown field", Kept: "the version before stays in force"},
		{File: "new.yaml", Line: 2, Object: source.Ref{Kind: "Gateway", Namespace: "shop", Name: "new"}, Message: "no listeners", Kept: "nothing: it was never accepted"},
		{File: "all.yaml", Line: 99, Message: "not YAML", Kept: "the version before stays in force"},
		{File: "junk.yaml", Line: 1, Message: "not YAML", Kept: "nothing: it was never accepted"},
	}
	objects := Conditions(in)

	o := find(t, objects, route)
	if c := condition(t, o, TypeAccepted); c.Status != "False" || c.Reason != "Invalid" || c.Field != "spec.rulez" {
		t.Errorf("Accepted: %+v", c)
	}
	if c := condition(t, o, TypeDegraded); c.Status != "True" || c.Reason != "LastKnownGood" || c.Message != "the version before stays in force" {
		t.Errorf("Degraded: %+v", c)
	}
	for _, c := range o.Conditions {
		if c.Type == TypeAccepted && c.Status == "True" {
			t.Errorf("the version before is said to be accepted beside the refusal: %+v", c)
		}
	}
	if o.File != "all.yaml" || o.Line != 14 {
		t.Errorf("at %s:%d, want the problem's all.yaml:14", o.File, o.Line)
	}

	for _, c := range find(t, objects, source.Ref{Kind: "Gateway", Namespace: "shop", Name: "new"}).Conditions {
		if c.Type == TypeDegraded {
			t.Error("an object of which nothing is in force is not Degraded")
		}
	}
	condition(t, find(t, objects, source.Ref{Kind: KindFile, Name: "all.yaml"}), TypeDegraded)
	if n := len(find(t, objects, source.Ref{Kind: KindFile, Name: "junk.yaml"}).Conditions); n != 1 {
		t.Errorf("junk.yaml has %d conditions, want Accepted alone", n)
	}
}

// TestWhatASourceCannotSeeIsDegraded: nothing is wrong with the object, so it stays accepted.
func TestWhatASourceCannotSeeIsDegraded(t *testing.T) {
	in := fixture()
	crd := source.Ref{Kind: source.KindCRD, Name: "gateways.gateway.networking.k8s.io"}
	in.Store.Problems = []source.Problem{
		{Object: cart, Message: "left out", Kept: "all of them", Degraded: source.LastKnownGood},
		{Object: crd, Message: "not there", Kept: "nothing", Degraded: source.NotInstalled},
	}
	service := find(t, Conditions(in), cart)
	if c := condition(t, service, TypeDegraded); c.Status != "True" || c.Reason != "LastKnownGood" || c.Message != "left out; all of them" {
		t.Errorf("got %+v", c)
	}
	if c := condition(t, service, TypeAccepted); c.Status != "True" {
		t.Errorf("got %+v", c)
	}
	if c := condition(t, find(t, Conditions(in), crd), TypeDegraded); c.Reason != "NotInstalled" {
		t.Errorf("got %+v", c)
	}
}

func TestStaleMetrics(t *testing.T) {
	in := fixture()
	in.Stale = map[string]string{"shop/cart:80": "2 of 6 endpoints are fresh", "shop/gone:1": "not there any more"}
	c := condition(t, find(t, Conditions(in), cart), TypeDegraded)
	if c.Status != "True" || c.Reason != "StaleMetrics" || c.Message != "shop/cart:80: 2 of 6 endpoints are fresh" {
		t.Errorf("got %+v", c)
	}
}

func TestStaleMetricsAreSaidOfThePolicyToo(t *testing.T) {
	in := fixture()
	in.Catalog.Services["shop/cart:80"].Policies = []source.Ref{policy}
	in.Catalog.Services["shop/cart:81"] = &catalog.Service{Name: "shop/cart:81", Namespace: "shop", Object: cart, Policies: []source.Ref{policy}}
	in.Stale = map[string]string{"shop/cart:80": "no readings", "shop/cart:81": "no readings either"}
	c := condition(t, find(t, Conditions(in), policy), TypeDegraded)
	if c.Reason != ReasonStaleMetrics || c.Message != "shop/cart:80: no readings; and so for 1 other service" || c.Ancestor != cart.String() {
		t.Errorf("got %+v", c)
	}
	in.Catalog.Services["shop/cart:80"].Policies, in.Catalog.Services["shop/cart:81"].Policies = nil, nil
	for _, c := range find(t, Conditions(in), policy).Conditions {
		if c.Type == TypeDegraded {
			t.Errorf("a policy that shapes none of them says %+v", c)
		}
	}
}

func TestWhatIsNotValidIsSaidOfItsObject(t *testing.T) {
	in := fixture()
	in.Refused = map[string]string{cart.String(): "weight: expected at least 1"}
	c := condition(t, find(t, Conditions(in), cart), TypeDegraded)
	if c.Status != "True" || c.Reason != ReasonLastKnownGood || !strings.Contains(c.Message, "weight: expected at least 1") {
		t.Errorf("got %+v", c)
	}
}

// TestRolledBack: what a pinned fleet does not serve the present version of, and nothing else.
func TestRolledBack(t *testing.T) {
	for _, all := range []bool{false, true} {
		in := fixture()
		in.Proxies = []xds.Proxy{proxy("a", "shop/edge", xds.Synced)}
		in.RolledBack = map[string]RolledBack{"shop/edge": {Text: "fleet shop/edge is pinned to generation 6", Objects: []string{route.String()}, All: all}}
		objects := Conditions(in)
		for ref, want := range map[source.Ref]bool{route: true, {Kind: "Gateway", Namespace: "shop", Name: "edge"}: true, cart: all, policy: false} {
			c := condition(t, find(t, objects, ref), TypeProgrammed)
			if got := c.Reason == ReasonRolledBack && c.Status == "False" && c.Message == "fleet shop/edge is pinned to generation 6"; got != want {
				t.Errorf("all %v: %v is %+v", all, ref, c)
			}
		}
		in.RolledBack = map[string]RolledBack{"bank/edge": {All: true}}
		if c := condition(t, find(t, Conditions(in), route), TypeProgrammed); c.Reason != ReasonProgrammed {
			t.Errorf("another fleet's pin: %+v", c)
		}
	}
}

func TestWhatWasSavedIsServed(t *testing.T) {
	objects := Conditions(Input{Restored: map[string]string{"shop/edge": "saved at noon", "eds:shop": "saved at noon"}})
	if len(objects) != 1 || objects[0].Kind != "Gateway" || objects[0].Namespace != "shop" || objects[0].Name != "edge" {
		t.Fatalf("got %+v", objects)
	}
	if c := condition(t, objects[0], TypeDegraded); c.Status != "True" || c.Reason != ReasonLastKnownGood || c.Message != "saved at noon" {
		t.Errorf("got %+v", c)
	}
}

func TestNothingKnownIsNoObjects(t *testing.T) {
	if got := Conditions(Input{}); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}
