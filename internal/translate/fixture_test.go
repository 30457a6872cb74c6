package translate_test

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/source"
)

func ptr[T any](v T) *T { return &v }

// shop is a fleet with one route of every kind.
func shop() (*catalog.Fleet, map[string]*catalog.Service) {
	web := source.Ref{Kind: source.KindHTTPRoute, Namespace: "shop", Name: "web"}
	cart := []catalog.Backend{{Service: "shop/cart:8080", Weight: 1}}
	services := map[string]*catalog.Service{}
	for _, s := range []*catalog.Service{
		{Name: "shop/cart:8080", Namespace: "shop", Endpoints: []catalog.Endpoint{
			{Address: "10.0.0.1:8080", Zone: "a", Base: 1, Multiplier: 1},
			{Address: "10.0.0.2:8080", Zone: "b", Base: 3, Multiplier: 1},
			{Address: "10.0.0.3:8080", Zone: "a", Base: 1, Multiplier: 0.5},
		}},
		{Name: "shop/api:9090", Namespace: "shop", HTTP2: true, Endpoints: []catalog.Endpoint{
			{Address: "[fd00::1]:9090", Base: 1, Multiplier: 1},
		}},
		{Name: "shop/empty:80", Namespace: "shop"},
	} {
		_, name, _ := cutService(s.Name)
		s.Object = source.Ref{Kind: source.KindService, Namespace: "shop", Name: name}
		services[s.Name] = s
	}
	rules, limits := shopLimits()
	f := &catalog.Fleet{
		Name:     "shop/edge",
		Rules:    rules,
		Object:   source.Ref{Kind: source.KindGateway, Namespace: "shop", Name: "edge"},
		Services: []string{"shop/api:9090", "shop/cart:8080", "shop/empty:80"},
		Listeners: []catalog.Listener{
			{Name: "shop/edge/80", Port: 80, VirtualHosts: []catalog.VirtualHost{{
				Domain: "*", Routes: []catalog.Route{{
					Object: web, Name: "shop/web/secure/0", Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: "/"}},
					Redirect: &catalog.Redirect{Scheme: "https", Code: 301},
				}},
			}}},
			{Name: "shop/edge/8080", Port: 8080, Address: "127.0.0.1", VirtualHosts: []catalog.VirtualHost{
				{Domain: "shop.example.com", Routes: []catalog.Route{
					{Object: web, Name: "shop/web/exact/0", Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Exact, Value: "/exact"}}, Backends: cart, Timeout: -1},
					{
						Object: web, Name: "shop/web/all/0",
						Match: catalog.Match{
							Path: catalog.PathMatch{Type: catalog.Regex, Value: "/v[0-9]+/.*"}, Method: "POST",
							Headers: []catalog.ValueMatch{{Name: "x-team", Type: catalog.Exact, Value: "a"}, {Name: "x-build", Type: catalog.Regex, Value: "[0-9]+"}},
							Queries: []catalog.ValueMatch{{Name: "q", Type: catalog.Exact, Value: "1"}},
						},
						Backends: cart, Timeout: 3 * time.Second, BackendTimeout: time.Second,
					},
					{
						Object: web, Name: "shop/web/split/0", Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: "/split/"}},
						Backends: []catalog.Backend{
							{Service: "shop/cart:8080", Weight: 90, RequestHeaders: catalog.HeaderChange{Set: []catalog.Header{{Name: "x-part", Value: "100%"}}}},
							{Service: "shop/api:9090", Weight: 0},
							{Weight: 10},
						},
						RequestHeaders:  catalog.HeaderChange{Set: []catalog.Header{{Name: "x-set", Value: "v"}}, Add: []catalog.Header{{Name: "x-add", Value: ""}}, Remove: []string{"x-remove"}},
						ResponseHeaders: catalog.HeaderChange{Set: []catalog.Header{{Name: "x-served-by", Value: "edge"}}, Remove: []string{"server"}},
					},
					{
						Object: web, Name: "shop/web/strip/0", Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: "/strip.me"}},
						Backends: cart, Rewrite: &catalog.Rewrite{Hostname: "inner.example.com", Path: &catalog.PathChange{Prefix: ptr("/")}},
					},
					{
						Object: web, Name: "shop/web/moved/0", Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: "/moved"}},
						Redirect: &catalog.Redirect{Hostname: "new.example.com", Port: 8080, Path: &catalog.PathChange{Prefix: ptr("/now")}, Code: 302},
					},
					{Object: web, Name: "shop/web/nobody/0", Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: "/nobody"}}, Backends: []catalog.Backend{{Weight: 1}}},
				}},
				{Domain: "*.example.com", Routes: []catalog.Route{{Object: web, Name: "shop/web/empty/0", Backends: []catalog.Backend{{Service: "shop/empty:80", Weight: 1}}}}},
			}},
		},
	}
	limited := f.Listeners[1].VirtualHosts[0].Routes
	limited[0].Limits = limits[:2]
	limited[2].Limits = limits
	return f, services
}

// shopLimits is a limit of every kind, and each on a route.
func shopLimits() (rules []*rlsconfig.Rule, limits []catalog.RouteLimit) {
	second := metav1.Duration{Duration: time.Second}
	for _, l := range []struct {
		id      string
		onError v1alpha1.OnError
		limit   v1alpha1.Limit
	}{
		{"shop/api/local", v1alpha1.OnErrorAllow, v1alpha1.Limit{
			Key: []string{"ip"}, Scope: ptr(v1alpha1.ScopeProxy), Rate: &v1alpha1.Rate{Requests: 10, Per: second, Burst: ptr[int64](30)},
			Values: []v1alpha1.ValueLimit{{Match: map[string]string{"ip": "10.0.0.1"}, Unlimited: ptr(true)}},
		}},
		{"shop/api/tenant", v1alpha1.OnErrorDeny, v1alpha1.Limit{
			Key: []string{"header:X-Tenant", "method"}, Rate: &v1alpha1.Rate{Requests: 100, Per: second},
			When:   &v1alpha1.When{Methods: []string{"POST"}, Paths: []string{"/v1", "=/exact"}, CEL: ptr("request.headers['x-tier'] != 'gold'")},
			Values: []v1alpha1.ValueLimit{{Match: map[string]string{"x-tenant": "prod"}, Rate: &v1alpha1.Rate{Requests: 500, Per: second}}},
			Reply:  &v1alpha1.Reply{Status: ptr[int32](503)},
		}},
		{"shop/api/canary", v1alpha1.OnErrorAllow, v1alpha1.Limit{
			Rate: &v1alpha1.Rate{Requests: 300, Per: metav1.Duration{Duration: time.Minute}}, When: &v1alpha1.When{Backends: []string{"cart"}},
		}},
		{"shop/api/streams", v1alpha1.OnErrorAllow, v1alpha1.Limit{Key: []string{"ip"}, Concurrency: ptr[int32](3)}},
		{"shop/api/user", v1alpha1.OnErrorAllow, v1alpha1.Limit{
			Key: []string{"header:x-user"}, Missing: ptr(v1alpha1.MissingDeny), Rate: &v1alpha1.Rate{Requests: 1, Per: second},
		}},
	} {
		r, err := rlsconfig.Compile(l.id, l.onError, l.limit.WithDefaults())
		if err != nil {
			panic(err)
		}
		rules = append(rules, r)
		limits = append(limits, catalog.RouteLimit{Rule: r})
	}
	return rules, limits
}

func cutService(name string) (namespace, service, port string) {
	for i, r := range name {
		switch r {
		case '/':
			namespace, service = name[:i], name[i+1:]
		case ':':
			return namespace, name[len(namespace)+1 : i], name[i+1:]
		}
	}
	return namespace, service, ""
}
