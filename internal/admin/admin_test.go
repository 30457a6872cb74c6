package admin

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
)

var update = flag.Bool("update", false, "write the golden files anew")

// call makes a request of a handler; set is applied to it first.
func call(h http.Handler, method, path, body string, set ...func(*http.Request)) *http.Response {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "127.0.0.1:19000"
	for _, f := range set {
		f(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func header(key, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(key, value) }
}

func read(t *testing.T, r *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func errorOf(t *testing.T, r *http.Response) string {
	t.Helper()
	var view ErrorView
	body := read(t, r)
	if err := json.Unmarshal([]byte(body), &view); err != nil || view.Error == "" {
		t.Fatalf("want {\"error\": ...}, got %d %s", r.StatusCode, body)
	}
	return view.Error
}

// The golden files are also what the command line's tests are served.
var golden = map[string]string{
	"overview":  "/",
	"services":  "/services",
	"service":   "/services/shop/cart:8080",
	"plain":     "/services/shop/plain:80",
	"targets":   "/targets",
	"proxies":   "/proxies",
	"nacks":     "/nacks",
	"snapshots": "/snapshots",
	"snapshot":  "/snapshots/shop/edge",
	"resources": "/snapshots/shop/edge/cds",
	"resource":  "/snapshots/shop/edge/cds?name=shop/new:1",
	"history":   "/history",
	"diff":      "/diff?fleet=shop/edge&from=6&to=7",
	"status":    "/status",
	"healthz":   "/healthz",
	"readyz":    "/readyz",
}

func TestJSON(t *testing.T) {
	for name, path := range golden {
		t.Run(name, func(t *testing.T) {
			res := call(small().handler(), "GET", path, "")
			got := read(t, res)
			if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("%d %s: %s", res.StatusCode, res.Header.Get("Content-Type"), got)
			}
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got; -update writes it anew):\n%s", path, diff)
			}
		})
	}
}

func TestBeforeTheFirstBuildEveryPathAnswers(t *testing.T) {
	h := empty().handler()
	if res := call(h, "GET", "/readyz", ""); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(read(t, res), "waiting for the first") {
		t.Errorf("/readyz: %d", res.StatusCode)
	}
	if res := call(h, "GET", "/healthz", ""); res.StatusCode != 200 {
		t.Errorf("/healthz: %d", res.StatusCode)
	}
	for name, path := range golden {
		for _, accept := range []string{"application/json", "text/html"} {
			res := call(h, "GET", path, "", header("Accept", accept))
			if res.StatusCode >= 500 && name != "readyz" {
				t.Errorf("%s as %s: %d %s", path, accept, res.StatusCode, read(t, res))
			}
		}
	}
}

func TestHost(t *testing.T) {
	h := small().handler()
	for host, want := range map[string]int{
		"127.0.0.1:19000":         200,
		"127.0.0.1":               200,
		"[::1]:19000":             200,
		"10.1.2.3:19000":          200, // kubelet and Prometheus come by address, which no DNS name can be rebound to
		"localhost:19000":         200,
		"LocalHost.":              200,
		"Evenkeel.example:443":    200,
		"evil.example:19000":      421,
		"localhost.evil.example":  421,
		"127.0.0.1.evil.example":  421,
		"sub.evenkeel.example:80": 421,
		"":                        421,
	} {
		res := call(h, "GET", "/healthz", "", func(r *http.Request) { r.Host = host })
		if res.StatusCode != want {
			t.Errorf("Host %q: %d, want %d", host, res.StatusCode, want)
		}
	}
	w := small()
	res := call(w.handler(), "POST", "/freeze", "", header(ActionHeader, "1"), func(r *http.Request) { r.Host = "evil.example" })
	if res.StatusCode != 421 || len(w.actions) != 0 {
		t.Errorf("an action through another host name: %d, took %v", res.StatusCode, w.actions)
	}
}

func TestEveryAnswerKeepsTheBrowserFromDoingMore(t *testing.T) {
	for _, path := range []string{"/", "/services", "/nothing", "/assets/style.css", "/metrics"} {
		res := call(small().handler(), "GET", path, "", header("Accept", "text/html"), header("Origin", "https://evil.example"))
		csp := res.Header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") {
			t.Errorf("%s: Content-Security-Policy %q", path, csp)
		}
		if res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: no nosniff", path)
		}
		for name := range res.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %s is sent", path, name)
			}
		}
	}
}

func TestMethods(t *testing.T) {
	w := small()
	h := w.handler()
	for path, allow := range map[string]string{"/services": "GET, HEAD", "/healthz": "GET, HEAD", "/metrics": "GET, HEAD", "/debug/pprof/heap": "GET, HEAD", "/freeze": "POST", "/unfreeze": "POST", "/accept": "POST"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} {
			res := call(h, method, path, "", header(ActionHeader, "1"))
			if allowed := strings.Contains(allow, method); allowed != (res.StatusCode == 200) {
				t.Errorf("%s %s: %d", method, path, res.StatusCode)
			} else if !allowed && (res.StatusCode != 405 || res.Header.Get("Allow") != allow) {
				t.Errorf("%s %s: %d, Allow %q", method, path, res.StatusCode, res.Header.Get("Allow"))
			}
		}
	}
	if want := []string{"accept ", "freeze ", "unfreeze "}; !cmp.Equal(want, slices.Sorted(slices.Values(w.actions))) {
		t.Errorf("actions taken: %q, want one each, by POST", w.actions)
	}
}

func TestActions(t *testing.T) {
	action := header(ActionHeader, "1")
	for _, tc := range []struct {
		name, path, body string
		set              []func(*http.Request)
		refuse           error
		code             int
		words            string
		took             []string
	}{
		{name: "one service", path: "/freeze", body: `{"service":"shop/cart:8080"}`, set: []func(*http.Request){action}, code: 200, words: "the weights of shop/cart:8080 are frozen", took: []string{"freeze shop/cart:8080"}},
		{name: "all by no body", path: "/unfreeze", set: []func(*http.Request){action}, code: 200, words: "the weights of all services are free", took: []string{"unfreeze "}},
		{name: "a Service that is gone", path: "/accept", body: `{"service":"shop/gone:80"}`, set: []func(*http.Request){action}, code: 200, words: "what was held of shop/gone:80 is taken", took: []string{"accept shop/gone:80"}},
		{name: "no header", path: "/freeze", code: 403, words: "X-Evenkeel-Action: 1"},
		{name: "wrong header", path: "/freeze", set: []func(*http.Request){header(ActionHeader, "yes")}, code: 403, words: "X-Evenkeel-Action: 1"},
		{name: "unknown service", path: "/freeze", body: `{"service":"shop/cart:80"}`, set: []func(*http.Request){action}, code: 404, words: "there is shop/cart:8080"},
		{name: "misspelt field", path: "/freeze", body: `{"servise":"shop/cart:8080"}`, set: []func(*http.Request){action}, code: 400, words: `unknown field "servise"`},
		{name: "two documents", path: "/freeze", body: `{} {}`, set: []func(*http.Request){action}, code: 400, words: "one object"},
		{name: "too long", path: "/freeze", body: `{"service":"` + strings.Repeat("x", maxAction) + `"}`, set: []func(*http.Request){action}, code: 400, words: "expected"},
		{name: "padded beyond the bound", path: "/freeze", body: strings.Repeat(" ", 2*maxAction) + `{"service":"shop/cart:8080"}`, set: []func(*http.Request){action}, code: 400, words: "longer than"},
		{name: "refused", path: "/freeze", set: []func(*http.Request){action}, refuse: errors.New("not now"), code: 409, words: "not now", took: []string{"freeze "}},
		{name: "rollback", path: "/rollback", body: `{"fleet":"shop/edge","generation":6}`, set: []func(*http.Request){action}, code: 200,
			words: "is served generation 6, with the endpoints and weights of now, until HTTPRoute shop/web or Service shop/new changes again", took: []string{"rollback shop/edge 6 by admin port from 192.0.2.1"}},
		{name: "rollback tells what has no endpoints", path: "/rollback", body: `{"fleet":"shop/edge","generation":6}`, set: []func(*http.Request){action}, code: 200,
			words: "no Service is behind shop/old:1 any more", took: []string{"rollback shop/edge 6 by admin port from 192.0.2.1"}},
		{name: "rollback of no fleet", path: "/rollback", body: `{"generation":6}`, set: []func(*http.Request){action}, code: 400, words: "which fleet?"},
		{name: "rollback of an unknown fleet", path: "/rollback", body: `{"fleet":"shop/gone","generation":6}`, set: []func(*http.Request){action}, code: 404, words: "there is shop/edge"},
		{name: "rollback to nothing", path: "/rollback", body: `{"fleet":"shop/edge"}`, set: []func(*http.Request){action}, code: 400, words: "which generation?"},
		{name: "rollback below zero", path: "/rollback", body: `{"fleet":"shop/edge","generation":-1}`, set: []func(*http.Request){action}, code: 400, words: `expected {"fleet"`},
		{name: "rollback of a service", path: "/rollback", body: `{"service":"shop/cart:8080"}`, set: []func(*http.Request){action}, code: 400, words: `unknown field "service"`},
		{name: "rollback refused", path: "/rollback", body: `{"fleet":"shop/edge","generation":5}`, set: []func(*http.Request){action}, refuse: errors.New("there is 6, 7"), code: 409,
			words: "there is 6, 7", took: []string{"rollback shop/edge 5 by admin port from 192.0.2.1"}},
		{name: "rollback without the header", path: "/rollback", body: `{"fleet":"shop/edge","generation":6}`, code: 403, words: "X-Evenkeel-Action: 1"},
		{name: "unpin", path: "/unpin", body: `{"fleet":"shop/edge"}`, set: []func(*http.Request){action}, code: 200, words: "fleet shop/edge is served its newest generation", took: []string{"unpin shop/edge by admin port from 192.0.2.1"}},
		{name: "unpin of nothing", path: "/unpin", set: []func(*http.Request){action}, code: 400, words: "which fleet?"},
		{name: "does not exist", path: "/promote", set: []func(*http.Request){action}, code: 404, words: "POST /freeze"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := small()
			w.refuse = tc.refuse
			res := call(w.handler(), "POST", tc.path, tc.body, tc.set...)
			if body := read(t, res); res.StatusCode != tc.code || !strings.Contains(strings.ReplaceAll(body, `\"`, `"`), tc.words) {
				t.Errorf("%d %s\nwant %d with %q", res.StatusCode, body, tc.code, tc.words)
			}
			if !cmp.Equal(tc.took, w.actions) {
				t.Errorf("took %q, want %q", w.actions, tc.took)
			}
		})
	}
}

// TestAPinIsSaidEverywhere: wherever a fleet, a generation or an object of it is shown.
func TestAPinIsSaidEverywhere(t *testing.T) {
	w := small()
	w.pin = &snapshot.Pin{Number: 6, At: now.Add(-time.Minute), By: "admin port from 10.0.0.1", Objects: []string{"HTTPRoute shop/web"}, Held: []string{"Service shop/plain"}, Gone: []string{"shop/old:1"}}
	for path, words := range map[string][]string{
		"/":                    {`"generation": 6`, `"by": "admin port from 10.0.0.1"`, "RolledBack"},
		"/snapshots":           {`"generation": 6`, "HTTPRoute shop/web"},
		"/snapshots/shop/edge": {`"held": [`, "Service shop/plain", `"gone": [`, "shop/old:1"},
		"/history":             {`"state": "Pinned"`, `"state": "HeldBack"`},
		"/status":              {"fleet shop/edge is pinned to generation 6 by admin port from 10.0.0.1 since 2026-03-04T05:05:07Z"},
	} {
		body := read(t, call(w.handler(), "GET", path, ""))
		for _, word := range words {
			if !strings.Contains(body, word) {
				t.Errorf("%s does not say %s:\n%s", path, word, body)
			}
		}
		if page := read(t, call(w.handler(), "GET", path, "", header("Accept", "text/html"))); path != "/status" && !strings.Contains(page, "Pinned") {
			t.Errorf("the page %s does not say that it is pinned", path)
		}
	}
	w.pin = nil
	if body := read(t, call(w.handler(), "GET", "/status", "")); strings.Contains(body, "RolledBack") {
		t.Error("a fleet that is not pinned is said to be rolled back")
	}
}

func TestLastKnownGoodIsSaid(t *testing.T) {
	w := small()
	w.lastGood = now.Add(-time.Hour)
	w.store, w.catalog = nil, &catalog.Catalog{Fleets: map[string]*catalog.Fleet{"shop/edge": {Name: "shop/edge"}}}
	const words = "what was saved at 2026-03-04T04:06:07Z is served"
	for _, path := range []string{"/", "/status", "/readyz"} {
		res := call(w.handler(), "GET", path, "")
		if body := read(t, res); res.StatusCode != 200 || !strings.Contains(body, words) || path == "/status" && !strings.Contains(body, `"reason": "LastKnownGood"`) {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	if page := read(t, call(w.handler(), "GET", "/", "", header("Accept", "text/html"))); !strings.Contains(page, words) {
		t.Error("the overview does not say so")
	}
}

// TestAFollowerSaysWhomItFollows: whoever looks at weights is told whose they are, and of a proxy where it is.
func TestAFollowerSaysWhomItFollows(t *testing.T) {
	w := small()
	w.proxies[0].Replica = "evenkeel-1"
	o := w.options()
	o.Follows = func() string { return "evenkeel-0 (10.0.0.7:18000)" }
	h := New(o)
	for path, want := range map[string]string{
		"/readyz":                  "evenkeel-0",
		"/":                        "evenkeel-0",
		"/services":                "evenkeel-0",
		"/services/shop/cart:8080": "evenkeel-0",
		"/proxies":                 `"replica": "evenkeel-1"`,
	} {
		if body := read(t, call(h, http.MethodGet, path, "")); !strings.Contains(body, want) {
			t.Errorf("%s does not say %s: %s", path, want, body)
		}
	}
	page := read(t, call(h, http.MethodGet, "/proxies", "", header("Accept", "text/html")))
	for _, want := range []string{"the weights are those of evenkeel-0", "of evenkeel-1"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func TestErrorsSayWhatThereIs(t *testing.T) {
	for path, want := range map[string]struct {
		code  int
		words string
	}{
		"/nothing":                                     {404, "there are /, /services"},
		"/services/shop/cart":                          {404, "there is shop/cart:8080"},
		"/services/shop/gone:1":                        {404, "/services lists them"},
		"/snapshots/shop/gone":                         {404, "there is shop/edge"},
		"/snapshots/shop/edge/xyz":                     {404, "there is cds, eds, lds"},
		"/snapshots/shop/edge?client=xds":              {400, "expected grpc"},
		"/snapshots/shop/edge/cds?name=x":              {404, "/snapshots/shop/edge lists"},
		"/history?fleet=a/b":                           {404, "there is shop/edge"},
		"/history?service=a/b:1":                       {404, "services are named"},
		"/diff":                                        {400, "which fleet?"},
		"/diff?fleet=shop/edge&from=x":                 {400, `from="x" is not the number`},
		"/diff?fleet=shop/edge&from=6&to=9":            {404, "there is 6, 7"},
		"/services?" + strings.Repeat("x", maxQuery+1): {414, "longer than"},
	} {
		res := call(small().handler(), "GET", path, "")
		if text := errorOf(t, res); res.StatusCode != want.code || !strings.Contains(text, want.words) {
			t.Errorf("%s: %d %q, want %d with %q", path, res.StatusCode, text, want.code, want.words)
		}
	}
}

func TestNegotiation(t *testing.T) {
	for accept, html := range map[string]bool{
		"":    false,
		"*/*": false,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": true,
		"application/json":                  false,
		"application/json, text/html":       true,
		"text/html;q=0.5, application/json": false,
		"text/html;q=0":                     false,
		"text/html;q=x":                     true,
	} {
		res := call(small().handler(), "GET", "/services", "", header("Accept", accept))
		if got := strings.HasPrefix(res.Header.Get("Content-Type"), "text/html"); got != html {
			t.Errorf("Accept %q: HTML %v, want %v", accept, got, html)
		}
		if res.Header.Get("Vary") != "Accept" {
			t.Errorf("Accept %q: Vary %q", accept, res.Header.Get("Vary"))
		}
	}
}

func TestAPanicIsOneAnswer(t *testing.T) {
	h := guard(nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret") }))
	res := call(h, "GET", "/services", "")
	if text := errorOf(t, res); res.StatusCode != 500 || strings.Contains(text, "secret") {
		t.Errorf("%d %q", res.StatusCode, text)
	}
}

func FuzzRequests(f *testing.F) {
	for _, path := range golden {
		f.Add("GET", path, "text/html", "")
	}
	f.Add("POST", "/freeze", "application/json", `{"service":"shop/cart:8080"}`)
	f.Add("POST", "/rollback", "application/json", `{"fleet":"shop/edge","generation":6}`)
	f.Add("GET", "/services/a%2Fb/%00:x", "text/html;q=nan", "")
	f.Add("GET", "//snapshots/../x?name=%zz", "text/html", "")
	h := small().handler()
	f.Fuzz(func(t *testing.T, method, path, accept, body string) {
		r, err := http.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
		if err != nil || r.URL.Host != "127.0.0.1" {
			return
		}
		r.Header.Set("Accept", accept)
		r.Header.Set(ActionHeader, "1")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %q: %d %s", method, path, w.Code, w.Body)
		}
		if w.Body.Len() > 1<<20 {
			t.Errorf("%s %q: %d bytes", method, path, w.Body.Len())
		}
		if kind := w.Header().Get("Content-Type"); kind == "application/json" && method != "HEAD" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %q: not JSON: %s", method, path, w.Body)
		}
	})
}

func TestHistoryIsBounded(t *testing.T) {
	w := small()
	for i := range maxPushes + 10 {
		w.pushes["shop/plain:80"] = append(w.pushes["shop/plain:80"], snapshot.Push{At: now.Add(time.Duration(i) * time.Millisecond), Why: "routine"})
	}
	get := func(path string) (view HistoryView) {
		if err := json.Unmarshal([]byte(read(t, call(w.handler(), "GET", path, ""))), &view); err != nil {
			t.Fatal(err)
		}
		return view
	}
	view := get("/history")
	if len(view.Pushes) != maxPushes || view.OmittedPushes != 12 {
		t.Errorf("%d pushes, %d omitted; want %d and 12", len(view.Pushes), view.OmittedPushes, maxPushes)
	}
	if newest := now.Add((maxPushes + 9) * time.Millisecond); !view.Pushes[0].At.Equal(newest) {
		t.Errorf("the first is of %v, want the newest, %v", view.Pushes[0].At, newest)
	}
	if view := get("/history?service=shop/cart:8080"); len(view.Pushes) != 2 || len(view.Generations) != 0 {
		t.Errorf("of one Service: %d pushes, %d generations", len(view.Pushes), len(view.Generations))
	}
	if view := get("/history?fleet=shop/edge"); len(view.Pushes) != 0 || len(view.Generations) != 2 {
		t.Errorf("of one fleet: %d pushes, %d generations", len(view.Pushes), len(view.Generations))
	}
}

// Weights that are held are a fault of the metrics only while most of the readings are old, or are what Envoys
// report of endpoints whose metrics are.
func TestHeldWeightsAreStaleMetricsOnlyWithoutReadings(t *testing.T) {
	for i := range 8 {
		fresh, want, reported := i/2, i/2 < 2, i%2 == 1
		w := small()
		d := w.decisions["shop/cart:8080"]
		d.Frozen = "frozen"
		w.decisions["shop/cart:8080"] = d
		for i, e := range w.catalog.Services["shop/cart:8080"].Endpoints {
			k := signals.Key{Service: "shop/cart:8080", Address: e.Address}
			r := w.readings[k]
			if r.To = now.Add(-time.Second); i >= fresh {
				r.To = now.Add(-time.Minute)
				if reported {
					r.To, r.Reported.Alone = now.Add(-time.Second), true
				}
			}
			w.readings[k] = r
		}
		body := read(t, call(w.handler(), "GET", "/status", ""))
		if got := strings.Contains(body, "StaleMetrics"); got != want {
			t.Errorf("%d of 3 fresh: StaleMetrics %v, want %v", fresh, got, want)
		}
		if want && !strings.Contains(body, fmt.Sprintf("%d of 3 endpoints have fresh readings", fresh)) {
			t.Errorf("%d of 3 fresh: the message does not say so", fresh)
		}
	}
}

// TestMonitoringTellsOfHealthAndMetricsAlone: no route, page or action is on the port that others reach.
func TestMonitoringTellsOfHealthAndMetricsAlone(t *testing.T) {
	w := small()
	full, monitoring := w.handler(), NewMonitoring(w.options())
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		want, got := call(full, "GET", path, ""), call(monitoring, "GET", path, "")
		if wanted, text := read(t, want), read(t, got); got.StatusCode != want.StatusCode || text != wanted {
			t.Errorf("%s: %d %s, on the admin port %d %s", path, got.StatusCode, text, want.StatusCode, wanted)
		}
	}
	for _, path := range append(slices.Collect(maps.Values(golden)), "/debug/pprof/heap", "/debug/pprof/goroutine") {
		if path == "/healthz" || path == "/readyz" {
			continue
		}
		if got := call(monitoring, "GET", path, ""); got.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, got.StatusCode)
		}
	}
	if got := call(monitoring, "POST", "/freeze", "{}", header(ActionHeader, "1")); got.StatusCode != http.StatusNotFound || len(w.actions) != 0 {
		t.Errorf("an action: %d, took %v", got.StatusCode, w.actions)
	}
	rebound := func(r *http.Request) { r.Host = "evil.example:19001" }
	if got := call(monitoring, "GET", "/metrics", "", rebound); got.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another host: %d", got.StatusCode)
	}
}
