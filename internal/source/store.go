package source

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// Object is an object of any kind.
type Object interface {
	metav1.Object
	runtime.Object
}

// NewStore is an empty Store, to be filled with Add.
func NewStore() *Store {
	return &Store{
		GatewayClasses:  map[types.NamespacedName]*gatewayv1.GatewayClass{},
		Gateways:        map[types.NamespacedName]*gatewayv1.Gateway{},
		HTTPRoutes:      map[types.NamespacedName]*gatewayv1.HTTPRoute{},
		ReferenceGrants: map[types.NamespacedName]*gatewayv1.ReferenceGrant{},
		Services:        map[types.NamespacedName]*corev1.Service{},
		EndpointSlices:  map[types.NamespacedName]*discoveryv1.EndpointSlice{},
		Pods:            map[types.NamespacedName]*corev1.Pod{},
		Namespaces:      map[types.NamespacedName]*corev1.Namespace{},
		BalancePolicies: map[types.NamespacedName]*v1alpha1.BalancePolicy{},
		LimitPolicies:   map[types.NamespacedName]*v1alpha1.LimitPolicy{},
		Origins:         map[Ref]*Origin{},
	}
}

// Namespaced tells whether objects of the kind live in a namespace.
func Namespaced(kind string) bool { return kind != KindGatewayClass && kind != KindNamespace }

// RefOf names an object. It panics on a type that a Store does not hold.
func RefOf(obj Object) Ref {
	return Ref{Kind: kindOf(obj), Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

func (r Ref) name() types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
}

func kindOf(obj Object) string {
	switch obj.(type) {
	case *gatewayv1.GatewayClass:
		return KindGatewayClass
	case *gatewayv1.Gateway:
		return KindGateway
	case *gatewayv1.HTTPRoute:
		return KindHTTPRoute
	case *gatewayv1.ReferenceGrant:
		return KindReferenceGrant
	case *corev1.Service:
		return KindService
	case *discoveryv1.EndpointSlice:
		return KindEndpointSlice
	case *corev1.Pod:
		return KindPod
	case *corev1.Namespace:
		return KindNamespace
	case *v1alpha1.BalancePolicy:
		return KindBalancePolicy
	case *v1alpha1.LimitPolicy:
		return KindLimitPolicy
	}
	panic(fmt.Sprintf("a Store holds no %T", obj))
}

// Add puts obj into a Store under construction. It panics on a type that a Store does not hold.
func (s *Store) Add(obj Object) {
	name := types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
	switch obj := obj.(type) {
	case *gatewayv1.GatewayClass:
		s.GatewayClasses[name] = obj
	case *gatewayv1.Gateway:
		s.Gateways[name] = obj
	case *gatewayv1.HTTPRoute:
		s.HTTPRoutes[name] = obj
	case *gatewayv1.ReferenceGrant:
		s.ReferenceGrants[name] = obj
	case *corev1.Service:
		s.Services[name] = obj
	case *discoveryv1.EndpointSlice:
		s.EndpointSlices[name] = obj
	case *corev1.Pod:
		s.Pods[name] = obj
	case *corev1.Namespace:
		s.Namespaces[name] = obj
	case *v1alpha1.BalancePolicy:
		s.BalancePolicies[name] = obj
	case *v1alpha1.LimitPolicy:
		s.LimitPolicies[name] = obj
	default:
		panic(fmt.Sprintf("a Store holds no %T", obj))
	}
}

// Get is the object of that name, nil if there is none.
func (s *Store) Get(ref Ref) Object {
	for _, t := range s.tables() {
		if t.kind == ref.Kind {
			return t.get(ref.name())
		}
	}
	return nil
}

// Len is the number of objects.
func (s *Store) Len() int {
	n := 0
	for _, t := range s.tables() {
		n += t.len()
	}
	return n
}

// All yields every object, by kind, namespace and name.
func (s *Store) All() iter.Seq2[Ref, Object] {
	return func(yield func(Ref, Object) bool) {
		for _, t := range s.tables() {
			for _, ref := range t.refs() {
				if !yield(ref, t.get(ref.name())) {
					return
				}
			}
		}
	}
}

// Diff is how after differs from before, which may be nil, by kind, namespace and name. Objects are
// the same when their pointers are.
func Diff(before, after *Store, evidence Evidence) (changes []Change) {
	if before == nil {
		before = &Store{}
	}
	old := before.tables()
	for i, now := range after.tables() {
		for _, ref := range now.refs() {
			switch was := old[i].get(ref.name()); {
			case was == nil:
				changes = append(changes, Change{Object: ref, Op: Added, Evidence: evidence})
			case was != now.get(ref.name()):
				changes = append(changes, Change{Object: ref, Op: Changed, Evidence: evidence})
			}
		}
		for _, ref := range old[i].refs() {
			if now.get(ref.name()) == nil {
				changes = append(changes, Change{Object: ref, Op: Removed, Evidence: evidence})
			}
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return a.Object.Compare(b.Object) })
	return changes
}

// table is one of a Store's maps with its type forgotten.
type table struct {
	kind   string
	len    func() int
	get    func(types.NamespacedName) Object
	refs   func() []Ref // sorted
	remove func(types.NamespacedName)
	clone  func() // replaces the map by a copy
}

func tableOf[P Object](kind string, at *map[types.NamespacedName]P) table {
	return table{
		kind: kind,
		len:  func() int { return len(*at) },
		get: func(name types.NamespacedName) Object {
			if obj, ok := (*at)[name]; ok {
				return obj
			}
			return nil
		},
		refs: func() []Ref {
			refs := make([]Ref, 0, len(*at))
			for name := range *at {
				refs = append(refs, Ref{Kind: kind, Namespace: name.Namespace, Name: name.Name})
			}
			slices.SortFunc(refs, Ref.Compare)
			return refs
		},
		remove: func(name types.NamespacedName) { delete(*at, name) },
		clone:  func() { *at = maps.Clone(*at) },
	}
}

// tables are the maps of the Store by name of their kind.
func (s *Store) tables() [10]table {
	return [...]table{
		tableOf(KindBalancePolicy, &s.BalancePolicies),
		tableOf(KindEndpointSlice, &s.EndpointSlices),
		tableOf(KindGateway, &s.Gateways),
		tableOf(KindGatewayClass, &s.GatewayClasses),
		tableOf(KindHTTPRoute, &s.HTTPRoutes),
		tableOf(KindLimitPolicy, &s.LimitPolicies),
		tableOf(KindNamespace, &s.Namespaces),
		tableOf(KindPod, &s.Pods),
		tableOf(KindReferenceGrant, &s.ReferenceGrants),
		tableOf(KindService, &s.Services),
	}
}
