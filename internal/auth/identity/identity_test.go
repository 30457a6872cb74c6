package identity

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func parse(t testing.TB, domain string, mappings ...string) Rules {
	t.Helper()
	r, err := ParseRules(domain, mappings...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func of(t testing.TB, r Rules, names ...string) (*Identity, error) {
	t.Helper()
	var dns []string
	var uris []*url.URL
	for _, name := range names {
		if host, ok := strings.CutPrefix(name, "dns:"); ok {
			dns = append(dns, host)
			continue
		}
		uri, err := url.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		uris = append(uris, uri)
	}
	return r.Of(dns, uris)
}

func TestWhatNamesPermit(t *testing.T) {
	rules := parse(t, "cluster.local",
		"dns:envoy.shop.svc=shop/edge", "dns:Both.shop.svc.=shop/edge", "dns:both.shop.svc=eds:shop", "dns:both.shop.svc=shop/edge",
		"uri:spiffe://mesh.example/ns/shop/sa/envoy=shop/edge", "uri:https://ca.example/id?a=b=bank/gate", "dns:ratelimit.shop.svc=rls")
	for _, c := range []struct {
		names  string // separated by blanks
		fleets string
	}{
		{"spiffe://cluster.local/fleet/shop/edge", "shop/edge"},
		{"spiffe://cluster.local/fleet/shop/edge.v2", "shop/edge.v2"},
		{"spiffe://cluster.local/eds/shop", "eds:shop"},
		{"spiffe://cluster.local/rls", "rls"},
		{"dns:ratelimit.shop.svc", "rls"},
		{"dns:envoy.shop.svc", "shop/edge"},
		{"dns:ENVOY.shop.svc.", "shop/edge"},
		{"dns:both.shop.svc", "eds:shop shop/edge"},
		{"dns:stranger dns:envoy.shop.svc", "shop/edge"},
		{"spiffe://cluster.local/fleet/bank/gate dns:envoy.shop.svc", "bank/gate shop/edge"},
		{"spiffe://mesh.example/ns/shop/sa/envoy", "shop/edge"},
		{"https://ca.example/id?a=b", "bank/gate"},
	} {
		who, err := of(t, rules, strings.Fields(c.names)...)
		if err != nil || strings.Join(who.fleets, " ") != c.fleets || who.IsReplica() || who.Name() == "" {
			t.Errorf("%s: %v, %v, want %s", c.names, who, err, c.fleets)
			continue
		}
		for _, fleet := range who.fleets {
			if !who.MaySee(fleet) {
				t.Errorf("%s may not see %s", c.names, fleet)
			}
		}
	}
	replica, err := of(t, rules, "spiffe://cluster.local/replica")
	if err != nil || !replica.IsReplica() || replica.MaySee("shop/edge") || replica.MaySee("") || replica.MaySee("replica") {
		t.Errorf("%v, %v", replica, err)
	}
	if nobody := (*Identity)(nil); nobody.MaySee("shop/edge") || nobody.IsReplica() || nobody.Name() != "" {
		t.Error("nobody may something")
	}
	if !Anyone.MaySee("shop/edge") || Anyone.IsReplica() {
		t.Error("anyone is a replica, or may see too little")
	}
}

func TestNamesThatPermitNothing(t *testing.T) {
	rules := parse(t, "cluster.local", "dns:envoy.shop.svc=shop/edge", "uri:spiffe://mesh.example/envoy=shop/edge")
	for _, names := range []string{
		"",
		"dns:shop/edge", "dns:*.shop.svc", "dns:xenvoy.shop.svc", "dns:envoy.shop.svc.evil.example", "dns:spiffe://cluster.local/fleet/shop/edge",
		"spiffe://evil.example/fleet/shop/edge", "spiffe://cluster.local.evil.example/fleet/shop/edge",
		"spiffe://CLUSTER.local/fleet/shop/edge", "SPIFFE://cluster.local:443/fleet/shop/edge", "https://cluster.local/fleet/shop/edge",
		"spiffe://cluster.local", "spiffe://cluster.local/fleet/shop", "spiffe://cluster.local/fleet/shop/edge/more", "spiffe://cluster.local/fleet/shop/edge/",
		"spiffe://cluster.local/fleet//edge", "spiffe://cluster.local/fleet/shop/..", "spiffe://cluster.local/fleet/Shop/edge",
		"spiffe://cluster.local/fleet/shop/%65dge", "spiffe://cluster.local/fleet/shop/edge?x", "spiffe://cluster.local/fleet/shop/edge#x",
		"spiffe://user@cluster.local/fleet/shop/edge", "spiffe://cluster.local/FLEET/shop/edge", "spiffe://cluster.local/eds/shop/edge",
		"spiffe://cluster.local/eds/", "spiffe://cluster.local/rls/", "spiffe://cluster.local/rls/shop", "spiffe://cluster.local/eds/rls/x", "spiffe://cluster.local/replica/x", "spiffe://mesh.example/envoy/", "spiffe://mesh.example/envo",
		"spiffe://cluster.local/fleet/shop/edge spiffe://cluster.local/fleet/bank/gate",
	} {
		who, err := of(t, rules, strings.Fields(names)...)
		if who != nil || err == nil {
			t.Errorf("%q: %v", names, who)
			continue
		}
		if !strings.Contains(err.Error(), "expected") {
			t.Errorf("%q: %v", names, err)
		}
	}
	if who, err := (Rules{}).Of([]string{""}, []*url.URL{{}}); who != nil || err == nil {
		t.Errorf("no rules permit %v", who)
	}
}

func TestRulesThatAreRefused(t *testing.T) {
	for given, want := range map[string]string{
		"envoy.shop.svc=shop/edge":    "dns: or uri: at its beginning",
		"dns:envoy.shop.svc":          "expected dns:NAME=FLEET",
		"dns:=shop/edge":              "a DNS name after dns:",
		"dns:*.shop.svc=shop/edge":    "without wildcards",
		"dns:envoy.shop.svc=shop":     `fleet "shop"`,
		"dns:envoy.shop.svc=eds:":     `fleet "eds:"`,
		"dns:envoy.shop.svc=":         `fleet ""`,
		"uri:envoy=shop/edge":         "a URI after uri:",
		"uri:spiffe://%zz=shop/edge":  "a URI after uri:",
		"dns:a=shop/edge,dns:b=a/b/c": `fleet "a/b/c"`,
	} {
		if _, err := ParseRules("cluster.local", given); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", given, err, want)
		}
	}
	for _, domain := range []string{"", "Cluster.local", "spiffe://cluster.local", "cluster.local/x", "a b"} {
		if _, err := ParseRules(domain); err == nil {
			t.Errorf("trust domain %q is accepted", domain)
		}
	}
}

// TestAFleetsNameIsItsOwn: the SPIFFE ID made for a fleet permits that fleet, and no other.
func TestAFleetsNameIsItsOwn(t *testing.T) {
	rules := parse(t, "cluster.local")
	fleets := rapid.OneOf(
		rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?/[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]{1,5})?`),
		rapid.StringMatching(`eds:[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?`),
		rapid.Just("rls"))
	rapid.Check(t, func(t *rapid.T) {
		fleet, other := fleets.Draw(t, "fleet"), fleets.Draw(t, "other")
		uri, err := rules.OfFleet(fleet)
		if err != nil {
			t.Fatal(err)
		}
		again, err := url.Parse(uri.String()) // as it comes out of a certificate
		if err != nil {
			t.Fatal(err)
		}
		who, err := rules.Of(nil, []*url.URL{again})
		if err != nil || !slices.Equal(who.fleets, []string{fleet}) || who.IsReplica() {
			t.Fatalf("%s: %v, %v", uri, who, err)
		}
		if other != fleet && who.MaySee(other) {
			t.Fatalf("%s may see %s", uri, other)
		}
	})
}

// FuzzNames: whatever a certificate says, what it permits follows from one of its names in a way that can
// be written down in one line.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{
		"spiffe://cluster.local/fleet/shop/edge", "spiffe://cluster.local/eds/shop", "spiffe://cluster.local/replica", "spiffe://mesh.example/envoy",
		"spiffe://cluster.local/fleet/shop/../bank/gate", "spiffe://cluster.local//fleet/shop/edge", "spiffe://cluster.local/fleet/shop%2Fedge/x", "\x00",
	} {
		f.Add(seed, "envoy.shop.svc")
	}
	rules := parse(f, "cluster.local", "dns:envoy.shop.svc=shop/mapped", "uri:spiffe://mesh.example/envoy=shop/far")
	f.Fuzz(func(t *testing.T, name, dns string) {
		uri, err := url.Parse(name)
		if err != nil {
			return
		}
		who, err := rules.Of([]string{dns}, []*url.URL{uri})
		if (who == nil) == (err == nil) {
			t.Fatalf("%v and %v", who, err)
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Fatalf("a message of %d bytes", len(err.Error()))
		}
		if who == nil {
			return
		}
		if who.IsReplica() != (uri.String() == "spiffe://cluster.local/replica") {
			t.Fatalf("%q is a replica: %v", name, who.IsReplica())
		}
		for _, fleet := range who.fleets {
			own, err := rules.OfFleet(fleet)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case uri.String() == own.String():
			case fleet == "shop/mapped" && strings.EqualFold(strings.TrimSuffix(dns, "."), "envoy.shop.svc"):
			case fleet == "shop/far" && uri.String() == "spiffe://mesh.example/envoy":
			default:
				t.Fatalf("%q and %q permit %s", name, dns, fleet)
			}
		}
	})
}
