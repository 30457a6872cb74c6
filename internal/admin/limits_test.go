package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rls"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// counter is a Limits whose keys have the part X-Tenant.
type counter []rls.Limit

func (c counter) Limits() []rls.Limit { return c }

var tenant = rls.Limit{
	Fleet: "shop/edge", Rule: "shop/api/tenant", Factor: 0.5, Now: rls.Bound{Rate: 50, Burst: 100}, Requests: 10, Refused: 3,
	Configured: v1alpha1.Limit{Name: "tenant", Key: []string{"header:X-Tenant"}}, Top: []rls.TopKey{{Key: hostile, Refused: 2}},
}

func (counter) Explain(_ context.Context, _, _ string, key map[string]string) (rls.Explanation, error) {
	if key["X-Tenant"] == "" {
		return rls.Explanation{}, fmt.Errorf("expected values of header:X-Tenant")
	}
	return rls.Explanation{Key: "X-Tenant=" + key["X-Tenant"], Value: -1, Reset: time.Second}, nil
}

func TestLimits(t *testing.T) {
	o := small().options()
	o.Limits = counter{tenant}
	o.Factors = func(string) map[string]adapt.Decision {
		return map[string]adapt.Decision{"shop/api/tenant": {Value: 0.5, Wanted: 1, Why: "shop/cart:80 can do 100% of what it could"}}
	}
	h := New(o)
	for _, test := range []struct {
		path, accept string
		code         int
		want         string
	}{
		{"/limits", "", http.StatusOK, `"rule": "shop/api/tenant"`},
		{"/limits", "", http.StatusOK, `"wanted": 1`},
		{"/limits", "text/html", http.StatusOK, "x 0.50 on its way to 1.00: shop/cart:80 can do 100% of what it could"},
		{"/limits/explain?fleet=shop/edge&rule=shop/api/tenant&key=X-Tenant%3Dacme", "", http.StatusOK, `"key": "X-Tenant=acme"`},
		{"/limits/explain?fleet=shop/edge&rule=shop/api/tenant", "", http.StatusBadRequest, "expected values of header:X-Tenant"},
		{"/limits/explain?fleet=shop/edge&rule=shop/api/tenant&key=acme", "", http.StatusBadRequest, "expected PART=VALUE"},
		{"/limits/explain?fleet=shop/edge&rule=other", "", http.StatusNotFound, "has no rule"},
	} {
		response := call(h, http.MethodGet, test.path, "", header("Accept", test.accept))
		body := read(t, response)
		if response.StatusCode != test.code || !strings.Contains(body, test.want) || test.accept != "" && strings.Contains(body, "<script>alert") {
			t.Errorf("%s: %d %s\nwant %d %s", test.path, response.StatusCode, body, test.code, test.want)
		}
	}
}

// Limits of scope Proxy are counted by nobody here: they are shown as they are served, with where to look.
func TestLimitsOfProxies(t *testing.T) {
	var rules []*rlsconfig.Rule
	for _, name := range []string{"flood", "all"} {
		rule, err := rlsconfig.Compile("shop/api/"+name, v1alpha1.OnErrorAllow, v1alpha1.Limit{
			Name: name, Scope: new(v1alpha1.ScopeProxy), Rate: &v1alpha1.Rate{Requests: 60, Per: metav1.Duration{Duration: time.Minute}},
		}.WithDefaults())
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, rule)
	}
	var resources []*snapshot.Resource
	for _, r := range translate.Fleet(&catalog.Fleet{Name: "shop/edge", Rules: rules}, translate.Options{}) {
		encoded, err := snapshot.EncodeUnchecked(r)
		if err != nil {
			t.Fatal(err)
		}
		resources = append(resources, encoded)
	}
	w := small()
	w.generations = []snapshot.Generation{{Number: 1, Snapshot: snapshot.New(resources...)}}
	prefix := translate.BucketStatistics(rules[0])
	for _, counted := range []bool{true, false} { // by a service here, which knows these as well
		o := w.options()
		want := []string{"shop/api/all", "shop/api/flood"}
		if counted {
			o.Limits = counter{{Fleet: "shop/edge", Rule: "shop/api/flood", Configured: rules[0].Limit}, tenant}
			want = append(want, tenant.Rule)
		}
		h := New(o)
		var view LimitsView
		if err := json.Unmarshal([]byte(read(t, call(h, http.MethodGet, "/limits", ""))), &view); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range view.Limits {
			got = append(got, l.Rule)
			if (l.Statistics != nil) != (l.Rule != tenant.Rule) || l.Statistics != nil && (l.Statistics.Prefix != prefix || len(l.Statistics.Shared) != 1 || l.Now.Rate != 1 || l.Now.Burst != 60) {
				t.Errorf("%s: %+v, counted in %+v", l.Rule, l.Now, l.Statistics)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("limits %v, want %v", got, want)
		}
		if page := read(t, call(h, http.MethodGet, "/limits", "", header("Accept", "text/html"))); strings.Count(page, "<code>"+prefix+"</code>") != 2 {
			t.Errorf("the page does not say twice where is counted:\n%s", page)
		}
		response := call(h, http.MethodGet, "/limits/explain?fleet=shop/edge&rule=shop/api/flood", "")
		if body := read(t, response); response.StatusCode != http.StatusBadRequest || !strings.Contains(body, prefix) {
			t.Errorf("explained as %s", body)
		}
	}
}
