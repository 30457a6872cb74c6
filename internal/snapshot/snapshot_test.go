package snapshot

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"sigs.k8s.io/yaml"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/translate"
)

// service is a Service with an endpoint for each base weight.
func service(name string, bases ...float64) *catalog.Service {
	s := &catalog.Service{Name: name}
	for i, base := range bases {
		s.Endpoints = append(s.Endpoints, catalog.Endpoint{Address: string(rune('1'+i)) + ".0.0.1:80", Base: base, Multiplier: 1})
	}
	return s
}

func mustEncode(t *testing.T, resources ...translate.Resource) []*Resource {
	t.Helper()
	var out []*Resource
	for _, r := range resources {
		encoded, err := Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, encoded)
	}
	return out
}

// edge is a fleet with one listener and a route to the services.
func edge(t *testing.T, services ...*catalog.Service) *Snapshot {
	t.Helper()
	l := catalog.Listener{Name: "shop/edge/80", Port: 80, VirtualHosts: []catalog.VirtualHost{{Domain: "*"}}}
	resources := []translate.Resource{}
	for _, s := range services {
		l.VirtualHosts[0].Routes = append(l.VirtualHosts[0].Routes, catalog.Route{Backends: []catalog.Backend{{Service: s.Name, Weight: 1}, {Weight: 1}}})
		resources = append(resources, translate.Cluster(s), translate.Assignment(s, nil))
	}
	resources = append(resources, translate.Fleet(&catalog.Fleet{Listeners: []catalog.Listener{l}}, translate.Options{})...)
	return New(mustEncode(t, resources...)...)
}

func TestRefs(t *testing.T) {
	s := edge(t, service("shop/a:80", 1), service("shop/b:80"))
	for _, c := range []struct {
		from translate.Type
		name string
		to   translate.Type
		want []string
	}{
		{translate.LDS, "shop/edge/80", translate.RDS, []string{"shop/edge/80"}},
		{translate.RDS, "shop/edge/80", translate.CDS, []string{"shop/a:80", "shop/b:80"}},
		{translate.CDS, "shop/b:80", translate.EDS, []string{"shop/b:80"}},
	} {
		if got := s.Get(c.from, c.name).Refs[c.to]; !slices.Equal(got, c.want) {
			t.Errorf("%s %s names %s %q, want %q", c.from, c.name, c.to, got, c.want)
		}
	}
	if d := s.Dangling(); len(d) != 0 {
		t.Errorf("dangling: %q", d)
	}
	broken := New(append(slices.Collect(maps.Values(s.Resources(translate.LDS))), s.Get(translate.CDS, "shop/a:80"))...)
	want := []string{
		`cds "shop/a:80" names eds "shop/a:80", which does not exist`,
		`lds "shop/edge/80" names rds "shop/edge/80", which does not exist`,
	}
	if got := broken.Dangling(); !slices.Equal(got, want) {
		t.Errorf("dangling: %q, want %q", got, want)
	}
}

func TestWithEndpointsChangesNothingElse(t *testing.T) {
	before := edge(t, service("shop/a:80", 1, 1), service("shop/b:80", 1))
	same := mustEncode(t, translate.Assignment(service("shop/a:80", 1, 1), nil))
	if before.WithEndpoints(same...) != before {
		t.Error("the same endpoints made a new snapshot")
	}
	changed := mustEncode(t, translate.Assignment(service("shop/a:80", 1, 2), nil))
	after := before.WithEndpoints(changed...)
	if after.Get(translate.EDS, "shop/a:80") != changed[0] || after.Version(translate.EDS) == before.Version(translate.EDS) {
		t.Error("the new endpoints are not served")
	}
	if !after.EqualButEndpoints(before) || after.Equal(before) {
		t.Error("endpoints alone changed, and the snapshots do not say so")
	}
	if after.Get(translate.EDS, "shop/b:80") != before.Get(translate.EDS, "shop/b:80") || after.tables[translate.CDS] != before.tables[translate.CDS] {
		t.Error("what did not change is not shared")
	}
	if before.Get(translate.EDS, "shop/a:80").Version == changed[0].Version {
		t.Error("the snapshot before was changed")
	}
}

func TestNoSnapshot(t *testing.T) {
	var none *Snapshot
	if none.Get(translate.CDS, "a") != nil || none.Resources("odd") != nil || none.Dangling() != nil ||
		none.GetVersion("odd") != "" || len(none.GetResourcesAndTTL("odd")) != 0 || len(none.GetVersionMap("odd")) != 0 ||
		len(none.GetResources("odd")) != 0 || none.ConstructVersionMap() != nil {
		t.Error("a nil snapshot is not empty")
	}
	if !none.Equal(New()) || !New().Equal(none) {
		t.Error("a nil snapshot and an empty one differ")
	}
	if got := none.WithEndpoints(mustEncode(t, translate.Assignment(service("a"), nil))...); got.Get(translate.EDS, "a") == nil {
		t.Error("endpoints in nothing are not there")
	}
}

// TestVersionsOnTheWireAreOurs holds Resource.Version against what go-control-plane's cache sends, and
// asks again with it as a client does that reconnects.
func TestVersionsOnTheWireAreOurs(t *testing.T) {
	s := edge(t, service("shop/a:80", 1, 2))
	all := []*Resource{mustEncode(t, translate.RateLimitConfig("shop/edge", nil, nil))[0]}
	for _, typ := range translate.Types {
		all = slices.AppendSeq(all, maps.Values(s.Resources(typ)))
	}
	s = New(all...)
	c := cache.NewSnapshotCache(false, cache.IDHash{}, nil)
	if err := c.SetSnapshot(context.Background(), "node", s); err != nil {
		t.Fatal(err)
	}
	for _, typ := range translate.Types {
		if typ == translate.RLS {
			continue // a fleet has none
		}
		request := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "node"}, TypeUrl: typ.URL()}
		names := slices.Sorted(maps.Keys(s.Resources(typ)))
		ask := func(known map[string]string) *discoveryv3.DeltaDiscoveryResponse {
			value := make(chan cache.DeltaResponse, 1)
			cancel, err := c.CreateDeltaWatch(request, stream.NewDeltaSubscription(names, nil, known, true), value)
			if err != nil {
				t.Fatal(err)
			}
			defer cancel()
			select {
			case r := <-value:
				response, err := r.GetDeltaDiscoveryResponse()
				if err != nil {
					t.Fatal(err)
				}
				return response
			default:
				return nil
			}
		}
		known := map[string]string{}
		for _, r := range ask(nil).GetResources() {
			ours := s.Get(typ, r.GetName())
			if r.GetVersion() != ours.Version {
				t.Errorf("%s %s has version %s on the wire, %s with us", typ, r.GetName(), r.GetVersion(), ours.Version)
			}
			if string(r.GetResource().GetValue()) != string(ours.Bytes) {
				t.Errorf("%s %s is not the bytes that we validated", typ, r.GetName())
			}
			known[r.GetName()] = r.GetVersion()
		}
		if len(known) != len(names) {
			t.Errorf("%s: %d of %d resources came", typ, len(known), len(names))
		}
		if again := ask(known); again != nil {
			t.Errorf("%s: a client that has everything was sent %d resources", typ, len(again.GetResources()))
		}
	}
}

// TestTextsAreShownAsTheyAre: what a user may write in a header is the same after YAML and JSON.
func TestTextsAreShownAsTheyAre(t *testing.T) {
	text := "\x01\x7f\u0085\u2028\ufeff\U000e0001 é 日本 \U0001f600 # : ' \" yes"
	r := mustEncode(t, translate.Resource{Type: translate.RTDS, Name: "l", Message: &runtimev3.Runtime{
		Name: "l", Layer: &structpb.Struct{Fields: map[string]*structpb.Value{"text": structpb.NewStringValue(text)}},
	}})[0]
	written, err := r.YAML()
	if err != nil {
		t.Fatal(err)
	}
	var read struct{ Layer struct{ Text string } }
	if err := yaml.Unmarshal(written, &read); err != nil || read.Layer.Text != text {
		t.Errorf("%q became %q (%v)", text, read.Layer.Text, err)
	}
}

func TestDiff(t *testing.T) {
	a := edge(t, service("shop/a:80", 1, 1), service("shop/gone:80", 1))
	b := edge(t, service("shop/a:80", 1, 3), service("shop/new:80", 1))
	var got []string
	var text string
	for _, c := range Diff(a, b) {
		got = append(got, c.Op+" "+string(c.Type)+" "+c.Name)
		if c.Type == translate.EDS && c.Op == "changed" {
			text = c.Text
		}
	}
	want := []string{
		"removed cds shop/gone:80", "added cds shop/new:80",
		"changed eds shop/a:80", "removed eds shop/gone:80", "added eds shop/new:80",
		"changed rds shop/edge/80",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, line := range []string{"-    load_balancing_weight: 1000\n", "+    load_balancing_weight: 1500\n", "         socket_address:\n"} {
		if !strings.Contains(text, line) {
			t.Errorf("the diff lacks %q:\n%s", line, text)
		}
	}
	if d := Diff(a, a); len(d) != 0 {
		t.Errorf("%d differences to itself", len(d))
	}
	if d := Diff(nil, a); len(d) == 0 || d[0].Op != "added" {
		t.Error("nothing was added to nothing")
	}
}
