package translate_test

import (
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/translate"
)

// Only a backend with a part of the traffic and a rate of its own is a canary, whether the rate stands in the route or not.
func TestCanariesAreReadOffTheRoutes(t *testing.T) {
	f, _ := shop()
	for _, old := range []bool{false, true} {
		var got []translate.Canary
		for _, r := range translate.Fleet(f, translate.Options{NoQuotas: old}) {
			if routes, ok := r.Message.(*routev3.RouteConfiguration); ok {
				got = append(got, translate.Canaries(routes, f.Rules)...)
			}
		}
		want := []translate.Canary{{
			Route: "shop/web/split/0", Cluster: "shop/cart:8080", Weight: 90, Of: 100, Rule: "shop/api/canary",
			Quota: v1alpha1.Rate{Requests: 300, Per: metav1.Duration{Duration: time.Minute}}, Together: !old,
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("with NoQuotas %v (-want +got):\n%s", old, diff)
		}
	}
}
