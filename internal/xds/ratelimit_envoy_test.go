package xds

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/auth/authority"
	"evenkeel.io/controlplane/internal/auth/authtest"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/limittest"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
)

// TestRealEnvoyAsksTheReferenceService: one rule for both, an Envoy that describes its requests and a service that
// counts them, over mutual TLS all around. The service's certificate has the name of a rate limit service alone.
func TestRealEnvoyAsksTheReferenceService(t *testing.T) {
	envoyBinary(t)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	t.Cleanup(backend.Close)
	p := startGated(t, Options{})

	files := t.TempDir()
	name, _ := url.Parse("spiffe://cluster.local/rls")
	pair, err := p.ca.Issue(authority.Request{URI: name, Server: true, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	authtest.Mount(t, files, pair, p.ca.pem)
	s := limittest.Reference(t, limittest.ReferenceOptions{XDS: p.address, Env: []string{
		"CONFIG_GRPC_XDS_SERVER_USE_TLS=true", "CONFIG_GRPC_XDS_SERVER_TLS_CACERT=" + files + "/ca.crt",
		"CONFIG_GRPC_XDS_CLIENT_TLS_CERT=" + files + "/tls.crt", "CONFIG_GRPC_XDS_CLIENT_TLS_KEY=" + files + "/tls.key",
		"GRPC_SERVER_USE_TLS=true", "GRPC_SERVER_TLS_CERT=" + files + "/tls.crt", "GRPC_SERVER_TLS_KEY=" + files + "/tls.key",
		"GRPC_CLIENT_TLS_CACERT=" + files + "/ca.crt",
	}})
	e := startEnvoy(t, p.address, p.overTLS(p.ca.issue(edge, false), p.ca.pem), nil)

	limited := func(requests int64) {
		t.Helper()
		rule, err := rlsconfig.Compile("shop/api/tenant", v1alpha1.OnErrorDeny, v1alpha1.Limit{
			Name: "tenant", Key: []string{"header:X-Tenant"}, Rate: &v1alpha1.Rate{Requests: requests, Per: metav1.Duration{Duration: time.Hour}},
		})
		if err != nil {
			t.Fatal(err)
		}
		rules := []*rlsconfig.Rule{rule}
		service := &catalog.Service{Name: "shop/api:80", Endpoints: []catalog.Endpoint{{Address: strings.TrimPrefix(backend.URL, "http://"), Base: 1, Multiplier: 1}}}
		f := &catalog.Fleet{
			Name: fleet, Object: source.Ref{Kind: source.KindGateway, Namespace: "shop", Name: "edge"}, Services: []string{service.Name}, Rules: rules,
			Listeners: []catalog.Listener{{Name: fleet + "/80", Address: "127.0.0.1", Port: e.listener, VirtualHosts: []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{
				Name: "shop/api/0/0", Match: catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: "/"}}, Timeout: -1,
				Backends: []catalog.Backend{{Service: service.Name, Weight: 1}}, Limits: []catalog.RouteLimit{{Rule: rule}},
			}}}}}},
		}
		p.setLimits(encode(t, translate.Resource{Type: translate.RLS, Name: fleet, Message: rlsconfig.Tree(fleet, rules, nil), Source: "Gateway " + fleet})...)
		resources := append(translate.Fleet(f, translate.Options{}), translate.Cluster(service), translate.Assignment(service, nil), translate.RateLimitService([]string{s.Address}))
		patient(t, resources)
		if err := p.cache.SetSnapshot(t.Context(), fleet, snapshot.New(encode(t, resources...)...)); err != nil {
			t.Fatal(err)
		}
	}
	admitted := func(n int, tenant string) (admitted int) {
		t.Helper()
		for range n {
			request, _ := http.NewRequest(http.MethodGet, e.http, nil)
			request.Header.Set("X-Tenant", tenant)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			switch response.StatusCode {
			case http.StatusOK:
				admitted++
			case http.StatusTooManyRequests:
			default:
				t.Fatalf("status %s", response.Status)
			}
		}
		return admitted
	}

	limited(5)
	wait(t, s)
	// Until it has found the service an Envoy does as onError says, here with 503.
	e.until("a request flows", func() bool { return get(e.http) == "hello" })
	e.until("Envoy has asked the service", func() bool {
		request, _ := http.NewRequest(http.MethodGet, e.http, nil)
		request.Header.Set("X-Tenant", "first")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	for _, tenant := range []string{"a", "b"} {
		if got := admitted(20, tenant); got != 5 {
			t.Errorf("%s: %d of 20 admitted, want 5", tenant, got)
		}
	}
	limited(30)
	p.runs(s, "requests_per_unit=30,")
	if got := admitted(20, "a"); got != 10 {
		t.Errorf("after 5 -> 30, with 20 asked before: %d of 20 admitted, want 10", got)
	}
}

// patient has Envoys wait for the service as long as it takes: here it is about what is counted.
func patient(t *testing.T, resources []translate.Resource) {
	t.Helper()
	for _, r := range resources {
		extension, ok := r.Message.(*corev3.TypedExtensionConfig)
		if !ok {
			continue
		}
		filter := &filterv3.RateLimit{}
		if extension.GetTypedConfig().UnmarshalTo(filter) == nil {
			filter.Timeout = durationpb.New(patience)
			if err := extension.GetTypedConfig().MarshalFrom(filter); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func encode(t *testing.T, resources ...translate.Resource) (encoded []*snapshot.Resource) {
	t.Helper()
	for _, r := range resources {
		e, err := snapshot.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		encoded = append(encoded, e)
	}
	return encoded
}
