// Package admit does to an object what an API server does before it stores one: it fills the kind's
// defaults and refuses what the kind's schema and validation refuse. So what reads the objects need not
// tell those of a directory from those of a cluster.
//
// It goes as far as the fields that Evenkeel uses, and beyond an API server where a value could not act:
// regular expressions that are not RE2 or too long, endpoints without an address, annotations of ours.
// It looks at one object alone; whether what an object names exists, and may be named, is package
// catalog's question.
package admit

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

// Object fills obj's defaults in place and returns what an API server would refuse of it.
func Object(obj source.Object) field.ErrorList {
	c := &checks{}
	c.metadata(obj)
	switch obj := obj.(type) {
	case *gatewayv1.GatewayClass:
		c.gatewayClass(obj)
	case *gatewayv1.Gateway:
		defaultGateway(obj)
		c.gateway(obj)
	case *gatewayv1.HTTPRoute:
		defaultHTTPRoute(obj)
		c.httpRoute(obj)
	case *gatewayv1.ReferenceGrant:
		c.referenceGrant(obj)
	case *corev1.Service:
		defaultService(obj)
		c.service(obj)
	case *discoveryv1.EndpointSlice:
		defaultEndpointSlice(obj)
		c.endpointSlice(obj)
	case *corev1.Pod:
		defaultPod(obj)
		c.pod(obj)
	case *corev1.Namespace:
	case *v1alpha1.BalancePolicy:
		c.errs = append(c.errs, obj.Validate()...)
	case *v1alpha1.LimitPolicy:
		c.errs = append(c.errs, obj.Validate()...)
	default:
		panic(fmt.Sprintf("nothing is known of %T", obj))
	}
	return c.errs
}

// checks collects what is refused.
type checks struct{ errs field.ErrorList }

func (c *checks) metadata(obj source.Object) {
	path := field.NewPath("metadata")
	ref := source.RefOf(obj)
	if ref.Name == "" {
		c.required(path.Child("name"), "must be given")
	} else {
		c.format(path.Child("name"), ref.Name, nameFormat(ref.Kind))
	}
	if source.Namespaced(ref.Kind) {
		c.format(path.Child("namespace"), ref.Namespace, validation.IsDNS1123Label)
	} else if ref.Namespace != "" {
		c.invalid(path.Child("namespace"), ref.Namespace, "must be left out: a "+ref.Kind+" lives in no namespace")
	}
	c.errs = append(c.errs, metavalidation.ValidateLabels(obj.GetLabels(), path.Child("labels"))...)
	c.errs = append(c.errs, apivalidation.ValidateAnnotations(obj.GetAnnotations(), path.Child("annotations"))...)
	c.annotations(path.Child("annotations"), ref.Kind, obj.GetAnnotations())
}

func nameFormat(kind string) func(string) []string {
	switch kind {
	case source.KindService:
		return validation.IsDNS1035Label
	case source.KindNamespace:
		return validation.IsDNS1123Label
	}
	return validation.IsDNS1123Subdomain
}

func (c *checks) invalid(path *field.Path, value any, expected string) {
	c.errs = append(c.errs, field.Invalid(path, value, expected))
}

func (c *checks) required(path *field.Path, expected string) {
	c.errs = append(c.errs, field.Required(path, expected))
}

func (c *checks) duplicate(path *field.Path, value any) {
	c.errs = append(c.errs, field.Duplicate(path, value))
}

// atMost bounds the length of a list.
func (c *checks) atMost(path *field.Path, length, limit int) {
	if length > limit {
		c.errs = append(c.errs, field.TooMany(path, length, limit))
	}
}

// between bounds the length of a list whose absence means nothing good.
func (c *checks) between(path *field.Path, length, least, limit int) {
	if length < least {
		c.required(path, fmt.Sprintf("must have at least %d", least))
	}
	c.atMost(path, length, limit)
}

// format applies one of the checks of package validation, which return what was expected.
func (c *checks) format(path *field.Path, value string, check func(string) []string) {
	for _, expected := range check(value) {
		c.invalid(path, value, expected)
	}
}

func (c *checks) selector(path *field.Path, selector *metav1.LabelSelector) {
	c.errs = append(c.errs, metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, path)...)
}
