package dir

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/source/admit"
)

// A kind is one that a Store holds. Its versions have one schema; the first is the one it is kept in.
type kind struct {
	name, group string
	versions    []string
	new         func() source.Object
}

var kinds = []kind{
	{source.KindGatewayClass, gatewayv1.GroupName, []string{"v1", "v1beta1"}, func() source.Object { return &gatewayv1.GatewayClass{} }},
	{source.KindGateway, gatewayv1.GroupName, []string{"v1", "v1beta1"}, func() source.Object { return &gatewayv1.Gateway{} }},
	{source.KindHTTPRoute, gatewayv1.GroupName, []string{"v1", "v1beta1"}, func() source.Object { return &gatewayv1.HTTPRoute{} }},
	{source.KindReferenceGrant, gatewayv1.GroupName, []string{"v1", "v1beta1"}, func() source.Object { return &gatewayv1.ReferenceGrant{} }},
	{source.KindService, corev1.GroupName, []string{"v1"}, func() source.Object { return &corev1.Service{} }},
	{source.KindPod, corev1.GroupName, []string{"v1"}, func() source.Object { return &corev1.Pod{} }},
	{source.KindNamespace, corev1.GroupName, []string{"v1"}, func() source.Object { return &corev1.Namespace{} }},
	{source.KindEndpointSlice, discoveryv1.GroupName, []string{"v1"}, func() source.Object { return &discoveryv1.EndpointSlice{} }},
	{source.KindBalancePolicy, v1alpha1.GroupName, []string{"v1alpha1"}, func() source.Object { return &v1alpha1.BalancePolicy{} }},
	{source.KindLimitPolicy, v1alpha1.GroupName, []string{"v1alpha1"}, func() source.Object { return &v1alpha1.LimitPolicy{} }},
}

// A document is what became of one object of a file.
type document struct {
	// ref names the object. Its Kind is "" when the document does not say which object it is.
	ref    source.Ref
	object source.Object // nil if it was refused
	origin *source.Origin
	issues []issue // why it was refused
}

// documents reads the objects of a file's text, and counts those of kinds that are none of ours.
func documents(file string, data []byte) (documents []document, ignored map[string]int) {
	r := reader{file: file, ignored: map[string]int{}}
	for _, raw := range split(data) {
		if raw.value == nil {
			r.refuse(source.Ref{}, issue{line: raw.line, message: raw.err})
		} else {
			r.read(raw.value, "", "")
		}
	}
	return r.documents, r.ignored
}

type reader struct {
	file      string
	documents []document
	ignored   map[string]int
}

func (r *reader) refuse(ref source.Ref, issues ...issue) {
	r.documents = append(r.documents, document{ref: ref, issues: issues})
}

// read takes one object, or the items of a list. An item of a typed list may leave out its apiVersion
// and kind, which are then those of the list.
func (r *reader) read(v *value, apiVersion, kindName string) {
	if v.shape == isFault {
		r.refuse(source.Ref{}, issue{v.line, "", v.text})
		return
	}
	if v.shape != isMapping {
		r.refuse(source.Ref{}, issue{v.line, "", fmt.Sprintf("expected an object with apiVersion and kind, has %s", v)})
		return
	}
	if given := v.get("apiVersion"); given != nil || apiVersion == "" {
		apiVersion = v.str("apiVersion")
	}
	if given := v.get("kind"); given != nil || kindName == "" {
		kindName = v.str("kind")
	}
	for _, required := range []struct{ field, value string }{{"apiVersion", apiVersion}, {"kind", kindName}} {
		if required.value == "" {
			r.refuse(source.Ref{}, issue{v.line, required.field, "Required value: must say what kind of object this is"})
			return
		}
	}
	if items := v.get("items"); items != nil && items.shape == isList && strings.HasSuffix(kindName, "List") {
		item := strings.TrimSuffix(kindName, "List")
		for _, v := range items.items {
			if item == "" { // kind: List, of any kinds
				r.read(v, "", "")
			} else {
				r.read(v, apiVersion, item)
			}
		}
		return
	}
	gv, _ := schema.ParseGroupVersion(apiVersion)
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.group == gv.Group && k.name == kindName })
	if i >= 0 {
		r.object(v, kinds[i], gv.Version)
	} else if problem := strange(gv.Group, kindName); problem != nil {
		problem.line = lineOf(v, problem.field)
		r.refuse(source.Ref{}, *problem)
	} else {
		r.ignored[kindName]++
	}
}

func lineOf(v *value, key string) int {
	if i := slices.IndexFunc(v.members, func(m member) bool { return m.key == key }); i >= 0 {
		return v.members[i].line
	}
	return v.line
}

// strange tells a slip of the pen, or a kind that our own group has not, from one that is none of ours.
func strange(group, kindName string) *issue {
	for _, k := range kinds {
		// One letter, as TCPRoute is two from HTTPRoute and a kind of its own.
		if k.group == group && (strings.EqualFold(kindName, k.name) || len(kindName) < 60 && levenshtein.ComputeDistance(kindName, k.name) == 1) {
			return &issue{field: "kind", message: fmt.Sprintf("unknown kind %q; did you mean %q?", kindName, k.name)}
		}
	}
	if group == v1alpha1.GroupName {
		return &issue{field: "kind", message: fmt.Sprintf("unknown kind %q; expected BalancePolicy or LimitPolicy", kindName)}
	}
	for _, k := range kinds {
		if k.name == kindName && k.group != group && near(group, []string{k.group}) != "" && k.group != "" {
			return &issue{field: "apiVersion", message: fmt.Sprintf("unknown group %q; did you mean %q?", group, k.group+"/"+k.versions[0])}
		}
	}
	return nil
}

func (r *reader) object(v *value, k kind, version string) {
	d := document{ref: source.Ref{Kind: k.name, Name: v.str("metadata", "name")}}
	if source.Namespaced(k.name) {
		d.ref.Namespace = v.str("metadata", "namespace")
		if d.ref.Namespace == "" {
			d.ref.Namespace = metav1.NamespaceDefault
		}
	}
	defer func() {
		if d.ref.Name == "" || len(d.ref.Name) > 253 || len(d.ref.Namespace) > 63 { // no telling which object it is
			d.ref = source.Ref{}
		}
		r.documents = append(r.documents, d)
	}()
	if !slices.Contains(k.versions, version) {
		expected := schema.GroupVersion{Group: k.group, Version: k.versions[0]}
		d.issues = []issue{{lineOf(v, "apiVersion"), "apiVersion", fmt.Sprintf("unknown version %q; expected %s", version, expected)}}
		return
	}
	obj := k.new()
	c := checker{lines: map[string]int{}}
	c.check(v, reflect.TypeOf(obj), "")
	if d.issues = c.issues; d.issues != nil {
		return
	}
	strict, err := kjson.UnmarshalStrict(v.json(nil), obj)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	if err != nil {
		d.issues = []issue{{v.line, "", err.Error()}}
		return
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{Group: k.group, Version: k.versions[0], Kind: k.name})
	if source.Namespaced(k.name) && obj.GetNamespace() == "" {
		obj.SetNamespace(metav1.NamespaceDefault)
	}
	if obj.GetUID() == "" {
		obj.SetUID(uid(source.RefOf(obj)))
	}
	origin := &source.Origin{File: r.file, Line: v.line, Fields: c.lines}
	for _, e := range admit.Object(obj) {
		d.issues = append(d.issues, issue{origin.LineOf(e.Field), e.Field, e.ErrorBody()})
	}
	if d.issues == nil {
		d.object, d.origin = obj, origin
	}
}

// uid is the identity of an object that does not say one. It is the same in every run.
func uid(ref source.Ref) types.UID {
	h := sha256.Sum256([]byte(ref.String()))
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}
