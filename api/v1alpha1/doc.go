// Package v1alpha1 holds the policy kinds of evenkeel.io/v1alpha1: their Go types, defaults and
// validation. A kind or a field stands here when its behaviour exists, so that a policy which is
// accepted is a policy which acts.
//
// +kubebuilder:object:generate=true
// +groupName=evenkeel.io
package v1alpha1

//go:generate ../../.tools/bin/controller-gen object crd:allowDangerousTypes=true paths=./... output:crd:dir=../../manifests/crds
