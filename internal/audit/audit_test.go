package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/internal/source"
)

func service(name string, ports ...int32) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: p})
	}
	return s
}

func store(objects ...source.Object) *source.Store {
	s := source.NewStore()
	for _, o := range objects {
		s.Add(o)
	}
	return s
}

func TestFields(t *testing.T) {
	before := service("cart", 80, 81)
	before.Labels = map[string]string{"app": "cart", "tier": "a"}
	for name, test := range map[string]struct {
		change func(*corev1.Service)
		want   []string
	}{
		"nothing":             {func(*corev1.Service) {}, nil},
		"a field of an item":  {func(s *corev1.Service) { s.Spec.Ports[1].Port = 8081 }, []string{"spec.ports[1].port"}},
		"an item more":        {func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{}) }, []string{"spec.ports[2]"}},
		"an item less":        {func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] }, []string{"spec.ports[1]"}},
		"a list comes":        {func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"10.0.0.1"} }, []string{"spec.externalIPs"}},
		"labels":              {func(s *corev1.Service) { s.Labels = map[string]string{"app": "pay"} }, []string{"metadata.labels.app", "metadata.labels.tier"}},
		"what nobody writes":  {func(s *corev1.Service) { s.ResourceVersion, s.Generation, s.UID = "7", 7, "u" }, nil},
		"status":              {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "1.1.1.1"}} }, nil},
		"managed fields only": {func(s *corev1.Service) { s.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x"}} }, nil},
	} {
		after := before.DeepCopy()
		test.change(after)
		got := Fields(before, after)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
		if same := Fingerprint(before) == Fingerprint(after); same != (test.want == nil) {
			t.Errorf("%s: the fingerprints are equal: %v", name, same)
		}
	}
	many := before.DeepCopy()
	many.Annotations = map[string]string{}
	for i := range 20 {
		many.Annotations[fmt.Sprintf("a%02d", i)] = "x"
	}
	before.Annotations = map[string]string{"z": ""}
	if got := Fields(before, many); len(got) != maxFields+1 || got[maxFields] != "and 13 more" {
		t.Errorf("got %q", got)
	}
}

func TestBy(t *testing.T) {
	at := func(s int) *metav1.Time { m := metav1.NewTime(time.Unix(int64(s), 0)); return &m }
	managed := service("cart")
	managed.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: "argocd", Time: at(10)}, {Manager: "kubectl-edit", Time: at(20)}, {Manager: "helm", Time: at(5)},
		{Manager: "evenkeel", Time: at(30), Subresource: "status"},
	}
	ref := source.RefOf(managed)
	filed := store(service("cart"))
	filed.Origins[ref] = &source.Origin{File: "cart.yaml", Line: 3}
	for name, test := range map[string]struct {
		before, after *source.Store
		want          string
	}{
		"the newest manager, not of the status": {nil, store(managed), "kubectl-edit"},
		"a file":                                {nil, filed, "file cart.yaml"},
		"a file that it was in":                 {filed, store(), "file cart.yaml"},
		"gone from a cluster":                   {store(managed), store(), "unknown"},
		"nobody":                                {nil, store(service("cart")), "unknown"},
	} {
		if got := By(test.before, test.after, ref); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestRecords: what an update leaves, line by line, and that no value is in it.
func TestRecords(t *testing.T) {
	const secret = "hunter2"
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-1"}}
	was, is, bad := service("cart", 80), service("cart", 81), service("pay", 0)
	is.Annotations = map[string]string{"token": secret}
	before, after := store(was, service("old")), store(is, bad, slice)
	after.Problems = []source.Problem{{File: "x.yaml", Line: 3, Object: source.RefOf(bad), Field: "spec.ports[0].port", Message: "is 0"}, {File: "y.yaml", Message: "is no YAML"}}
	changes := source.Diff(before, after, source.EvidenceWatch)
	var out bytes.Buffer
	Log(slog.New(slog.NewJSONHandler(&out, nil)), Of(changes, Context{
		Before: before, After: after, Refused: map[source.Ref]string{source.RefOf(bad): "port 0"}, Generations: []string{"shop/edge 7"},
	}))
	var got []string
	for line := range strings.Lines(out.String()) {
		var r struct {
			Msg   string
			Audit struct{ By, Op, Object, Fields, Result, Reason, Generations string }
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Msg != Message {
			t.Fatal(err, line)
		}
		a := r.Audit
		got = append(got, strings.Join([]string{a.By, a.Op, a.Object, a.Fields, a.Result, a.Reason, a.Generations}, "|"))
	}
	want := []string{
		"unknown|changed|Service shop/cart|metadata.annotations spec.ports[0].port|accepted||shop/edge 7",
		"unknown|removed|Service shop/old||accepted||shop/edge 7",
		"unknown|added|Service shop/pay||refused|port 0|shop/edge 7",
		"file x.yaml|changed|Service shop/pay|spec.ports[0].port|refused|is 0|",
		"file y.yaml|changed|file y.yaml||refused|is no YAML|",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if strings.Contains(out.String(), secret) {
		t.Error("a value is in the audit")
	}
	if n := len(Of(source.Diff(nil, after, source.EvidenceFile), Context{Before: before, After: after})); n != 5 {
		t.Errorf("%d records of an edited directory, want 5: of slices too", n)
	}
}

func TestRecordsAreBounded(t *testing.T) {
	after := source.NewStore()
	for i := range maxRecords + 100 {
		after.Add(service(fmt.Sprintf("s%d", i), 80))
	}
	records := Of(source.Diff(nil, after, source.EvidenceFile), Context{Before: store(), After: after})
	if n := len(records); n != maxRecords+1 || records[n-1].Object != "100 more objects" {
		t.Errorf("%d records, the last %+v", n, records[n-1])
	}
	first := Of(source.Diff(nil, after, source.EvidenceFirst), Context{After: after})
	if len(first) != 1 || first[0].Object != fmt.Sprintf("%d objects", maxRecords+100) {
		t.Errorf("the first set is %+v", first)
	}
}
