package source

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func service(namespace, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

func store(objects ...Object) *Store {
	s := NewStore()
	for _, obj := range objects {
		s.Add(obj)
	}
	return s
}

func TestProblemString(t *testing.T) {
	for want, p := range map[string]Problem{
		"a.yaml:3: Service shop/cart: spec.ports: m": {File: "a.yaml", Line: 3, Object: Ref{"Service", "shop", "cart"}, Field: "spec.ports", Message: "m"},
		"a.yaml:3: GatewayClass evenkeel: m":         {File: "a.yaml", Line: 3, Object: Ref{"GatewayClass", "", "evenkeel"}, Message: "m"},
		"a.yaml: m":                                  {File: "a.yaml", Message: "m", Kept: "nothing"},
		"kind: m":                                    {Field: "kind", Message: "m"},
		"m":                                          {Message: "m"},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestLineOf(t *testing.T) {
	o := &Origin{Line: 1, Fields: map[string]int{
		"metadata": 3, "metadata.annotations": 5, "metadata.annotations.evenkeel.io/weight": 6,
		"spec": 7, "spec.ports": 8, "spec.ports[0]": 9, "spec.ports[0].port": 10,
	}}
	for field, want := range map[string]int{
		"":                         1,
		"status":                   1,
		"spec.ports[0].port":       10,
		"spec.ports[0].targetPort": 9,
		"spec.ports[1].port":       8,
		"spec.portsAndMore":        7,
		"metadata.annotations[evenkeel.io/weight]": 6,
		"metadata.annotations[evenkeel.io/other]":  5,
	} {
		if got := o.LineOf(field); got != want {
			t.Errorf("%q: line %d, want %d", field, got, want)
		}
	}
}

func TestStore(t *testing.T) {
	b, a, class := service("shop", "b"), service("shop", "a"), &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "evenkeel"}}
	s := store(b, class, a)
	if got := s.Get(Ref{KindService, "shop", "a"}); got != a {
		t.Errorf("got %v", got)
	}
	for _, none := range []Ref{{KindService, "web", "a"}, {KindPod, "shop", "a"}, {"Deployment", "shop", "a"}} {
		if got := s.Get(none); got != nil {
			t.Errorf("%v: got %v, want a nil that compares as one", none, got)
		}
	}
	var all []Ref
	for ref, obj := range s.All() {
		if obj == nil || RefOf(obj) != ref {
			t.Errorf("%v is %v", ref, obj)
		}
		all = append(all, ref)
	}
	if want := []Ref{RefOf(class), RefOf(a), RefOf(b)}; !slices.Equal(all, want) || s.Len() != len(want) {
		t.Errorf("%d: %v", s.Len(), all)
	}
}

func TestDiff(t *testing.T) {
	stays, goes, is, was := service("shop", "stays"), service("shop", "goes"), service("shop", "changes"), service("shop", "changes")
	comes := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "evenkeel"}}
	got := Diff(store(stays, goes, was), store(stays, is, comes), EvidenceWatch)
	want := []Change{
		{RefOf(comes), Added, EvidenceWatch},
		{RefOf(is), Changed, EvidenceWatch},
		{RefOf(goes), Removed, EvidenceWatch},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if got := Diff(nil, store(stays), EvidenceFirst); !slices.Equal(got, []Change{{RefOf(stays), Added, EvidenceFirst}}) {
		t.Errorf("from nothing: %v", got)
	}
}

func TestEditor(t *testing.T) {
	e := NewEditor()
	e.Put(service("shop", "a"))
	e.Put(&gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "evenkeel"}})
	first := e.Store()
	e.Put(service("shop", "b"))
	e.Remove(Ref{KindService, "shop", "a"})
	second := e.Store()
	if first.Len() != 2 || first.Get(Ref{KindService, "shop", "a"}) == nil {
		t.Error("a Store that was handed out changed")
	}
	if got := Diff(first, second, EvidenceWatch); len(got) != 2 {
		t.Errorf("got %v", got)
	}
	// What nothing was changed in is the same map, which readers tell by.
	delete(first.GatewayClasses, types.NamespacedName{Name: "evenkeel"})
	if len(second.GatewayClasses) != 0 {
		t.Error("a map that did not change was copied")
	}
	var kept []Ref
	for ref := range e.Kind(KindService) {
		kept = append(kept, ref)
		e.Remove(ref)
	}
	if !slices.Equal(kept, []Ref{{KindService, "shop", "b"}}) || e.Count(KindService) != 0 || len(second.Services) != 1 {
		t.Errorf("%v, %d left, %d in the Store before", kept, e.Count(KindService), len(second.Services))
	}
}
