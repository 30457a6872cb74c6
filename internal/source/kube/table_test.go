package kube

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/source"
)

func drawService(t *rapid.T) source.Object {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "service")},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: rapid.Int32Range(1, 2).Draw(t, "port")}}},
	}
}

func drawSlice(t *rapid.T) source.Object {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: fmt.Sprint("s", rapid.IntRange(0, 3).Draw(t, "slice")),
		Labels: map[string]string{discoveryv1.LabelServiceName: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "of")},
	}}
	for _, c := range rapid.StringMatching("[a-h]{0,8}").Draw(t, "endpoints") {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{string(c)}})
	}
	return s
}

// TestADeletedServiceTakesWhatIsHeldOfIt: with the Service its endpoints are gone for certain, those of
// others are not.
func TestADeletedServiceTakesWhatIsHeldOfIt(t *testing.T) {
	o, now := newObjects("test"), time.Unix(0, 0)
	services, slicesTable := newTable(kinds[1], now), newTable(kinds[2], now)
	o.tables[source.KindService], o.tables[source.KindEndpointSlice] = services, slicesTable
	for _, service := range []string{"a", "b"} {
		o.put(services, item{object: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: service}}}, source.EvidenceWatch)
		o.put(slicesTable, item{object: &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}},
		}}, source.EvidenceWatch)
	}
	o.delivered()
	o.replace(slicesTable, &list{}, now)
	o.remove(services, source.Ref{Kind: source.KindService, Namespace: "shop", Name: "a"}, source.EvidenceWatch)
	u := o.deliver(o.problems())
	want := []source.Change{
		{Object: source.Ref{Kind: source.KindEndpointSlice, Namespace: "shop", Name: "a"}, Op: source.Removed, Evidence: source.EvidenceWatch},
		{Object: source.Ref{Kind: source.KindService, Namespace: "shop", Name: "a"}, Op: source.Removed, Evidence: source.EvidenceWatch},
	}
	if !slices.Equal(u.Changes, want) {
		t.Errorf("got %v", u.Changes)
	}
	if len(u.Store.Problems) != 1 || u.Store.Problems[0].Object.Name != "b" {
		t.Errorf("problems %v", u.Store.Problems)
	}
}

// TestAListThatIsOlderThanWhatWasTold: while a kind is listed to verify it, its watch goes on. What that told
// since the list was made is neither undone by the list nor by the next watch, which tells all of it again.
func TestAListThatIsOlderThanWhatWasTold(t *testing.T) {
	now := time.Unix(0, 0)
	f := &follower{objects: newObjects("test"), source: &Source{log: quiet}}
	table := newTable(kinds[2], now)
	f.tables[table.kind.name] = table
	current, next := &reading{table: table, cancel: func() {}}, &reading{table: table, cancel: func() {}}
	table.current = current
	slice := func(name string, endpoints ...string) item {
		s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		for _, e := range endpoints {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{e}})
		}
		return item{object: s}
	}
	ref := func(name string) source.Ref {
		return source.Ref{Kind: source.KindEndpointSlice, Namespace: "shop", Name: name}
	}
	put := func(from *reading, version, name string, endpoints ...string) event {
		return event{from: from, version: version, put: new(slice(name, endpoints...))}
	}
	f.take(event{from: current, list: &list{version: "10", items: []item{
		slice("cut", "10.0.0.1", "10.0.0.2"), slice("gone", "10.0.0.3"), slice("missed", "10.0.0.4"),
	}}}, now)
	f.deliver(nil)
	f.delivered()

	table.next = next
	f.take(put(current, "101", "cut", "10.0.0.1", "10.0.0.2", "10.0.0.9"), now)
	f.take(put(current, "102", "cut", "10.0.0.1"), now)
	f.take(put(current, "103", "gone", "10.0.0.3", "10.0.0.9"), now)
	f.take(event{from: current, version: "104", removed: new(ref("gone"))}, now)
	f.take(put(current, "105", "new", "10.0.0.5"), now)
	first := f.deliver(nil)
	f.delivered()
	if f.editor.Get(ref("gone")) != nil || len(first.Changes) != 3 {
		t.Fatalf("the watch said %v", first.Changes)
	}

	f.take(event{from: next, list: &list{version: "100", consistent: true, items: []item{
		slice("cut", "10.0.0.1", "10.0.0.2"), slice("gone", "10.0.0.3"), slice("missed", "10.0.0.4"),
	}}}, now)
	for _, e := range []event{
		put(next, "101", "cut", "10.0.0.1", "10.0.0.2", "10.0.0.9"),
		put(next, "102", "cut", "10.0.0.1"),
		put(next, "103", "gone", "10.0.0.3", "10.0.0.9"),
		{from: next, version: "104", removed: new(ref("gone"))},
		put(next, "105", "new", "10.0.0.5"),
	} {
		f.take(e, now)
		if got := f.deliver(nil).Changes; len(got) > 0 {
			t.Errorf("version %s was told before, and is told again: %v", e.version, got)
		}
	}
	if len(table.told) > 0 {
		t.Errorf("it remembers %v for ever", table.told)
	}

	// What the watch before had missed is news.
	f.take(put(next, "106", "missed"), now)
	f.take(put(next, "107", "cut", "10.0.0.1", "10.0.0.2"), now)
	want := []source.Change{
		{Object: ref("cut"), Op: source.Changed, Evidence: source.EvidenceWatch},
		{Object: ref("missed"), Op: source.Changed, Evidence: source.EvidenceWatch},
	}
	if got := f.deliver(nil).Changes; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// TestEveryUpdateSaysHowItDiffers lets anything happen in any order: each Update says exactly how its
// Store differs from the one before, no Store that was delivered changes any more, and what consistent
// lists say in the end is in force.
func TestEveryUpdateSaysHowItDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(0, 0)
		o := newObjects("test")
		services, slicesTable := newTable(kinds[1], now), newTable(kinds[2], now)
		o.tables[source.KindService], o.tables[source.KindEndpointSlice] = services, slicesTable
		before, beforeSize := (*source.Store)(nil), 0
		draw := func() (*table, source.Object) {
			if rapid.Bool().Draw(t, "a slice") {
				return slicesTable, drawSlice(t)
			}
			return services, drawService(t)
		}
		drawList := func(of *table) *list {
			l, seen := &list{}, map[string]bool{}
			for range rapid.IntRange(0, 4).Draw(t, "length") {
				obj := drawService(t)
				if of == slicesTable {
					obj = drawSlice(t)
				}
				if !seen[obj.GetName()] {
					seen[obj.GetName()] = true
					l.items = append(l.items, item{object: obj})
				}
			}
			return l
		}
		t.Repeat(map[string]func(*rapid.T){
			"put":    func(*rapid.T) { of, obj := draw(); o.put(of, item{object: obj}, source.EvidenceWatch) },
			"remove": func(*rapid.T) { of, obj := draw(); o.remove(of, source.RefOf(obj), source.EvidenceWatch) },
			"list": func(t *rapid.T) {
				of := rapid.SampledFrom([]*table{services, slicesTable}).Draw(t, "of")
				l := drawList(of)
				l.consistent = rapid.Bool().Draw(t, "consistent")
				o.replace(of, l, now)
				if (len(of.held) > 0) != !of.verify.IsZero() {
					t.Errorf("%d held, to be verified at %v", len(of.held), of.verify)
				}
			},
			"accept": func(*rapid.T) { o.release(nameOf(source.Ref{}), source.EvidenceOperator) },
			"deliver": func(t *rapid.T) {
				u := o.deliver(o.problems())
				o.delivered()
				want := source.Diff(before, u.Store, "")
				got := slices.Clone(u.Changes)
				for i := range got {
					got[i].Evidence = ""
				}
				if !slices.Equal(got, want) {
					t.Errorf("it says %v, the Stores differ in %v", got, want)
				}
				for _, c := range got {
					if c.Op == source.Changed && same(before.Get(c.Object), u.Store.Get(c.Object)) {
						t.Errorf("%v, and is as it was", c)
					}
				}
				if before != nil && before.Len() != beforeSize {
					t.Error("a Store that was delivered changed")
				}
				before, beforeSize = u.Store, u.Store.Len()
			},
			"": func(t *rapid.T) {
				for _, of := range []*table{services, slicesTable} {
					for name := range of.held {
						if o.editor.Get(source.Ref{Kind: of.kind.name, Namespace: name.Namespace, Name: name.Name}) == nil {
							t.Errorf("%v is held and not in force", name)
						}
					}
					if len(of.held) > 0 && len(o.holds(of)) == 0 {
						t.Error("something is held and no problem says so")
					}
				}
			},
		})
		for _, of := range []*table{services, slicesTable} {
			l := drawList(of)
			l.consistent = true
			for range 3 {
				o.replace(of, l, now)
			}
			if o.editor.Count(of.kind.name) != len(l.items) || len(of.held) > 0 {
				t.Errorf("%d in force and %d held after a list of %d was confirmed", o.editor.Count(of.kind.name), len(of.held), len(l.items))
			}
		}
	})
}
