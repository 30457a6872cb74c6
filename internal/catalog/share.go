package catalog

import (
	"maps"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// sameObjects says whether two maps of a Store hold the same versions of the same objects. Stores
// share what did not change, so pointers tell; and often the whole map is shared.
func sameObjects[V any](a, b map[types.NamespacedName]*V) bool {
	return sameMap(a, b) || maps.Equal(a, b)
}

// sameMap says whether a and b are one map. Maps of a Store do not change, so that is enough.
func sameMap[V any](a, b map[types.NamespacedName]*V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// share returns prev if it equals next, so that readers see by the pointer that nothing changed.
func share[V any](prev, next *V) *V {
	if prev != nil && reflect.DeepEqual(prev, next) {
		return prev
	}
	return next
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// older orders objects as Gateway API settles conflicts: by creation, then by "<namespace>/<name>".
// Objects of a directory have no creation, which makes the name decide.
func older(a, b metav1.Object) int {
	if c := a.GetCreationTimestamp().Time.Compare(b.GetCreationTimestamp().Time); c != 0 {
		return c
	}
	if a.GetNamespace() == b.GetNamespace() {
		return strings.Compare(a.GetName(), b.GetName())
	}
	return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
}
