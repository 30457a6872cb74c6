package translate

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/limittest"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/translate"
)

// said is a request, and what an Envoy is to say of it: nothing, that it lacks a part of the key, or values of
// all of them.
type said struct {
	request string // "METHOD /uri name: value, ..."
	values  []string
	what    string // "nothing", "missing" or "" for values
}

func nothing(request string) said                { return said{request: request, what: "nothing"} }
func lacking(request string) said                { return said{request: request, what: "missing"} }
func of(request string, values ...string) said   { return said{request: request, values: values} }
func key(parts ...string) func(*v1alpha1.Limit)  { return func(l *v1alpha1.Limit) { l.Key = parts } }
func when(w v1alpha1.When) func(*v1alpha1.Limit) { return func(l *v1alpha1.Limit) { l.When = &w } }

// sayings are limits with what Envoys say of requests to a route that they hold on.
func sayings() map[string]struct {
	change func(*v1alpha1.Limit)
	labels map[string]string
	said   []said
} {
	return map[string]struct {
		change func(*v1alpha1.Limit)
		labels map[string]string
		said   []said
	}{
		"no key":  {nil, nil, []said{of("GET /")}},
		"header":  {key("header:X-Tenant"), nil, []said{of("GET / x-tenant: a", "a"), of("GET / x-tenant: a, x-tenant: b", "a"), of("GET / x-tenant: ", ""), lacking("GET /")}},
		"host":    {key("header:Host"), nil, []said{of("GET /", "HOST")}},
		"headers": {key("header:a", "header:b"), nil, []said{of("GET / a: 1, b: 2", "1", "2"), lacking("GET / a: 1"), lacking("GET / b: 1"), lacking("GET /")}},
		"query":   {key("query:page"), nil, []said{of("GET /?page=1&page=2", "1"), of("GET /?a&page=x%20y", "x y"), of("GET /?page=", ""), lacking("GET /?Page=1")}},
		"both":    {key("query:page", "header:a"), nil, []said{of("GET /?page=1 a: 2", "1", "2"), lacking("GET /?page=1"), lacking("GET / a: 1"), lacking("GET /")}},
		"two queries": {func(l *v1alpha1.Limit) {
			l.Key, l.Missing = []string{"query:a", "query:b"}, ptr(v1alpha1.MissingGlobal)
		}, nil, []said{of("GET /?a=1&b=2", "1", "2"), lacking("GET /?a=1"), lacking("GET /")}},
		"skip":     {func(l *v1alpha1.Limit) { l.Key, l.Missing = []string{"header:a"}, ptr(v1alpha1.MissingSkip) }, nil, []said{of("GET / a: 1", "1"), nothing("GET /")}},
		"ip":       {key("ip"), nil, []said{of("GET / x-forwarded-for: 9.9.9.9", "127.0.0.1/32")}},
		"network":  {key("ip/24"), nil, []said{of("GET /", "127.0.0.0/24")}},
		"method":   {key("method"), nil, []said{of("PUT /", "PUT")}},
		"path":     {key("path"), nil, []said{of("GET /a/b?c=/d", "/a/b"), of("GET /a//b", "/a/b")}},
		"route":    {key("route"), nil, []said{of("GET /", "shop/web/0")}},
		"label":    {key("namespace:tenant"), map[string]string{"tenant": "a"}, []said{of("GET /", "a")}},
		"no label": {key("namespace:tenant"), nil, []said{lacking("GET /")}},
		"no label, skipped": {func(l *v1alpha1.Limit) { l.Key, l.Missing = []string{"namespace:tenant"}, ptr(v1alpha1.MissingSkip) }, nil,
			[]said{nothing("GET /")}},
		"expression": {key("cel:request.headers['x-a']"), nil, []said{of("GET / x-a: 1", "1"), nothing("GET /")}},
		"number":     {key("cel:size(request.url_path)"), nil, []said{of("GET /ab", "3")}},
		"all":        {key("method", "ip", "path", "header:a"), nil, []said{of("GET /x a: 1", "GET", "127.0.0.1/32", "/x", "1"), lacking("GET /")}},

		"a method":  {when(v1alpha1.When{Methods: []string{"POST"}}), nil, []said{of("POST /"), nothing("GET /")}},
		"methods":   {when(v1alpha1.When{Methods: []string{"POST", "PUT"}}), nil, []said{of("PUT /"), nothing("GET /")}},
		"paths":     {when(v1alpha1.When{Paths: []string{"/v1", "=/exact", `~/re/[0-9]+$`}}), nil, []said{of("GET /v1/a?b"), of("GET /v1"), nothing("GET /v11"), of("GET /exact?a=b"), nothing("GET /exact/a"), of("GET /re/12?x"), nothing("GET /re/1x?/re/12"), nothing("GET /?/v1")}},
		"exactly":   {when(v1alpha1.When{Headers: map[string]string{"x-tier": "gold"}}), nil, []said{of("GET / x-tier: gold"), nothing("GET / x-tier: golden"), nothing("GET /")}},
		"present":   {when(v1alpha1.When{Headers: map[string]string{"x-tier": "*"}}), nil, []said{of("GET / x-tier: gold"), nothing("GET /")}},
		"absent":    {when(v1alpha1.When{Headers: map[string]string{"x-tier": "!*"}}), nil, []said{of("GET /"), nothing("GET / x-tier: gold")}},
		"like":      {when(v1alpha1.When{Headers: map[string]string{"x-tier": "~g.+d", "host": "~.*test"}}), nil, []said{of("GET / x-tier: gold"), nothing("GET / x-tier: goldy")}},
		"condition": {when(v1alpha1.When{CEL: ptr("request.headers['a'] == '1' || request.method == 'PUT' // or so")}), nil, []said{of("GET / a: 1"), of("PUT / a: 2"), nothing("GET / a: 2"), nothing("GET /")}},
		"all of them": {func(l *v1alpha1.Limit) {
			l.Key = []string{"header:a", "query:b"}
			l.When = &v1alpha1.When{Methods: []string{"GET"}, CEL: ptr("request.host.endsWith('test')")}
		}, nil, []said{of("GET /?b=2 a: 1", "1", "2"), lacking("GET / a: 1"), lacking("GET /?b=2"), lacking("GET /"), nothing("PUT /")}},
	}
}

// TestWhatEnvoysSayOfRequests: the descriptors that a real Envoy sends are those that the rule has forms for,
// with the values that are meant, once each.
func TestWhatEnvoysSayOfRequests(t *testing.T) {
	s := backend(t, "echo")
	seen, address := record(t)
	all := sayings()
	names := slices.Sorted(maps.Keys(all))
	var hosts []catalog.VirtualHost
	rules := map[string]*rlsconfig.Rule{}
	for i, name := range names {
		rules[name] = rule(t, fmt.Sprintf("shop/api/l%d", i), v1alpha1.OnErrorAllow, all[name].change)
		hosts = append(hosts, catalog.VirtualHost{Domain: host(i), Routes: []catalog.Route{{
			Name: "shop/web/0/0", Match: prefix("/"), Backends: to(s),
			Limits: []catalog.RouteLimit{{Rule: rules[name], Labels: all[name].labels}},
		}}})
	}
	r := startWith(t, options{service: []string{address}}, hosts, s)
	r.asks()
	for i, name := range names {
		for _, c := range all[name].said {
			t.Run(name+" "+c.request, func(t *testing.T) {
				method, rest, _ := strings.Cut(c.request, " ")
				uri, headers, _ := strings.Cut(rest, " ")
				header := http.Header{}
				for h := range strings.SplitSeq(headers, ", ") {
					if k, v, ok := strings.Cut(h, ":"); ok {
						header.Add(k, strings.TrimSpace(v))
					}
				}
				seen.take()
				if got := r.do(method, host(i), uri, header); got.Status != http.StatusOK {
					t.Fatalf("%d", got.Status)
				}
				want := slices.Clone(c.values)
				for j := range want {
					want[j] = strings.ReplaceAll(want[j], "HOST", host(i))
				}
				compare(t, rules[name], seen.take(), c.what, want)
			})
		}
	}
	r.accepted()
}

func compare(t *testing.T, rule *rlsconfig.Rule, got []*commonv3.RateLimitDescriptor, what string, want []string) {
	t.Helper()
	if what == "nothing" {
		if len(got) > 0 {
			t.Fatalf("said %v, want nothing", got)
		}
		return
	}
	if len(got) != 1 {
		t.Fatalf("said %v, want one descriptor", got)
	}
	for _, f := range rule.Forms() {
		if f.Matches(got[0].GetEntries()) {
			if f.Missing != (what == "missing") || !f.Missing && !slices.Equal(f.Values(got[0].GetEntries()), want) {
				t.Errorf("said %v, want %s%q", got[0], what, want)
			}
			return
		}
	}
	t.Errorf("%v has none of the forms %v", got[0], rule.Forms())
}

// TestClientsAddresses: a client of IPv6 is its /64, on the listener that has both families.
func TestClientsAddresses(t *testing.T) {
	s := backend(t, "echo")
	seen, address := record(t)
	l := rule(t, "shop/api/ip", v1alpha1.OnErrorAllow, key("ip/16"))
	hosts := []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{Name: "shop/web/0/0", Match: prefix("/"), Backends: to(s), Limits: limits(l)}}}}
	r := startWith(t, options{service: []string{address}, address: "::"}, hosts, s)
	r.asks()
	for from, want := range map[string]string{"127.0.0.1": "127.0.0.0/16", "[::1]": "::/64"} {
		seen.take()
		response, err := r.client.Get(fmt.Sprintf("http://%s:%d/", from, r.listener))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		compare(t, l, seen.take(), "", []string{want})
	}
}

func TestRequestsThatLackAPartAreDenied(t *testing.T) {
	s := backend(t, "echo")
	deny := func(id string, change func(*v1alpha1.Limit)) catalog.RouteLimit {
		return catalog.RouteLimit{Rule: rule(t, id, v1alpha1.OnErrorAllow, func(l *v1alpha1.Limit) {
			l.Missing = ptr(v1alpha1.MissingDeny)
			change(l)
		})}
	}
	reply := &v1alpha1.Reply{Status: ptr[int32](401), Headers: map[string]string{"x-why": "100%"}, Body: ptr("who?")}
	var hosts []catalog.VirtualHost
	for i, l := range []catalog.RouteLimit{
		deny("shop/a/0", func(l *v1alpha1.Limit) {
			l.Key, l.When = []string{"header:x-user", "query:k"}, &v1alpha1.When{Methods: []string{"POST"}, Paths: []string{"/v1"}}
		}),
		deny("shop/a/1", func(l *v1alpha1.Limit) { l.Key, l.Reply = []string{"header:x-user"}, reply }),
		deny("shop/a/2", func(l *v1alpha1.Limit) { l.Key = []string{"namespace:tenant"} }),
		deny("shop/a/3", func(l *v1alpha1.Limit) { l.Key, l.Mode = []string{"header:x-user"}, ptr(v1alpha1.LimitShadow) }),
	} {
		hosts = append(hosts, catalog.VirtualHost{Domain: host(i), Routes: []catalog.Route{{Name: "shop/web/0/0", Match: prefix("/"), Backends: to(s), Limits: []catalog.RouteLimit{l}}}})
	}
	r := start(t, hosts, s)
	user := http.Header{"X-User": {"a"}}
	for _, c := range []struct {
		host        int
		method, uri string
		header      http.Header
		want        int
	}{
		{0, "POST", "/v1?k=1", user, 200}, {0, "POST", "/v1/a?K=1", user, 403}, {0, "POST", "/v1?k=1", nil, 403},
		{0, "GET", "/v1", nil, 200}, {0, "POST", "/v2", nil, 200},
		{1, "GET", "/", user, 200}, {1, "GET", "/", nil, 401}, {2, "GET", "/", user, 403}, {3, "GET", "/", nil, 200},
	} {
		got := r.do(c.method, host(c.host), c.uri, c.header)
		if got.Status != c.want || c.want == 401 && got.Header.Get("X-Why") != "100%" {
			t.Errorf("%s %s%s %v: %d %v, want %d", c.method, host(c.host), c.uri, c.header, got.Status, got.Header, c.want)
		}
	}
	grpc := http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	if got := r.do("POST", host(0), "/v1", grpc); got.Header.Get("Grpc-Status") != "7" {
		t.Errorf("gRPC: %d %v, want PERMISSION_DENIED", got.Status, got.Header)
	}
}

// TestQuotaOfACanary: the bound of a limit comes with the part of the traffic that it is for, in the
// configuration of the weighted cluster.
func TestQuotaOfACanary(t *testing.T) {
	stable, canary := backend(t, "stable"), backend(t, "canary")
	seen, address := record(t)
	perMinute := func(l *v1alpha1.Limit) {
		l.Rate = &v1alpha1.Rate{Requests: 300, Per: metav1.Duration{Duration: time.Minute}}
	}
	part := rule(t, "shop/api/canary", v1alpha1.OnErrorAllow, func(l *v1alpha1.Limit) {
		perMinute(l)
		l.When = &v1alpha1.When{Backends: []string{"canary"}}
	})
	whole := rule(t, "shop/api/whole", v1alpha1.OnErrorAllow, perMinute)
	hosts := []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{
		Name: "shop/web/0/0", Match: prefix("/"), Backends: to(stable, canary), Limits: limits(part, whole),
	}}}}
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprintf("without %v", without), func(t *testing.T) {
			r := startWith(t, options{service: []string{address}, translate: translate.Options{NoQuotas: without}}, hosts, stable, canary)
			r.asks()
			found := map[string]bool{}
			for len(found) < 2 {
				seen.take()
				got := r.do("GET", "a", "/", nil)
				found[got.Seen.Backend] = true
				ids := map[string]bool{}
				for _, d := range seen.take() {
					ids[d.GetEntries()[0].GetValue()] = true
					if q := d.GetLimit(); without != (q == nil) || q != nil && (q.GetRequestsPerUnit() != 300 || q.GetUnit().String() != "MINUTE") {
						t.Errorf("%v carries %v", d.GetEntries(), q)
					}
				}
				if !ids[whole.ID] || ids[part.ID] != (got.Seen.Backend == "canary") {
					t.Errorf("of a request to %s were said %v", got.Seen.Backend, ids)
				}
			}
			r.accepted()
		})
	}
}

// TestNobodyAnswers: Envoy starts at once whatever is known of the rate limit service, and then each limit's
// OnError says what becomes of requests; those that no limit selects do not depend on it.
func TestNobodyAnswers(t *testing.T) {
	s := backend(t, "echo")
	select1 := func(l *v1alpha1.Limit) { l.When = &v1alpha1.When{CEL: ptr("request.url_path == '/limited'")} }
	var hosts []catalog.VirtualHost
	for i, onError := range []v1alpha1.OnError{v1alpha1.OnErrorAllow, v1alpha1.OnErrorDeny} {
		l := rule(t, "shop/api/"+strings.ToLower(string(onError)), onError, select1)
		hosts = append(hosts, catalog.VirtualHost{Domain: host(i), Routes: []catalog.Route{{Name: "shop/web/0/0", Match: prefix("/"), Backends: to(s), Limits: limits(l)}}})
	}
	for name, service := range map[string][]string{"not known": nil, "nowhere": {}, "dead": {fmt.Sprintf("127.0.0.1:%d", freePort(t))}} {
		t.Run(name, func(t *testing.T) {
			r := startWith(t, options{service: service}, hosts, s)
			r.asks()
			for uri, want := range map[string][2]int{"/limited": {200, 503}, "/": {200, 200}} {
				for i := range want {
					if got := r.do("GET", host(i), uri, nil); got.Status != want[i] {
						t.Errorf("%s%s: %d, want %d", host(i), uri, got.Status, want[i])
					}
				}
			}
			r.service = []string{realService(t, hosts)}
			r.serve(hosts, s)
			r.asks()
			r.until("it is asked", func() bool { return r.do("GET", host(1), "/limited", nil).Status == http.StatusOK })
		})
	}
}

// TestRefusals: what a client is told, by our own rate limit service and by a bucket.
func TestRefusals(t *testing.T) {
	s := backend(t, "echo")
	none := func(l *v1alpha1.Limit) { l.Rate.Requests = 1 }
	with := func(more func(*v1alpha1.Limit)) func(*v1alpha1.Limit) {
		return func(l *v1alpha1.Limit) { none(l); more(l) }
	}
	var hosts []catalog.VirtualHost
	for i, change := range []func(*v1alpha1.Limit){
		none,
		with(func(l *v1alpha1.Limit) { l.Scope = ptr(v1alpha1.ScopeProxy) }),
		with(func(l *v1alpha1.Limit) {
			l.Reply = &v1alpha1.Reply{Status: ptr[int32](503), Headers: map[string]string{"x-why": "100%"}, Body: ptr(`{"busy":true}`)}
		}),
		with(func(l *v1alpha1.Limit) { l.Mode = ptr(v1alpha1.LimitShadow) }),
		with(func(l *v1alpha1.Limit) { l.Mode, l.Scope = ptr(v1alpha1.LimitShadow), ptr(v1alpha1.ScopeProxy) }),
	} {
		l := rule(t, fmt.Sprintf("shop/p%d/l", i), v1alpha1.OnErrorDeny, change)
		hosts = append(hosts, catalog.VirtualHost{Domain: host(i), Routes: []catalog.Route{{Name: "shop/web/0/0", Match: prefix("/"), Backends: to(s), Limits: limits(l)}}})
	}
	r := startWith(t, options{service: []string{realService(t, hosts)}}, hosts, s)
	r.asks()
	grpc := http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	for i, want := range []int{429, 429, 503, 200, 200} {
		r.until("the first is let in", func() bool { return r.do("GET", host(i), "/", nil).Status < 500 })
		req, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("http://127.0.0.1:%d/", r.listener), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host(i)
		response, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %d, want %d", host(i), response.StatusCode, want)
		}
		if want == 200 {
			continue
		}
		for _, name := range []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Retry-After"} {
			if response.Header.Get(name) == "" {
				t.Errorf("%s: has no %s", host(i), name)
			}
		}
		if want == 503 && (response.Header.Get("X-Why") != "100%" || string(body) != `{"busy":true}`) {
			t.Errorf("%s: %v %q", host(i), response.Header, body)
		}
		if got := r.do("POST", host(i), "/", grpc); got.Header.Get("Grpc-Status") != "8" {
			t.Errorf("%s: gRPC is told %d %v, want RESOURCE_EXHAUSTED", host(i), got.Status, got.Header)
		}
	}
	r.accepted()
}

// TestStreamsAtATime: a stream holds its lease until it ends, and no longer.
func TestStreamsAtATime(t *testing.T) {
	s := backend(t, "echo")
	l := rule(t, "shop/api/streams", v1alpha1.OnErrorDeny, func(l *v1alpha1.Limit) { l.Rate, l.Concurrency, l.Key = nil, ptr[int32](2), []string{"ip"} })
	hosts := []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{Name: "shop/web/0/0", Match: prefix("/"), Backends: to(s), Limits: limits(l)}}}}
	r := startWith(t, options{service: []string{realService(t, hosts)}}, hosts, s)
	r.asks()
	r.until("a request is let in", func() bool { return r.do("GET", "a", "/", nil).Status == http.StatusOK })
	inService := func() int { return int(r.stat(`^cluster\.shop/echo_80\.upstream_rq_active$`)) }
	// stream tries until it is let in, for the request before it may hold its lease a moment longer.
	stream := func(nth int) (end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://127.0.0.1:%d/slow", r.listener), nil)
				if err != nil {
					return
				}
				if response, err := r.client.Do(req); err == nil {
					response.Body.Close()
				}
			}
		}()
		r.until("the stream is let in", func() bool { return inService() == nth })
		return func() { cancel(); <-ended }
	}
	for range 3 { // what is denied takes no lease, and gives none back
		first, second := stream(1), stream(2)
		for range 5 {
			if got := r.do("GET", "a", "/", nil); got.Status != http.StatusTooManyRequests {
				t.Errorf("a third is answered with %d, want 429", got.Status)
			}
		}
		first()
		r.until("a lease is free again", func() bool { return r.do("GET", "a", "/", nil).Status == http.StatusOK })
		second()
		r.until("both streams have ended", func() bool { return inService() == 0 })
	}
	r.accepted()
}

// TestBucketsOfAProxy: an Envoy counts exactly, and a change of one policy's bucket leaves the others alone.
func TestBucketsOfAProxy(t *testing.T) {
	s := backend(t, "echo")
	bucket := func(policy string, rate v1alpha1.Rate) *rlsconfig.Rule {
		return rule(t, "shop/"+policy+"/l", v1alpha1.OnErrorAllow, func(l *v1alpha1.Limit) {
			l.Scope, l.Rate, l.Key = ptr(v1alpha1.ScopeProxy), &rate, []string{"header:a"}
			l.Values = []v1alpha1.ValueLimit{{Match: map[string]string{"a": "vip"}, Unlimited: ptr(true)}}
		})
	}
	hour, second := metav1.Duration{Duration: time.Hour}, metav1.Duration{Duration: time.Second}
	hosts := func(rates map[string]v1alpha1.Rate) []catalog.VirtualHost {
		var out []catalog.VirtualHost
		for _, policy := range slices.Sorted(maps.Keys(rates)) {
			out = append(out, catalog.VirtualHost{Domain: policy, Routes: []catalog.Route{{Name: "shop/web/0/0", Match: prefix("/"), Backends: to(s), Limits: limits(bucket(policy, rates[policy]))}}})
		}
		return out
	}
	rates := map[string]v1alpha1.Rate{
		"fast": {Requests: 200, Per: second, Burst: ptr[int64](100)},
		"p1":   {Requests: 5, Per: hour}, "p2": {Requests: 7, Per: hour},
	}
	r := start(t, hosts(rates), s)
	r.until("all slots are filled", func() bool { return r.stat(`extension_config_discovery.*config_reload$`) >= 11 })
	admitted := func(policy string, n int, value string) (ok int) {
		for range n {
			if r.do("GET", policy, "/", http.Header{"A": {value}}).Status == http.StatusOK {
				ok++
			}
		}
		return ok
	}
	quota := limittest.Quota{Requests: 200, Per: time.Second, Burst: 100}
	let := 0.0
	var asked, answered []time.Time
	for begin := time.Now(); time.Since(begin) < time.Second; {
		asked = append(asked, time.Now())
		let += float64(admitted("fast", 1, "x"))
		answered = append(answered, time.Now())
	}
	if a, b := quota.Admits(asked), quota.Admits(answered); let < 0.98*min(a, b)-2 || let > 1.02*max(a, b)+2 {
		t.Errorf("let %v in, want %v to %v within 2 %%", let, a, b)
	}
	for value, want := range map[string]int{"x": 5, "y": 5, "vip": 20} {
		if got := admitted("p1", 20, value); got != want {
			t.Errorf("%s: let %d in, want %d", value, got, want)
		}
	}
	if got := admitted("p2", 20, "x"); got != 7 {
		t.Errorf("let %d in, want 7", got)
	}
	rates["p2"] = v1alpha1.Rate{Requests: 9, Per: hour}
	r.serve(hosts(rates), s)
	changed := 0
	r.until("the changed bucket is full again", func() bool { changed = admitted("p2", 20, "x"); return changed > 0 })
	if changed != 9 {
		t.Errorf("the changed bucket let %d in, want 9", changed)
	}
	if got := admitted("p1", 20, "x"); got != 0 {
		t.Errorf("a bucket of another policy let %d in again", got)
	}
	if drained := r.stat("downstream_cx_drain_close$"); drained != 0 {
		t.Errorf("%d connections were drained", drained)
	}
	r.accepted()
}
