// Package source owns the objects a user writes, typed as Kubernetes types them, wherever they came
// from. A Source (source/dir, source/kube) delivers them as immutable Stores, each with what changed and on
// what evidence. What the objects mean is package catalog's business, not this one's.
package source

import (
	"context"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// Ref names an object.
type Ref struct {
	Kind      string // "Gateway", "HTTPRoute", ...; the kinds have distinct names
	Namespace string // "" for cluster-scoped kinds
	Name      string
}

// String is "Kind namespace/name", as people read it in messages.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// The kinds that a Store holds.
const (
	KindGatewayClass   = "GatewayClass"
	KindGateway        = "Gateway"
	KindHTTPRoute      = "HTTPRoute"
	KindReferenceGrant = "ReferenceGrant"
	KindService        = "Service"
	KindEndpointSlice  = "EndpointSlice"
	KindPod            = "Pod"
	KindNamespace      = "Namespace"
	KindBalancePolicy  = "BalancePolicy"
	KindLimitPolicy    = "LimitPolicy"
)

// Store is a consistent set of objects. It is immutable, and so is every object in it: a newer Store
// shares the objects that did not change (the same pointers), which is how readers tell what did. Of their
// managedFields managers, times and subresources are read, to say who changed them.
type Store struct {
	GatewayClasses  map[types.NamespacedName]*gatewayv1.GatewayClass
	Gateways        map[types.NamespacedName]*gatewayv1.Gateway
	HTTPRoutes      map[types.NamespacedName]*gatewayv1.HTTPRoute
	ReferenceGrants map[types.NamespacedName]*gatewayv1.ReferenceGrant
	Services        map[types.NamespacedName]*corev1.Service
	EndpointSlices  map[types.NamespacedName]*discoveryv1.EndpointSlice
	Pods            map[types.NamespacedName]*corev1.Pod
	Namespaces      map[types.NamespacedName]*corev1.Namespace
	BalancePolicies map[types.NamespacedName]*v1alpha1.BalancePolicy
	LimitPolicies   map[types.NamespacedName]*v1alpha1.LimitPolicy

	// Origins says where an object was read. Objects of a cluster have none.
	Origins map[Ref]*Origin
	// Problems are the objects, or whole files, that were refused and what is kept in their place, and
	// what the source can no longer vouch for.
	Problems []Problem
}

// Origin is the place of an object in a file.
type Origin struct {
	File string // relative to the directory, slashes
	Line int    // of the document's first line, from 1
	// Fields maps a field path to its line. Keys of maps stand in it as fields do:
	// "spec.listeners[0].port", "metadata.annotations.evenkeel.io/weight".
	Fields map[string]int
}

// mapKey is the notation of package field for a key of a map, as against an index of a list.
var mapKey = regexp.MustCompile(`\[([^\]]*[^\]0-9][^\]]*)\]`)

// LineOf is the line of the field, or of the nearest enclosing field that the file has. The field is
// written as package field of k8s.io/apimachinery does.
func (o *Origin) LineOf(field string) int {
	field = mapKey.ReplaceAllString(field, ".$1")
	for field != "" {
		if line, ok := o.Fields[field]; ok {
			return line
		}
		cut := len(field) - 1
		for cut > 0 && field[cut] != '.' && field[cut] != '[' {
			cut--
		}
		field = field[:cut]
	}
	return o.Line
}

// Problem is an object or a file that was refused, or, where Degraded is set, something that the source
// cannot see.
type Problem struct {
	File string // "" where there is none
	Line int    // from 1; 0 where unknown
	// Object is the object refused; its Kind is "" when the file could not be read that far.
	Object Ref
	// Generation of the version that was refused, 0 where objects have none.
	Generation int64
	Field      string // path, "" where the problem is not one field's
	// Message says what is wrong, what was expected and, where there is a near name, which was meant.
	Message string
	// Kept says what is served instead, e.g. "the version before stays in force" or "nothing: it was never accepted".
	Kept string
	// Degraded is "" for what was refused. Else nothing is wrong with the Object itself: it, or all of its
	// kind, is served as it was last seen because the source cannot tell how it is now.
	Degraded Degradation
}

// Degradation is why a source cannot tell how objects are.
type Degradation string

// The reasons of a Degradation, in the terms of the condition Degraded.
const (
	// LastKnownGood: a list leaves out what no event removed, or the API server does not answer.
	LastKnownGood Degradation = "LastKnownGood"
	// NotInstalled: the API server does not serve the kind.
	NotInstalled Degradation = "NotInstalled"
	// Forbidden: the API server does not let us read the kind.
	Forbidden Degradation = "Forbidden"
)

// KindAPIServer and KindCRD are the kinds of the Objects of Problems that speak of what is outside a
// Store: the API server, by its host, and the definition of a kind, by its name.
const (
	KindAPIServer = "APIServer"
	KindCRD       = "CustomResourceDefinition"
)

// Evidence is how a source knows of a change. It decides what may be removed at once.
type Evidence string

// The kinds of evidence.
const (
	EvidenceFirst  Evidence = "First sync" // the initial set
	EvidenceFile   Evidence = "File edit"  // a file was written, renamed or deleted
	EvidenceWatch  Evidence = "Watch"      // a live event of the API server
	EvidenceRelist Evidence = "Relist"     // inferred from a list

	EvidenceOperator Evidence = "Operator" // an operator accepted it
)

// Op is what happened to an object.
type Op string

// The operations of a Change.
const (
	Added   Op = "added"
	Changed Op = "changed"
	Removed Op = "removed"
)

// Change is one object that differs between two Stores.
type Change struct {
	Object   Ref
	Op       Op
	Evidence Evidence
}

// Update is a Store and how it differs from the one delivered before.
type Update struct {
	Store   *Store
	Changes []Change
}

// A Source delivers Stores.
//
// Run sends the complete initial Store first, and nothing before it is complete; then one Update for
// every change of objects or of problems, until ctx is done. It returns nil when ctx ends, an error
// when it cannot go on. It blocks while up is not read; changes that come meanwhile are merged into
// the next Update.
//
// What was saved before the start is served while a Source has sent nothing, so it may take its time: an error is
// for what waiting does not mend.
type Source interface {
	Run(ctx context.Context, up chan<- Update) error
}
