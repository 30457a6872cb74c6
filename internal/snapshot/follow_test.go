package snapshot_test

import (
	"testing"
	"testing/synctest"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

const edge = "shop/edge"

// shopOf is what a fleet with one listener and these services is served; base weights are 1, and that of
// the first endpoint of each service is first.
func shopOf(t testing.TB, first float64, services ...string) *snapshot.Snapshot {
	f := &catalog.Fleet{Name: edge, Listeners: []catalog.Listener{{Name: edge + "/80", Port: 80, VirtualHosts: []catalog.VirtualHost{
		{Domain: "shop.example.com", Routes: []catalog.Route{{Backends: []catalog.Backend{{Service: services[0], Weight: 1}}}}},
	}}}}
	unencoded := translate.Fleet(f, translate.Options{})
	for _, name := range services {
		s := &catalog.Service{Name: name, Endpoints: []catalog.Endpoint{
			{Address: "10.0.0.1:80", Zone: "a", Base: first, Multiplier: 1}, {Address: "10.0.0.2:80", Zone: "a", Base: 1, Multiplier: 1},
		}}
		unencoded = append(unencoded, translate.Cluster(s), translate.Assignment(s, nil))
	}
	var all []*snapshot.Resource
	for _, r := range unencoded {
		e, err := snapshot.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return snapshot.New(all...).InGeneration(7)
}

// weightsOf are the weights of the localities of an assignment.
func weightsOf(s *snapshot.Snapshot, name string) []uint32 {
	r := s.Get(translate.EDS, name)
	if r == nil {
		return nil
	}
	var out []uint32
	for _, l := range r.Message().(*endpointv3.ClusterLoadAssignment).GetEndpoints() {
		out = append(out, l.GetLoadBalancingWeight().GetValue())
	}
	return out
}

func isWeights(s *snapshot.Snapshot, name string, want ...uint32) bool {
	got := weightsOf(s, name)
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if got[i] != want[i] {
			return false
		}
	}
	return true
}

// followed is a Cache with its rendering for gRPC clients, in which nothing may be refused.
func followed(t *testing.T) (cache, rendered *snapshot.Cache, set func(*snapshot.Snapshot)) {
	cache = snapshot.NewCache(nil)
	rendered = cache.ForGRPC(func(err error) { t.Error(err) })
	return cache, rendered, func(s *snapshot.Snapshot) {
		if err := cache.SetSnapshot(t.Context(), edge, s); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	}
}

// TestRenderedWhileWatched: a fleet is rendered when the first gRPC client comes, follows what is set and
// patched, is told to who watches, and is forgotten when the last one has left.
func TestRenderedWhileWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cart, pay = "shop/cart:80", "shop/pay:80"
		cache, rendered, set := followed(t)
		set(shopOf(t, 3, cart, pay))
		if s := rendered.Current(edge); s != nil {
			t.Error("rendered with nobody to serve it to")
		}
		wakes := 0
		stop := rendered.Watch(edge, func() { wakes++ })
		stopOther := rendered.Watch(edge, func() {})
		synctest.Wait()
		first := rendered.Current(edge)
		if wakes != 1 || !isWeights(first, cart, 1500, 500) || first.Generation() != 7 {
			t.Fatalf("after %d wakes: weights %v of generation %d", wakes, weightsOf(first, cart), first.Generation())
		}
		for _, name := range []string{edge + "/80", "shop.example.com", "shop.example.com:80"} {
			if first.Get(translate.LDS, name) == nil {
				t.Errorf("no listener %s", name)
			}
		}
		if missing := first.Dangling(); len(missing) > 0 {
			t.Errorf("%v", missing)
		}
		if served := cache.Current(edge); !isWeights(served, cart, 2000) {
			t.Errorf("Envoys are served %v", weightsOf(served, cart))
		}

		cache.PatchEndpoints(shopOf(t, 1, cart).Get(translate.EDS, cart))
		synctest.Wait()
		second := rendered.Current(edge)
		if wakes != 2 || !isWeights(second, cart, 1000, 1000) {
			t.Errorf("after %d wakes: weights %v", wakes, weightsOf(second, cart))
		}
		if second.Get(translate.EDS, pay) != first.Get(translate.EDS, pay) || !second.Table(translate.LDS).Same(first.Table(translate.LDS)) {
			t.Error("what did not change was rendered anew")
		}
		if got := second.Table(translate.EDS).Since(first.Table(translate.EDS)); len(got) != 1 || got[0] != cart {
			t.Errorf("the step from the one before is %v", got)
		}
		set(shopOf(t, 1, cart))
		if s := rendered.Current(edge); s.Get(translate.EDS, pay) != nil || s.Get(translate.CDS, pay) != nil {
			t.Error("a service that is gone is still served")
		}

		stop()
		if rendered.Current(edge) == nil {
			t.Error("forgotten while somebody watches")
		}
		stopOther()
		stopOther()
		if rendered.Current(edge) != nil {
			t.Error("kept with nobody to serve it to")
		}
		set(shopOf(t, 5, cart))
		if rendered.Current(edge) != nil {
			t.Error("rendered with nobody to serve it to")
		}
		stop = rendered.Watch(edge, func() {})
		synctest.Wait()
		if s := rendered.Current(edge); !isWeights(s, cart, 1667, 333) {
			t.Errorf("who comes again is served %v", weightsOf(s, cart))
		}
		stop()
	})
}

// TestQuarantinesArePerRendering: a version in quarantine on one side is served on the other.
func TestQuarantinesArePerRendering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cart = "shop/cart:80"
		cache, rendered, set := followed(t)
		defer rendered.Watch(edge, func() {})()
		for _, which := range []*snapshot.Cache{cache, rendered} {
			set(shopOf(t, 1, cart))
			good := which.Current(edge).Get(translate.EDS, cart)
			set(shopOf(t, 3, cart))
			bad := which.Current(edge).Get(translate.EDS, cart)
			if !which.Quarantine(edge, translate.EDS, cart, bad.Version, good) {
				t.Fatal("not put in quarantine")
			}
			synctest.Wait()
			if got := which.Current(edge).Get(translate.EDS, cart); got != good {
				t.Error("the bad one is served still")
			}
			other := cache
			want := []uint32{2000}
			if which == cache {
				other, want = rendered, []uint32{1500, 500}
			} else if got := cache.Current(edge).Get(translate.EDS, cart); !proto.Equal(got.Message(), shopOf(t, 3, cart).Get(translate.EDS, cart).Message()) {
				t.Error("Envoys are served another version, which nobody of them refused")
			}
			if !isWeights(other.Current(edge), cart, want...) {
				t.Errorf("the other side is served %v", weightsOf(other.Current(edge), cart))
			}
			set(shopOf(t, 4, cart))
			if got := rendered.Current(edge); !isWeights(got, cart, 1600, 400) {
				t.Errorf("after a change gRPC clients are served %v", weightsOf(got, cart))
			}
		}
	})
}

// TestOneBadRenderingIsLeftOut: what is not valid for gRPC clients keeps its last version, alone.
func TestOneBadRenderingIsLeftOut(t *testing.T) {
	const cart, pay = "shop/cart:80", "shop/pay:80"
	good := shopOf(t, 3, cart, pay)
	twice := proto.CloneOf(good.Get(translate.EDS, cart).Message().(*endpointv3.ClusterLoadAssignment))
	twice.Endpoints[0].LbEndpoints[1] = twice.Endpoints[0].LbEndpoints[0] // one address twice: Envoy takes it
	bad, err := snapshot.EncodeUnchecked(translate.Resource{Type: translate.EDS, Name: cart, Message: twice})
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	s := good.WithEndpoints(bad).ForGRPC(func(error) { refused++ })
	if refused != 1 || s.Get(translate.EDS, cart) != nil || !isWeights(s, pay, 1500, 500) {
		t.Errorf("%d refused, cart %v, pay %v", refused, weightsOf(s, cart), weightsOf(s, pay))
	}
}
