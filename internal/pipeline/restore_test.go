package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
)

// restart saves what a core serves, reads it back, and gives it to a new one.
func restart(t *testing.T, c *core, now time.Time) *core {
	t.Helper()
	dir, err := lastgood.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.unsaved = true
	state, _ := c.takeState(now)
	for _, f := range c.takeServed(now, true) {
		if err := dir.SaveFleet(*f); err != nil {
			t.Fatal(err)
		}
	}
	saved, errs := dir.LoadFleets()
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	next := testCore(state)
	next.restore(saved)
	return next
}

// TestAStartServesWhatWasSaved: the same bytes, under the same generation, and nothing is handed out again when
// the objects are read and are the same.
func TestAStartServesWhatWasSaved(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart", "pay"))
	e.apply(map[string]string{"cart-route": to("cart", "pay")})
	for range 5 {
		e.now = e.now.Add(Tick)
		e.c.step(e.now, measured("shop/cart:80", 1, e.now))
	}
	before := e.fleet().served

	c := restart(t, e.c, e.now)
	out := map[string]*snapshot.Snapshot{}
	for _, o := range c.takeOutgoing() {
		out[o.key] = o.snapshot
	}
	if len(out) != 2 || !out[edge].Equal(before) || !out["eds:shop"].Equal(e.c.edsOnly["eds:shop"]) {
		t.Fatalf("it serves %v: %v", out, snapshot.Diff(before, out[edge]))
	}
	for _, kind := range translate.Types {
		for name, r := range before.Resources(kind) {
			if got := out[edge].Get(kind, name); !bytes.Equal(got.Bytes, r.Bytes) || got.Source != r.Source || fmt.Sprint(got.Refs) != fmt.Sprint(r.Refs) {
				t.Errorf("%s %s came back as %+v", kind, name, got)
			}
		}
	}
	v := c.view(nil)
	if _, n, ok := v.Snapshot(edge); !ok || n != 2 || v.Ready() == nil || !v.LastKnownGood().IsZero() {
		t.Errorf("generation %d, ready %v, degraded since %v: nobody is to be told yet", n, v.Ready(), v.LastKnownGood())
	}
	if c.overdue(); c.view(nil).Ready() != nil || c.view(nil).LastKnownGood().IsZero() {
		t.Error("when the objects are late it is not said, or not ready")
	}
	for _, frozen := range []bool{true, false} {
		if err := c.freeze("a test", "", frozen); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := c.takeState(e.now); ok || len(c.takeServed(e.now, true)) > 0 {
		t.Error("what was restored is saved again, without what is not known yet")
	}

	again := &edits{t: t, c: c, now: e.now, documents: e.documents}
	again.apply(nil)
	if out := c.takeOutgoing(); len(out) != 0 {
		t.Errorf("%d snapshots were handed out for objects that are the same: %v", len(out), snapshot.Diff(before, out[0].snapshot))
	}
	v = c.view(nil)
	if _, n, _ := v.Snapshot(edge); n != 2 || v.Ready() != nil || !v.LastKnownGood().IsZero() || len(v.Generations(edge)) != 1 {
		t.Errorf("generation %d, ready %v, history %v", n, v.Ready(), v.Generations(edge))
	}
	again.apply(map[string]string{"cart-route": to("cart", "cart")})
	if h := c.view(nil).Generations(edge); len(h) != 2 || h[1].Number != 3 {
		t.Errorf("history %v, want generation 3 after the saved 2", h)
	}
	again.rollback(2) // from before the restart
	if got := again.routed(); got != "[shop/pay:80]" {
		t.Errorf("rolled back over the restart it routes to %s", got)
	}
}

// TestWhatChangedMeanwhileFollows what was saved, as its next generation.
func TestWhatChangedMeanwhileFollows(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart", "pay"))
	c := restart(t, e.c, e.now)
	c.takeOutgoing()
	again := &edits{t: t, c: c, now: e.now, documents: e.documents}
	again.apply(map[string]string{"cart-route": to("cart", "pay")})
	out := c.takeOutgoing()
	if len(out) != 1 || out[0].key != edge || again.routed() != "[shop/pay:80]" || again.fleet().number != 2 {
		t.Errorf("handed out %d, generation %d routes to %s", len(out), again.fleet().number, again.routed())
	}
	for _, kind := range []translate.Type{translate.CDS, translate.LDS} {
		for name, r := range again.fleet().served.Resources(kind) {
			if was := e.fleet().served.Get(kind, name); was != nil && was.Version != r.Version {
				t.Errorf("%s %s changed", kind, name)
			}
		}
	}
}

// TestAnEmptyFirstReadingIsNotBelieved while there is something saved.
func TestAnEmptyFirstReadingIsNotBelieved(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart"))
	c := restart(t, e.c, e.now)
	c.takeOutgoing()
	empty := source.NewStore()
	empty.Problems = []source.Problem{{File: "x.yaml", Message: "is no YAML"}}
	c.rebuild(e.now, source.Update{Store: empty})
	if len(c.takeOutgoing()) != 0 || c.view(nil).LastKnownGood().IsZero() || len(c.view(nil).Store().Problems) != 1 {
		t.Error("an empty directory took the place of what was saved, or its problems are not shown")
	}
	if err := c.view(nil).Ready(); err != nil {
		t.Errorf("what was saved is served, and it is not ready: %v", err)
	}
	c.rebuild(e.now, source.Update{Store: e.store, Changes: source.Diff(empty, e.store, source.EvidenceFile)})
	if v := c.view(nil); !v.LastKnownGood().IsZero() || v.Ready() != nil || v.Catalog() == nil {
		t.Error("what came then did not take over")
	}
	nothing := testCore(lastgood.State{})
	nothing.rebuild(e.now, source.Update{Store: source.NewStore()})
	if nothing.view(nil).Ready() != nil {
		t.Error("an empty directory and nothing saved: not ready")
	}
}

// TestWhatIsRestoredStaysSaved: where limits are counted changes what restored Envoys are served, before the objects
// are read; it is saved as what it is, and not forgotten as if its Gateway were gone.
func TestWhatIsRestoredStaysSaved(t *testing.T) {
	e := newEdits(t, limitedBy(Limits{Service: newCounter(), Address: here}, lastgood.State{}), parts("cart"))
	c := restart(t, e.c, e.now)
	c.options.Limits = Limits{Service: newCounter(), Address: "10.0.0.7:18081"}
	c.assign()
	saved := c.takeServed(e.now, true)[edge]
	if saved == nil || !saved.Snapshot.Equal(c.fleets[edge].served) || saved.Number != e.fleet().number || saved.Why == "" {
		t.Errorf("of the restored fleet %+v is saved, want what it is served", saved)
	}
}

// TestASavedFleetThatIsGone is not taken from its Envoys, for nobody saw it go, and is not served again.
func TestASavedFleetThatIsGone(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart"))
	c := restart(t, e.c, e.now)
	c.takeOutgoing()
	other := store(t, strings.NewReplacer("name: edge", "name: front", "shop", "web").Replace(gateway))
	c.rebuild(e.now, source.Update{Store: other, Changes: source.Diff(nil, other, source.EvidenceFirst)})
	var cleared []string
	for _, o := range c.takeOutgoing() {
		if o.snapshot == nil {
			cleared = append(cleared, o.key)
		} else if o.key != "web/front" {
			t.Errorf("%s is served something", o.key)
		}
	}
	if slices.Sort(cleared); !slices.Equal(cleared, []string{"eds:shop", edge}) {
		t.Errorf("cleared %q", cleared)
	}
	saves := c.takeServed(e.now, false)
	if f, ok := saves[edge]; !ok || f != nil {
		t.Errorf("its file is not forgotten: %v", saves)
	}
}

// TestAPinSurvivesARestart, with what ends it, and a source that comes late.
func TestAPinSurvivesARestart(t *testing.T) {
	pinned := func() *edits {
		e := newEdits(t, testCore(lastgood.State{}), parts("cart", "pay", "ship"))
		e.apply(map[string]string{"cart-route": to("cart", "pay")})
		e.rollback(1).apply(map[string]string{"pay-route": to("pay", "ship")})
		c := restart(t, e.c, e.now)
		if n := c.view(nil).fleets[edge].number; n != 1 || c.view(nil).Pin(edge).By != "a test" {
			t.Fatalf("before the objects are read generation %d is served, pinned %v", n, c.view(nil).Pin(edge))
		}
		return &edits{t: t, c: c, now: e.now, documents: e.documents}
	}
	const first = "[shop/cart:80 shop/pay:80 shop/ship:80]"
	e := pinned()
	e.c.takeOutgoing()
	var log strings.Builder
	e.c.log = slog.New(slog.NewTextHandler(&log, nil))
	e.apply(nil)
	if strings.Contains(log.String(), "held back") {
		t.Errorf("what was held back before the restart is said to be held back now:\n%s", log.String())
	}
	f := e.fleet()
	if f.pin == nil || e.routed() != first || f.number != 3 || !slices.Equal(f.pin.Held, []string{"HTTPRoute shop/pay"}) || f.pin.AllObjects {
		t.Fatalf("pin %+v, generation %d, routes to %s", f.pin, f.number, e.routed())
	}
	if out := e.c.takeOutgoing(); len(out) != 0 {
		t.Errorf("%d snapshots were handed out for objects that are the same", len(out))
	}
	e.apply(map[string]string{"cart-route": to("cart", "ship")})
	if e.fleet().pin != nil || e.routed() != "[shop/ship:80]" {
		t.Errorf("the fix after the restart: pin %v, routes to %s", e.fleet().pin, e.routed())
	}
	if e = pinned(); true { // the fix was made while it was down
		e.apply(map[string]string{"cart-route": to("cart", "ship")})
	}
	if e.fleet().pin != nil {
		t.Error("a fix that was made while the program was down is held back")
	}
	if e = pinned(); true { // something else was
		e.apply(map[string]string{"ship-route": to("ship", "pay")})
	}
	if e.fleet().pin == nil || e.routed() != first {
		t.Errorf("another edit while the program was down ended the pin: %s", e.routed())
	}
	if err := e.c.unpin(edge); err != nil || e.routed() != "[shop/pay:80 shop/ship:80]" {
		t.Errorf("%v, unpinned it routes to %s", err, e.routed())
	}
}

// TestWhatIsServedIsSavedInTime: at once if objects changed it, with its time if only weights did.
func TestWhatIsServedIsSavedInTime(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart"))
	if got := e.c.takeServed(e.now, false); len(got) != 2 || got[edge] == nil || got["eds:shop"] == nil {
		t.Fatalf("first %v", got)
	}
	if got := e.c.takeServed(e.now, true); len(got) != 0 {
		t.Errorf("again %v", got)
	}
	began, saves := e.now, 0
	for e.now.Sub(began) < time.Minute {
		e.now = e.now.Add(Tick)
		e.c.hand(edge, e.fleet().served, false) // as a tick does
		saves += len(e.c.takeServed(e.now, false))
	}
	if saves != 6 {
		t.Errorf("what changed at every tick of a minute was saved %d times, want 6", saves)
	}
	e.now = e.now.Add(-time.Minute) // apply lets a minute pass
	e.apply(map[string]string{"cart": strings.Replace(parts("cart")["cart"], "{addresses: [10.0.1.1]}, ", "", 1)})
	if got := e.c.takeServed(e.now, false); len(got) != 2 {
		t.Errorf("an endpoint that left is not saved at once: %v", got)
	}
}

// TestADiskThatFails is said once, costs nothing else, and what could not be saved is saved when it can.
func TestADiskThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	dir, err := lastgood.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	objects := store(t, gateway, shop("cart", 1))
	var log lockedBuffer
	synctest.Test(t, func(t *testing.T) {
		p, s, stop := runningIn(t, dir, slog.New(slog.NewTextHandler(&log, nil)))
		os.RemoveAll(path)
		s.updates <- source.Update{Store: objects}
		time.Sleep(5 * saveAgainAfter)
		synctest.Wait()
		if p.View().Ready() != nil {
			t.Error("not ready")
		}
		if n := strings.Count(log.String(), "the state was not saved"); n != 1 {
			t.Errorf("it was said %d times", n)
		}
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * saveAgainAfter)
		synctest.Wait()
		if !strings.Contains(log.String(), "the state is saved again") {
			t.Error("its end was not said")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	if saved, errs := dir.LoadFleets(); len(saved) != 2 || len(errs) > 0 {
		t.Errorf("saved %d, %v", len(saved), errs)
	}
}

// TestARunGoesOnFromDisk: the pipeline serves what was saved before its source delivers; damage to one fleet's
// file is that fleet's alone.
func TestARunGoesOnFromDisk(t *testing.T) {
	path := t.TempDir()
	dir, err := lastgood.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	second := strings.NewReplacer("name: edge", "name: front").Replace(strings.SplitAfter(gateway, "---\n")[1])
	objects, moved := store(t, gateway, shop("cart", 1), second), store(t, strings.Split(gateway, "---\n")[0], shop("cart", 1), second)
	synctest.Test(t, func(t *testing.T) {
		_, s, stop := runningIn(t, dir, slog.New(slog.DiscardHandler))
		s.updates <- source.Update{Store: objects}
		synctest.Wait()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	files, _ := filepath.Glob(filepath.Join(path, "*front*"))
	if len(files) != 1 {
		t.Fatalf("files %q", files)
	}
	if err := os.WriteFile(files[0], []byte("evenkeel-fleet-9 x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	synctest.Test(t, func(t *testing.T) {
		p, s, stop := runningIn(t, dir, slog.New(slog.NewTextHandler(&log, nil)))
		synctest.Wait()
		if p.View().Ready() == nil || len(p.View().Fleets()) != 1 {
			t.Errorf("at once: %v, fleets %v", p.View().Ready(), p.View().Fleets())
		}
		if s := p.options.Cache.(*snapshot.Cache).Current(edge); s == nil || len(s.Resources(translate.LDS)) != 1 {
			t.Errorf("the cache has %v", s)
		}
		time.Sleep(patience)
		synctest.Wait()
		if err := p.View().Ready(); err != nil || p.View().LastKnownGood().IsZero() {
			t.Errorf("after a while: %v, %v", err, p.View().LastKnownGood())
		}
		for _, err := range []error{p.Unpin(t.Context(), "a test", edge), func() error { _, err := p.Rollback(t.Context(), "a test", edge, 1); return err }()} {
			if !errors.Is(err, errNotRead) {
				t.Errorf("an action meanwhile: %v", err)
			}
		}
		s.updates <- source.Update{Store: moved}
		synctest.Wait()
		if err := p.View().Ready(); err != nil || !p.View().LastKnownGood().IsZero() || !slices.Equal(p.View().Fleets(), []string{"shop/front"}) {
			t.Errorf("then: %v, %v, fleets %v", err, p.View().LastKnownGood(), p.View().Fleets())
		}
		if p.options.Cache.(*snapshot.Cache).Current(edge) != nil {
			t.Error("a Gateway that is gone is served to those who come")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	for _, want := range []string{"evenkeel-fleet-1", filepath.Base(files[0]), "the objects cannot be read", "have taken over"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, log.String())
		}
	}
}

// TestTheEndIsSaved: also what would have waited for its time.
func TestTheEndIsSaved(t *testing.T) {
	dir, err := lastgood.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	objects := store(t, gateway, shop("cart", 1))
	synctest.Test(t, func(t *testing.T) {
		_, s, stop := runningIn(t, dir, slog.New(slog.DiscardHandler))
		s.updates <- source.Update{Store: objects}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if state, err := dir.Load(); err != nil || !state.SavedAt.Equal(time.Now()) {
			t.Errorf("saved at %v, want %v; %v", state.SavedAt, time.Now(), err)
		}
	})
}

// TestASourceThatIsQuickIsNeverDegraded.
func TestASourceThatIsQuickIsNeverDegraded(t *testing.T) {
	e := newEdits(t, testCore(lastgood.State{}), parts("cart"))
	dir, err := lastgood.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range e.c.takeServed(e.now, true) {
		if err := dir.SaveFleet(*f); err != nil {
			t.Fatal(err)
		}
	}
	var log lockedBuffer
	synctest.Test(t, func(t *testing.T) {
		p, s, stop := runningIn(t, dir, slog.New(slog.NewTextHandler(&log, nil)))
		time.Sleep(patience - time.Millisecond)
		s.updates <- source.Update{Store: e.store}
		time.Sleep(time.Minute)
		synctest.Wait()
		if strings.Contains(log.String(), "level=WARN") || p.View().Ready() != nil {
			t.Errorf("%v\n%s", p.View().Ready(), log.String())
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// big is a core with many services behind one Gateway.
func big(tb testing.TB, services, endpoints int) *core {
	tb.Helper()
	c := testCore(lastgood.State{})
	s := bigStore(services, endpoints)
	c.rebuild(start, source.Update{Store: s, Changes: source.Diff(nil, s, source.EvidenceFirst)})
	if n := len(c.fleets[edge].served.Resources(translate.CDS)); n != services {
		tb.Fatalf("%d clusters", n)
	}
	return c
}

func bigStore(services, endpoints int) *source.Store {
	s := source.NewStore()
	s.Add(&gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "evenkeel"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: "evenkeel.io/controlplane"}})
	s.Add(&gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "edge"}, Spec: gatewayv1.GatewaySpec{
		GatewayClassName: "evenkeel", Listeners: []gatewayv1.Listener{{Name: "http", Protocol: gatewayv1.HTTPProtocolType, Port: 80}},
	}})
	port, ready := gatewayv1.PortNumber(80), true
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		meta := metav1.ObjectMeta{Namespace: "shop", Name: name}
		s.Add(&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
		slice := &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4}
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		unnamed, number := "", int32(8080)
		slice.Ports = []discoveryv1.EndpointPort{{Name: &unnamed, Port: &number}}
		for e := range endpoints {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.%d.%d.%d", i/250, i%250, e+1)}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			})
		}
		s.Add(slice)
		prefix, path := gatewayv1.PathMatchPathPrefix, "/"+name
		s.Add(&gatewayv1.HTTPRoute{ObjectMeta: meta, Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "edge"}}},
			Rules: []gatewayv1.HTTPRouteRule{{
				Matches:     []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Type: &prefix, Value: &path}}},
				BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(name), Port: &port}}}},
			}},
		}})
	}
	return s
}

func heap() int64 {
	var m runtime.MemStats
	for range 5 { // pools are emptied over several
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkLastGood is what it costs to save and to load 1000 services of ten endpoints, state included.
func BenchmarkLastGood(b *testing.B) {
	c := big(b, 1000, 10)
	path := b.TempDir()
	dir, err := lastgood.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	c.unsaved = true
	state, _ := c.takeState(start)
	served := c.takeServed(start, true)
	if err := dir.Save(state); err != nil {
		b.Fatal(err)
	}
	for _, f := range served {
		if err := dir.SaveFleet(*f); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("state", func(b *testing.B) {
		for b.Loop() {
			if err := dir.Save(state); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("served", func(b *testing.B) {
		for b.Loop() {
			for _, f := range served {
				if err := dir.SaveFleet(*f); err != nil {
					b.Fatal(err)
				}
			}
		}
		files, _ := filepath.Glob(filepath.Join(path, "*.fleet"))
		size := int64(0)
		for _, f := range files {
			info, _ := os.Stat(f)
			size += info.Size()
		}
		b.ReportMetric(float64(size)/1024, "KiB")
	})
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			if _, err := dir.Load(); err != nil {
				b.Fatal(err)
			}
			if saved, errs := dir.LoadFleets(); len(saved) != 2 || len(errs) > 0 {
				b.Fatal(saved, errs)
			}
		}
	})
}
