package v1alpha1

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// goodLimits are the LimitPolicies of a file that the directory takes whole.
func goodLimits(t *testing.T) (policies []*LimitPolicy) {
	t.Helper()
	text, err := os.ReadFile("../../internal/source/dir/testdata/good/limit.good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		p := new(LimitPolicy)
		if err := yaml.UnmarshalStrict([]byte(document), p); err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	return policies
}

// What is completed is valid still, is complete, and what it was made of is as before.
func TestLimitDefaults(t *testing.T) {
	for _, p := range goodLimits(t) {
		before := p.DeepCopy()
		filled := LimitPolicy{ObjectMeta: p.ObjectMeta, Spec: p.Spec.WithDefaults()}
		if errs := filled.Validate(); errs != nil {
			t.Errorf("%s: %v", p.Name, errs.ToAggregate())
		}
		if again := filled.Spec.WithDefaults(); !reflect.DeepEqual(again, filled.Spec) {
			t.Errorf("%s: completed twice it is another", p.Name)
		}
		if !reflect.DeepEqual(p, before) {
			t.Errorf("%s was changed: %+v", p.Name, p.Spec)
		}
		for _, l := range filled.Spec.Limits {
			if l.Missing == nil || l.Scope == nil || l.Mode == nil || l.Rate != nil && l.Rate.Burst == nil {
				t.Errorf("%s/%s is not complete: %+v", p.Name, l.Name, l)
			}
			if a := l.Adapt; a != nil && (a.Floor == nil || a.Ceil == nil || a.Step == nil || a.Hold == nil || a.Metric != nil && a.Metric.For == nil) {
				t.Errorf("%s/%s: adapt is not complete: %+v", p.Name, l.Name, a)
			}
		}
	}
}

// A client must not leave a limit by leaving out a header, unless the policy says so or an Envoy cannot tell.
func TestMissingByDefault(t *testing.T) {
	for key, want := range map[string]Missing{
		"": MissingGlobal, "ip": MissingGlobal, "header:x-tenant method": MissingGlobal, "query:a query:b": MissingGlobal,
		"cel:request.host": MissingSkip, "ip cel:request.host": MissingSkip,
	} {
		if got := *(Limit{Key: strings.Fields(key)}).WithDefaults().Missing; got != want {
			t.Errorf("%q: %s, want %s", key, got, want)
		}
	}
}

// TestCopiesShareNothing holds the copies that are written by hand against the types: every field is copied, and none
// is shared.
func TestCopiesShareNothing(t *testing.T) {
	copies(t, (*When).DeepCopy)
	copies(t, (*ValueLimit).DeepCopy)
	copies(t, (*Reply).DeepCopy)
}

func copies[T any](t *testing.T, deepCopy func(*T) *T) {
	a := new(T)
	fill(reflect.ValueOf(a).Elem())
	b := deepCopy(a)
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%T: the copy is another:\n%+v\n%+v", a, a, b)
	}
	if shared := sharing(reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()); shared != nil {
		t.Errorf("%T: the copy shares %v", a, shared)
	}
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key"), reflect.ValueOf("value"))
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt(7)
	}
}

func sharing(a, b reflect.Value) (fields []string) {
	for i := range a.NumField() {
		f, g := a.Field(i), b.Field(i)
		if slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Map}, f.Kind()) && f.UnsafePointer() == g.UnsafePointer() {
			fields = append(fields, a.Type().Field(i).Name)
		}
	}
	return fields
}
