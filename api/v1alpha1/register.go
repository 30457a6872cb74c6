package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of the policies.
const GroupName = "evenkeel.io"

// GroupVersion is the group and version of the kinds of this package.
var GroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

// AddToScheme registers the kinds of this package.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &BalancePolicy{}, &BalancePolicyList{}, &LimitPolicy{}, &LimitPolicyList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
