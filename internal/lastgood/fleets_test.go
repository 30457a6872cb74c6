package lastgood

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

func served(t testing.TB, names ...string) *snapshot.Snapshot {
	t.Helper()
	var all []*snapshot.Resource
	for _, name := range names {
		for _, r := range []translate.Resource{
			{Type: translate.CDS, Name: name, Source: "Service " + name, Message: &clusterv3.Cluster{
				Name: name, ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
				EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{ServiceName: name, EdsConfig: &corev3.ConfigSource{
					ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
				}},
			}},
			{Type: translate.EDS, Name: name, Source: "Service " + name, Message: &endpointv3.ClusterLoadAssignment{ClusterName: name}},
		} {
			encoded, err := snapshot.EncodeUnchecked(r) // it is the decoder that is to check
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, encoded)
		}
	}
	return snapshot.New(all...)
}

func savedFleet(t testing.TB) (*Dir, Fleet, string) {
	t.Helper()
	dir, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f := Fleet{
		Key: "shop/edge", SavedAt: at, Number: 7, At: at, Why: "HTTPRoute shop/web changed", By: "file web.yaml",
		Pin:      &Pin{At: at, By: "admin port from 10.0.0.1", Objects: map[string]string{"HTTPRoute shop/web": "c0ffee"}, Held: []string{"Service shop/a"}},
		Snapshot: served(t, "shop/cart:80", "shop/pay:80"),
	}
	if err := dir.SaveFleet(f); err != nil {
		t.Fatal(err)
	}
	return dir, f, filepath.Join(dir.path, fleetFile(f.Key))
}

func TestAFleetComesBackAsItWas(t *testing.T) {
	dir, want, _ := savedFleet(t)
	eds := Fleet{Key: "eds:shop", SavedAt: want.SavedAt, Snapshot: snapshot.New().WithAssignments(want.Snapshot.Get(translate.EDS, "shop/cart:80"))}
	if err := dir.SaveFleet(eds); err != nil {
		t.Fatal(err)
	}
	fleets, errs := dir.LoadFleets()
	if len(errs) > 0 || len(fleets) != 2 {
		t.Fatal(fleets, errs)
	}
	byKey := map[string]Fleet{fleets[0].Key: fleets[0], fleets[1].Key: fleets[1]}
	got := byKey[want.Key]
	for _, kind := range translate.Types {
		for name, r := range want.Snapshot.Resources(kind) {
			back := got.Snapshot.Get(kind, name)
			if back == nil || back.Version != r.Version || !bytes.Equal(back.Bytes, r.Bytes) || back.Source != r.Source || !reflect.DeepEqual(back.Refs, r.Refs) || !bytes.Equal(back.Delta(), r.Delta()) {
				t.Errorf("%s %s came back as %+v", kind, name, back)
			}
		}
	}
	if byKey["eds:shop"].Snapshot.Get(translate.EDS, "shop/cart:80") != got.Snapshot.Get(translate.EDS, "shop/cart:80") {
		t.Error("a resource of two fleets is there twice")
	}
	got.Snapshot, want.Snapshot = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !dir.HasFleets() {
		t.Error("there is nothing to serve")
	}
	for _, f := range fleets {
		if err := dir.ForgetFleet(f.Key); err != nil {
			t.Error(err)
		}
	}
	if err := dir.ForgetFleet("never/was"); err != nil || dir.HasFleets() {
		t.Errorf("%v, there is something left: %v", err, dir.HasFleets())
	}
}

// TestAFleetThatCannotBeServed is left aside, by name, and no other is concerned.
func TestAFleetThatCannotBeServed(t *testing.T) {
	rewrite := func(change func(head, resources string) (string, string)) func(t *testing.T, d *Dir, content []byte) []byte {
		return func(t *testing.T, d *Dir, content []byte) []byte {
			body, err := verified(content, fleetMagic)
			if err != nil {
				t.Fatal(err)
			}
			line, resources, _ := strings.Cut(string(body), "\n")
			line, resources = change(line, resources)
			if err := d.replace("again", fleetMagic, []byte(line+"\n"+resources)); err != nil {
				t.Fatal(err)
			}
			again, err := os.ReadFile(filepath.Join(d.path, "again"))
			if err != nil {
				t.Fatal(err)
			}
			return again
		}
	}
	for name, test := range map[string]struct {
		damage func(*testing.T, *Dir, []byte) []byte
		want   string
	}{
		"a flipped bit": {func(_ *testing.T, _ *Dir, b []byte) []byte { b[len(b)-3] ^= 1; return b }, "checksum"},
		"cut short":     {func(_ *testing.T, _ *Dir, b []byte) []byte { return b[:len(b)/2] }, "checksum"},
		"empty":         {func(*testing.T, *Dir, []byte) []byte { return nil }, "another version"},
		"of the future": {func(_ *testing.T, _ *Dir, b []byte) []byte {
			return bytes.Replace(b, []byte("fleet-1"), []byte("fleet-2"), 1)
		}, "another version"},
		"another fleet's": {rewrite(func(h, r string) (string, string) { return strings.Replace(h, "shop/edge", "shop/front", 1), r }), `is of fleet "shop/front"`},
		"no head":         {rewrite(func(_, r string) (string, string) { return "", r }), "head"},
		"no resources":    {rewrite(func(h, _ string) (string, string) { return h, "" }), "has 0 resources of 4"},
		"not resources":   {rewrite(func(h, _ string) (string, string) { return h, "\xff" }), "resources:"},
		"other bytes": {rewrite(func(h, r string) (string, string) {
			return h, strings.Replace(r, "\n\x0bshop/pay:80", "\n\x0bshop/pax:80", 1)
		}), "version is"},
		"a type not served": {rewrite(func(h, r string) (string, string) {
			return h, strings.ReplaceAll(r, "cluster.v3.Cluster", "cluster.v9.Cluster")
		}), "not one that is served"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, f, path := savedFleet(t)
			other := f
			other.Key = "shop/other"
			if err := dir.SaveFleet(other); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, test.damage(t, dir, content), 0o600); err != nil {
				t.Fatal(err)
			}
			fleets, errs := dir.LoadFleets()
			if len(fleets) != 1 || fleets[0].Key != "shop/other" {
				t.Errorf("loaded %v", fleets)
			}
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), path) || !strings.Contains(errs[0].Error(), test.want) {
				t.Errorf("got %v, want one error that names %s and says %q", errs, path, test.want)
			}
		})
	}
}

// TestWhatIsNotValidIsNotServed: a resource that passed when it was saved and does not any more, and one that
// points at nothing.
func TestWhatIsNotValidIsNotServed(t *testing.T) {
	unnamed, err := snapshot.EncodeUnchecked(translate.Resource{Type: translate.EDS, Name: "shop/cart:80", Message: &endpointv3.ClusterLoadAssignment{}})
	if err != nil {
		t.Fatal(err)
	}
	for want, s := range map[string]*snapshot.Snapshot{
		"is not valid":                snapshot.New(unnamed),
		"do not fit together: cds \"": served(t, "shop/cart:80").WithoutEndpoints(nil),
	} {
		dir, f, _ := savedFleet(t)
		f.Snapshot = s
		if err := dir.SaveFleet(f); err != nil {
			t.Fatal(err)
		}
		if fleets, errs := dir.LoadFleets(); len(fleets) != 0 || len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("loaded %v, %v, want %q", fleets, errs, want)
		}
	}
}

func TestFileNames(t *testing.T) {
	long := strings.Repeat("n", 63) + "/" + strings.Repeat("g.", 126) + "g"
	seen := map[string]string{}
	for _, key := range []string{"shop/edge", "shop_edge", "shop/edg", "eds:shop", "../../etc/passwd", ".hidden/x", long, long + "x", "ä/ö", ""} {
		name := fleetFile(key)
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") || len(name) > 200 || !strings.HasSuffix(name, fleetSuffix) {
			t.Errorf("%q is saved in %q", key, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q are saved in the same file", key, other)
		}
		seen[name] = key
	}
}

func TestWhatASaveLeftIsRemoved(t *testing.T) {
	path := t.TempDir()
	left := filepath.Join(path, ".save-123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("it is still there")
	}
	if err := dir.Writable(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if dir.Writable() == nil {
		t.Error("a directory that is gone is taken to be writable")
	}
}

func FuzzDecodeFleet(f *testing.F) {
	_, fleet, _ := savedFleet(f)
	body, err := fleet.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"key":"a/b","sources":[""]}` + "\n\x12\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := decodeFleet(body, map[string]*snapshot.Resource{})
		if err != nil {
			return
		}
		if missing := got.Snapshot.Dangling(); len(missing) > 0 {
			t.Errorf("what is to be served misses %v", missing)
		}
		again, err := got.Encode()
		if err != nil {
			t.Fatalf("what was decoded cannot be saved: %v", err)
		}
		if back, err := decodeFleet(again, map[string]*snapshot.Resource{}); err != nil || !back.Snapshot.Equal(got.Snapshot) {
			t.Errorf("saved again it is another: %v", err)
		}
	})
}
