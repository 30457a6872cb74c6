package translate

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

func ptr[T any](v T) *T { return &v }

func exact(path string) catalog.Match {
	return catalog.Match{Path: catalog.PathMatch{Type: catalog.Exact, Value: path}}
}

func prefix(path string) catalog.Match {
	return catalog.Match{Path: catalog.PathMatch{Type: catalog.Prefix, Value: path}}
}

func regex(path string) catalog.Match {
	return catalog.Match{Path: catalog.PathMatch{Type: catalog.Regex, Value: path}}
}

func to(services ...*catalog.Service) []catalog.Backend {
	var out []catalog.Backend
	for _, s := range services {
		out = append(out, catalog.Backend{Service: s.Name, Weight: 1})
	}
	return out
}

// marked is a route to the backend that tells the response which route it was.
func marked(name string, m catalog.Match, s *catalog.Service) catalog.Route {
	return catalog.Route{Name: name, Match: m, Backends: to(s), ResponseHeaders: catalog.HeaderChange{
		Set: []catalog.Header{{Name: "x-route", Value: name}},
	}}
}

func TestMatches(t *testing.T) {
	s := backend(t, "echo")
	method, header, headerRegex, query := prefix("/by"), prefix("/by"), prefix("/by"), prefix("/by")
	method.Method = "PUT"
	header.Headers = []catalog.ValueMatch{{Name: "X-Team", Type: catalog.Exact, Value: "a"}}
	headerRegex.Headers = []catalog.ValueMatch{{Name: "x-build", Type: catalog.Regex, Value: "[0-9]+"}}
	query.Queries = []catalog.ValueMatch{{Name: "q", Type: catalog.Regex, Value: "1|2"}, {Name: "r", Type: catalog.Exact, Value: "x"}}
	// Expressions far beyond the program size that Envoy allows by default, near the one we do.
	big := []string{"/states/(a|b){1,40}[^/]{0,60}", `/letters/\p{L}+`, "/any/.{0,700}", "(?i)/fold/(k|s|x){1,350}"}
	r := start(t, []catalog.VirtualHost{
		{Domain: "shop.example.com", Routes: []catalog.Route{
			marked("exact", exact("/exact"), s),
			marked("regex", regex("/v[0-9]+/.*"), s),
			marked("states", regex(big[0]), s),
			marked("letters", regex(big[1]), s),
			marked("any", regex(big[2]), s),
			marked("fold", regex(big[3]), s),
			marked("method", method, s),
			marked("header", header, s),
			marked("header regex", headerRegex, s),
			marked("query", query, s),
			marked("prefix", prefix("/prefix"), s),
			marked("slash", prefix("/slash/"), s),
		}},
		{Domain: "*.example.com", Routes: []catalog.Route{marked("wildcard", prefix("/"), s)}},
	}, s)
	const host = "shop.example.com"
	for _, c := range []struct {
		method, host, uri string
		header            http.Header
		want              string // the route, "" for 404
	}{
		{uri: "/exact", want: "exact"},
		{uri: "/exact?x=1", want: "exact"},
		{uri: "/exact/", want: ""},
		{uri: "/v12/x", want: "regex"},
		{uri: "/a/v12/x", want: ""},
		{uri: "/letters/z", want: "letters"},
		{uri: "/any/" + strings.Repeat("z", 700), want: "any"},
		{uri: "/FOLD/" + strings.Repeat("K", 350), want: "fold"},
		{uri: "/states/ababab-end", want: "states"},
		{uri: "/by", method: "PUT", want: "method"},
		{uri: "/by", header: http.Header{"X-Team": {"a"}}, want: "header"},
		{uri: "/by", header: http.Header{"X-Team": {"ab"}}, want: ""},
		{uri: "/by", header: http.Header{"X-Build": {"77"}}, want: "header regex"},
		{uri: "/by", header: http.Header{"X-Build": {"77x"}}, want: ""},
		{uri: "/by?r=x&q=2", want: "query"},
		{uri: "/by?q=2", want: ""},
		{uri: "/prefix", want: "prefix"},
		{uri: "/prefix/", want: "prefix"},
		{uri: "/prefix/x?y", want: "prefix"},
		{uri: "/prefixed", want: ""},
		{uri: "/slash", want: "slash"},
		{uri: "/slash/x", want: "slash"},
		{uri: "//prefix//x", want: "prefix"},
		{uri: "/other/../prefix", want: "prefix"},
		{uri: "/exact", host: host + ":8443", want: "exact"},
		{uri: "/exact", host: "SHOP.example.com", want: "exact"},
		{uri: "/exact", host: "a.b.example.com", want: "wildcard"},
		{uri: "/exact", host: "example.com", want: ""},
		{uri: "/exact", host: "elsewhere.org", want: ""},
	} {
		if c.method == "" {
			c.method = "GET"
		}
		if c.host == "" {
			c.host = host
		}
		got := r.do(c.method, c.host, c.uri, c.header)
		status := http.StatusOK
		if c.want == "" {
			status = http.StatusNotFound
		}
		if got.Status != status || got.Header.Get("X-Route") != c.want {
			t.Errorf("%s %s%s %v: %d by %q, want %q", c.method, c.host, c.uri, c.header, got.Status, got.Header.Get("X-Route"), c.want)
		}
	}
	if got := r.do("GET", host, "/prefix%2Fx", nil); got.Status != http.StatusTemporaryRedirect || got.Header.Get("Location") != "/prefix/x" {
		t.Errorf("an escaped slash: %d to %q, want a redirect to the plain path", got.Status, got.Header.Get("Location"))
	}
	if got := r.do("GET", host+":8443", "/exact", nil); got.Seen.Host != host+":8443" {
		t.Errorf("the backend saw Host %q, want what the client sent", got.Seen.Host)
	}
}

// byHost gives every case a domain of its own, so that one Envoy serves them all.
func byHost[T any](cases []T, route func(T) catalog.Route) []catalog.VirtualHost {
	var out []catalog.VirtualHost
	for i, c := range cases {
		out = append(out, catalog.VirtualHost{Domain: hostOf(i), Routes: []catalog.Route{route(c)}})
	}
	return out
}

func hostOf(i int) string { return fmt.Sprintf("case-%d.example.com", i) }

func TestRedirects(t *testing.T) {
	type path = catalog.PathChange
	type test struct {
		match    catalog.Match
		redirect catalog.Redirect
		uri      string
		code     int
		want     string // %s is the host of the request, without its port
	}
	cases := []test{
		{prefix("/"), catalog.Redirect{Scheme: "https", Hostname: "new.example.com", Code: 301}, "/a?b=c", 301, "https://new.example.com/a?b=c"},
		{prefix("/"), catalog.Redirect{Scheme: "https", Port: 443, Hostname: "new.example.com", Code: 308}, "/", 308, "https://new.example.com/"},
		{prefix("/"), catalog.Redirect{Scheme: "https", Port: 443}, "/", 302, "https://%s:443/"},
		{prefix("/"), catalog.Redirect{Port: 8443}, "/", 302, "http://%s:8443/"},
		{prefix("/"), catalog.Redirect{Path: &path{Full: ptr("/other")}, Code: 303}, "/a?b=c", 303, "http://%s:8080/other?b=c"},
		{prefix("/a"), catalog.Redirect{Path: &path{Prefix: ptr("/b/")}, Code: 307}, "/a/c?d", 307, "http://%s:8080/b/c?d"},
		{prefix("/a"), catalog.Redirect{Path: &path{Prefix: ptr("/")}}, "/a", 302, "http://%s:8080/"},
		{prefix("/a"), catalog.Redirect{Path: &path{Prefix: ptr("/")}}, "/a/b?c", 302, "http://%s:8080/b?c"},
		{prefix("/"), catalog.Redirect{Path: &path{Prefix: ptr("/b")}}, "/a", 302, "http://%s:8080/b/a"},
		{prefix("/"), catalog.Redirect{Path: &path{Full: ptr("/100%25")}}, "/a", 302, "http://%s:8080/100%%25"},
	}
	r := start(t, byHost(cases, func(c test) catalog.Route {
		return catalog.Route{Match: c.match, Redirect: &c.redirect, Name: "r"}
	}))
	for i, c := range cases {
		want := c.want
		if strings.Contains(want, "%s") {
			want = fmt.Sprintf(want, hostOf(i))
		}
		got := r.do("GET", hostOf(i)+":8080", c.uri, nil)
		if got.Status != c.code || got.Header.Get("Location") != want {
			t.Errorf("%+v of %s: %d to %s, want %d to %s", c.redirect, c.uri, got.Status, got.Header.Get("Location"), c.code, want)
		}
	}
}

func TestRewrites(t *testing.T) {
	s := backend(t, "echo")
	type test struct {
		match     catalog.Match
		full      *string
		prefix    *string
		uri, want string
	}
	cases := []test{
		// The table of Gateway API's HTTPPathModifier.
		{prefix("/foo"), nil, ptr("/xyz"), "/foo/bar", "/xyz/bar"},
		{prefix("/foo"), nil, ptr("/xyz/"), "/foo/bar", "/xyz/bar"},
		{prefix("/foo/"), nil, ptr("/xyz"), "/foo/bar", "/xyz/bar"},
		{prefix("/foo/"), nil, ptr("/xyz/"), "/foo/bar", "/xyz/bar"},
		{prefix("/foo"), nil, ptr("/xyz"), "/foo", "/xyz"},
		{prefix("/foo"), nil, ptr("/xyz"), "/foo/", "/xyz/"},
		{prefix("/foo"), nil, ptr(""), "/foo/bar", "/bar"},
		{prefix("/foo"), nil, ptr(""), "/foo/", "/"},
		{prefix("/foo"), nil, ptr(""), "/foo", "/"},
		{prefix("/foo"), nil, ptr("/"), "/foo/", "/"},
		{prefix("/foo"), nil, ptr("/"), "/foo", "/"},
		// Beyond the table: the root, a query, characters that mean something to an expression.
		{prefix("/"), nil, ptr("/xyz"), "/foo", "/xyz/foo"},
		{prefix("/"), nil, ptr("/"), "/foo", "/foo"},
		{prefix("/a.b"), nil, ptr("/"), "/a.b/c?d=/a.b", "/c?d=/a.b"},
		{prefix("/foo"), nil, ptr("/xyz"), "/foo?q=1", "/xyz?q=1"},
		{prefix("/a"), ptr("/x"), nil, "/a/b/c?q=1", "/x?q=1"},
		{exact("/a"), ptr(`/x\1`), nil, "/a", `/x\1`},
		{regex("/a.*"), ptr("/x"), nil, "/abc", "/x"},
	}
	hosts := byHost(cases, func(c test) catalog.Route {
		return catalog.Route{
			Name: "r", Match: c.match, Backends: to(s),
			Rewrite: &catalog.Rewrite{Path: &catalog.PathChange{Full: c.full, Prefix: c.prefix}},
		}
	})
	hosts = append(hosts, catalog.VirtualHost{Domain: "host.example.com", Routes: []catalog.Route{
		{Name: "host", Match: prefix("/"), Backends: to(s), Rewrite: &catalog.Rewrite{Hostname: "inner.example.com"}},
	}})
	r := start(t, hosts, s)
	for i, c := range cases {
		if got := r.do("GET", hostOf(i), c.uri, nil); got.Seen.URI != c.want {
			t.Errorf("%s matched by %s: the backend saw %q (%d), want %q", c.uri, c.match.Path.Value, got.Seen.URI, got.Status, c.want)
		}
	}
	if got := r.do("GET", "host.example.com", "/a", nil); got.Seen.Host != "inner.example.com" || got.Seen.URI != "/a" {
		t.Errorf("the backend saw %s%s, want inner.example.com/a", got.Seen.Host, got.Seen.URI)
	}
}

func TestHeaders(t *testing.T) {
	s := backend(t, "echo")
	change := func(suffix string) catalog.HeaderChange {
		return catalog.HeaderChange{
			Set:    []catalog.Header{{Name: "X-Set" + suffix, Value: "100%"}, {Name: "x-format" + suffix, Value: "%REQ(x)% 50%% %"}},
			Add:    []catalog.Header{{Name: "x-add" + suffix, Value: "new"}},
			Remove: []string{"x-remove" + suffix},
		}
	}
	response := catalog.HeaderChange{Set: []catalog.Header{{Name: "x-from", Value: "edge"}}, Add: []catalog.Header{{Name: "x-more", Value: "%"}}}
	r := start(t, []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{
		{
			Name: "rule", Match: prefix("/"), RequestHeaders: change(""), ResponseHeaders: response,
			Backends: []catalog.Backend{{
				Service: s.Name, Weight: 1, RequestHeaders: change("-backend"),
				ResponseHeaders: catalog.HeaderChange{Remove: []string{"server"}},
			}},
		},
	}}}, s)
	sent := http.Header{}
	for _, suffix := range []string{"", "-backend"} {
		for _, name := range []string{"x-set", "x-add", "x-remove"} {
			sent.Set(name+suffix, "old")
		}
	}
	got := r.do("GET", "a", "/", sent)
	for _, suffix := range []string{"", "-Backend"} {
		for name, want := range map[string]string{"X-Set": "100%", "X-Format": "%REQ(x)% 50%% %", "X-Add": "old,new", "X-Remove": ""} {
			if value := strings.Join(got.Seen.Header.Values(name+suffix), ","); value != want {
				t.Errorf("the backend saw %s%s: %q, want %q", name, suffix, value, want)
			}
		}
	}
	for name, want := range map[string]string{"X-From": "edge", "X-More": "%", "Server": ""} {
		if value := got.Header.Get(name); value != want {
			t.Errorf("the client saw %s: %q, want %q", name, value, want)
		}
	}
}

func TestSplitsAndUnresolvedBackends(t *testing.T) {
	a, b, empty := backend(t, "a"), backend(t, "b"), service("empty")
	r := start(t, []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{
		{Name: "split", Match: prefix("/split"), Backends: []catalog.Backend{{Service: a.Name, Weight: 3}, {Service: b.Name, Weight: 1}}},
		{Name: "part", Match: prefix("/part"), Backends: []catalog.Backend{{Service: a.Name, Weight: 1}, {Weight: 1}, {Service: b.Name}}},
		{Name: "nobody", Match: prefix("/nobody"), Backends: []catalog.Backend{{Weight: 1}}, ResponseHeaders: catalog.HeaderChange{Set: []catalog.Header{{Name: "x-from", Value: "edge"}}}},
		{Name: "none", Match: prefix("/none")},
		{Name: "zero", Match: prefix("/zero"), Backends: []catalog.Backend{{Service: a.Name}}},
		{Name: "empty", Match: prefix("/empty"), Backends: to(empty)},
	}}}, a, b, empty)
	const n = 400
	count := func(uri string) map[string]int {
		counts := map[string]int{}
		for range n {
			got := r.do("GET", "a", uri, nil)
			counts[fmt.Sprint(got.Status, " ", got.Seen.Backend)]++
		}
		return counts
	}
	// 400 draws of 3/4 stay within 0.75 +- 0.11 but for one time in a million.
	if c := count("/split"); c["200 a"]+c["200 b"] != n || c["200 a"] < 256 || c["200 a"] > 344 {
		t.Errorf("a split of 3 to 1: %v", c)
	}
	if c := count("/part"); c["200 a"]+c["500 "] != n || c["500 "] < 150 || c["500 "] > 250 {
		t.Errorf("half of the requests to a backend that is not resolved: %v", c)
	}
	for uri, want := range map[string]int{"/nobody": 500, "/none": 500, "/zero": 500, "/empty": 503} {
		if got := r.do("GET", "a", uri, nil); got.Status != want {
			t.Errorf("%s: %d, want %d", uri, got.Status, want)
		}
	}
	if got := r.do("GET", "a", "/nobody", nil); got.Header.Get("X-From") != "edge" {
		t.Error("a 500 of our own has no header of the rule")
	}
}

func TestTimeouts(t *testing.T) {
	s := backend(t, "echo")
	r := start(t, []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{
		{Name: "request", Match: prefix("/slow/request"), Backends: to(s), Timeout: 50 * time.Millisecond},
		{Name: "backend", Match: prefix("/slow/backend"), Backends: to(s), BackendTimeout: 50 * time.Millisecond, Timeout: -1},
	}}}, s)
	for _, uri := range []string{"/slow/request", "/slow/backend"} {
		if got := r.do("GET", "a", uri, nil); got.Status != http.StatusGatewayTimeout {
			t.Errorf("%s: %d, want 504", uri, got.Status)
		}
	}
	if retried := r.stat("upstream_rq_retry$"); retried != 0 {
		t.Errorf("a request that a backend had was sent again, %d times", retried)
	}
}

// TestAGoneEndpointIsNotNoticed: requests that meet an endpoint where nothing listens any more are sent
// to another.
func TestAGoneEndpointIsNotNoticed(t *testing.T) {
	s := backend(t, "echo")
	s.Endpoints = append(s.Endpoints, catalog.Endpoint{Address: fmt.Sprintf("127.0.0.1:%d", freePort(t)), Base: 1, Multiplier: 1})
	r := start(t, []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{Name: "all", Match: prefix("/"), Backends: to(s)}}}}, s)
	for range 50 {
		if got := r.do("POST", "a", "/", nil); got.Status != http.StatusOK {
			t.Fatalf("%d, want 200", got.Status)
		}
	}
	if r.stat("upstream_rq_retry_success$") == 0 {
		t.Error("nothing was retried, the test proves nothing")
	}
}

func TestProtocols(t *testing.T) {
	http1 := backend(t, "http1")
	http2 := backend(t, "http2", func(s *httptest.Server) {
		s.Config.Protocols = &http.Protocols{}
		s.Config.Protocols.SetUnencryptedHTTP2(true)
	})
	http2.HTTP2 = true
	r := start(t, []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{
		{Name: "2", Match: prefix("/2"), Backends: to(http2)},
		{Name: "1", Match: prefix("/"), Backends: to(http1)},
	}}}, http1, http2)
	for uri, want := range map[string]string{"/1": "http1", "/2": "http2"} {
		if got := r.do("GET", "a", uri, nil); got.Seen.Backend != want {
			t.Errorf("%s: %d by %q, want %q", uri, got.Status, got.Seen.Backend, want)
		}
	}
	if got := r.do("GET", "a", "/1", http.Header{"X-Forwarded-For": {"9.9.9.9"}}); got.Header.Get("Server") != "echo" {
		t.Errorf("Server: %q, want the backend's own", got.Header.Get("Server"))
	}
	if err := r.upgraded("a", "/ws"); err != nil {
		t.Errorf("WebSocket: %v", err)
	}
}

// TestSlotsDoNotHoldUpAnEnvoy: without the content of the filter slot an Envoy starts and serves, and
// it takes and loses the content without a connection noticing.
func TestSlotsDoNotHoldUpAnEnvoy(t *testing.T) {
	s := backend(t, "echo")
	hosts := []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{Name: "all", Match: prefix("/"), Backends: to(s)}}}}
	r := start(t, hosts, s)
	without := func() {
		var rest []*snapshot.Resource
		for _, typ := range translate.Types {
			if typ != translate.ECDS {
				rest = slices.AppendSeq(rest, maps.Values(r.served.Resources(typ)))
			}
		}
		if err := r.cache.SetSnapshot(t.Context(), fleetName, snapshot.New(rest...)); err != nil {
			t.Fatal(err)
		}
	}
	reloads := func() uint64 { return r.stat(`extension_config_discovery.*config_reload$`) }
	r.until("the slot is filled", func() bool { return reloads() >= 1 })
	without()
	if got := r.do("GET", "a", "/", nil); got.Status != http.StatusOK {
		t.Errorf("without the slot's content: %d, want 200", got.Status)
	}
	r.serve(hosts, s)
	r.until("the slot is filled again", func() bool { return reloads() >= 2 })
	if drained := r.stat("downstream_cx_drain_close$"); drained != 0 {
		t.Errorf("%d connections were drained", drained)
	}
	r.accepted()
}
