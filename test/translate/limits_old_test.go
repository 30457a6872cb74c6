package translate

import (
	"net/http"
	"testing"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/translate"
)

// TestAnOldEnvoy: one from before quotas (1.38) takes all kinds of limits without them. With one it refuses the
// whole route configuration, and goes on with the one before.
func TestAnOldEnvoy(t *testing.T) {
	path, err := demo.FindTool("envoy-old")
	if err != nil {
		t.Skip("no old Envoy: hack/tools.sh envoy-old installs one")
	}
	stable, canary := backend(t, "stable"), backend(t, "canary")
	seen, address := record(t)
	part := rule(t, "shop/api/canary", v1alpha1.OnErrorAllow, func(l *v1alpha1.Limit) {
		l.When = &v1alpha1.When{Backends: []string{"canary"}, CEL: ptr("request.url_path == '/'"), Paths: []string{"/"}}
		l.Key = []string{"ip", "method", "query:a"}
	})
	bucket := rule(t, "shop/proxy/l", v1alpha1.OnErrorDeny, func(l *v1alpha1.Limit) { l.Scope, l.Key = ptr(v1alpha1.ScopeProxy), []string{"header:x"} })
	hosts := []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{
		Name: "shop/web/0/0", Match: prefix("/"), Backends: to(canary, stable), Limits: limits(part, bucket),
	}}}}
	r := startWith(t, options{path: path, service: []string{address}, translate: translate.Options{NoQuotas: true}}, hosts, stable, canary)
	r.asks()
	ask := func() {
		t.Helper()
		for range 100 {
			seen.take()
			got := r.do("GET", "a", "/?a=1", nil)
			if got.Status != http.StatusOK {
				t.Fatalf("%d", got.Status)
			}
			if got.Seen.Backend == "canary" {
				compare(t, part, seen.take(), "", []string{"127.0.0.1/32", "GET", "1"})
				return
			}
		}
		t.Fatal("no request of a hundred went to a half of the traffic")
	}
	ask()
	r.accepted()
	r.translate.NoQuotas = false
	r.serve(hosts, stable, canary)
	r.until("routes with a quota are refused", func() bool { return r.stat(`rds\..*update_rejected$`) > 0 })
	ask()
}
