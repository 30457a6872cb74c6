package admin

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/rls"
)

// counter is a Limits with one limit, whose key has the part X-Tenant.
type counter struct{}

func (counter) Limits() []rls.Limit {
	return []rls.Limit{{
		Fleet: "shop/edge", Rule: "shop/api/tenant", Factor: 0.5, Now: rls.Bound{Rate: 50, Burst: 100}, Requests: 10, Refused: 3,
		Configured: v1alpha1.Limit{Name: "tenant", Key: []string{"header:X-Tenant"}}, Top: []rls.TopKey{{Key: hostile, Refused: 2}},
	}}
}

func (counter) Explain(_ context.Context, _, _ string, key map[string]string) (rls.Explanation, error) {
	if key["X-Tenant"] == "" {
		return rls.Explanation{}, fmt.Errorf("expected values of header:X-Tenant")
	}
	return rls.Explanation{Key: "X-Tenant=" + key["X-Tenant"], Value: -1, Reset: time.Second}, nil
}

func TestLimits(t *testing.T) {
	o := small().options()
	o.Limits = counter{}
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
