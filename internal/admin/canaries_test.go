package admin

import (
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// A canary counts as acknowledged by the Envoys that have the very version of the routes that it is read from.
func TestStatusShowsCanaries(t *testing.T) {
	rule, err := rlsconfig.Compile("shop/api/x-canary", v1alpha1.OnErrorAllow, v1alpha1.Limit{
		Name: "x-canary", When: &v1alpha1.When{Backends: []string{"cart-2"}},
		Rate: &v1alpha1.Rate{Requests: 300, Per: metav1.Duration{Duration: time.Minute}},
	}.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	var resources []*snapshot.Resource
	for _, r := range translate.Fleet(&catalog.Fleet{
		Name: "shop/edge", Rules: []*rlsconfig.Rule{rule},
		Listeners: []catalog.Listener{{Name: "shop/edge/80", Port: 80, VirtualHosts: []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{
			Name: "shop/web/0/0", Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: "/"}},
			Backends: []catalog.Backend{{Service: "shop/cart:80", Weight: 95}, {Service: "shop/cart-2:80", Weight: 5}},
			Limits:   []catalog.RouteLimit{{Rule: rule}},
		}}}}}},
	}, translate.Options{}) {
		encoded, err := snapshot.EncodeUnchecked(r)
		if err != nil {
			t.Fatal(err)
		}
		resources = append(resources, encoded)
	}
	served := snapshot.New(resources...)
	w := small()
	w.generations = []snapshot.Generation{{Number: 1, Snapshot: served}}
	routes := func(node string, state xds.SyncState, version string) xds.Proxy {
		return xds.Proxy{Node: node, Fleet: "shop/edge", Agent: "envoy", Types: map[translate.Type]xds.TypeState{translate.RDS: {State: state, Version: version}}}
	}
	w.proxies = []xds.Proxy{
		routes("has it", xds.Synced, served.Version(translate.RDS)),
		routes("has another", xds.Synced, "beef"),
		routes("refused it", xds.Nacked, served.Version(translate.RDS)),
		{Node: "no limits there", Fleet: "shop/edge", Agent: translate.GRPCAgents + " Go"},
		{Node: "elsewhere", Fleet: "shop/other", Agent: "envoy"},
	}
	body := read(t, call(w.handler(), http.MethodGet, "/status", ""))
	_, got, _ := strings.Cut(body, `"canaries": `)
	want := `[
    {
      "fleet": "shop/edge",
      "route": "shop/web/0/0",
      "backend": "shop/cart-2:80",
      "weight": 5,
      "of": 100,
      "limit": "shop/api/x-canary",
      "requests": 300,
      "per": "1m0s",
      "together": true,
      "version": "` + served.Version(translate.RDS) + `",
      "envoys": 3,
      "acknowledged": 1
    }
  ]
}
`
	if got != want {
		t.Errorf("canaries: %s\nwant %s", got, want)
	}
	body = page(t, w, "/status")
	for _, s := range []string{"shop/cart-2:80", "5 of 100", "300 per 1m0s", "1 of 3"} {
		if !strings.Contains(body, s) {
			t.Errorf("the page lacks %q", s)
		}
	}
}
