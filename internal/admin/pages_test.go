package admin

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// page gets a path as a browser does and checks what holds for every page.
func page(t *testing.T, w *world, path string) string {
	t.Helper()
	res := call(w.handler(), "GET", path, "", header("Accept", "text/html"))
	body := read(t, res)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%s: %d %s: %s", path, res.StatusCode, res.Header.Get("Content-Type"), body)
	}
	checkHTML(t, path, body)
	return body
}

// checkHTML looks for elements that are not closed in order, for anything that the content security
// policy forbids, and for markup that came from data.
func checkHTML(t *testing.T, path, body string) {
	t.Helper()
	void := map[string]bool{"meta": true, "link": true, "img": true, "input": true, "br": true, "path": true, "circle": true}
	var open []string
	z := html.NewTokenizer(strings.NewReader(body))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if z.Err() != io.EOF || len(open) > 0 {
				t.Errorf("%s: %v, left open: %v", path, z.Err(), open)
			}
			return
		case html.StartTagToken:
			token := z.Token()
			if token.Data == "script" || token.Data == "b" && strings.Contains(body, "broken<b>") {
				t.Errorf("%s: <%s>", path, token.Data)
			}
			for _, a := range token.Attr {
				if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
					t.Errorf("%s: attribute %s=%q", path, a.Key, a.Val)
				}
				if (a.Key == "href" || a.Key == "src") && !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "#") {
					t.Errorf("%s: a link leaves the port: %q", path, a.Val)
				}
			}
			if !void[token.Data] {
				open = append(open, token.Data)
			}
		case html.EndTagToken:
			name := z.Token().Data
			if len(open) == 0 || open[len(open)-1] != name {
				t.Fatalf("%s: </%s> closes %v", path, name, open)
			}
			open = open[:len(open)-1]
		}
	}
}

func TestPages(t *testing.T) {
	for path, want := range map[string][]string{
		"/":                        {"shop/cart:8080", "1.33", "envoy-2", "NACKED", "lost", "NO_FLEET", "BackendNotFound", "route.yaml:14", "2026-03-04 05:06:07"},
		"/services":                {`href="/services/shop/cart:8080"`, "Enforce", "none: endpoints are equal", `title="answers take 2 times as long">Strained<`, "Sheds"},
		"/services/shop/cart:8080": {"10.0.0.7:8080", "25 %", "41.0", "52 %", "18ms", "40.12ms", "2.4 %", "× 0.5<", "78.8 requests/s", "controlplane freeze shop/cart:8080", "Strained: answers take 2 times as long", "503 from Envoys: shedding 15%", "joined", "left", "-50 %"},
		"/services/shop/plain:80":  {"no BalancePolicy reaches this Service", "no reading", "50 %", "equal"},
		"/targets":                 {"timed out after 1s", "not exported: latency, inFlight", "3.21ms", "rate(x{a=&#34;&lt;b&gt;&#34;}[30s])", "infinite or negative"},
		"/proxies":                 {"1.40.0", "1.5s", "unknown cluster", "HTTPRoute shop/web"},
		"/nacks":                   {"3 times in a row", "the version it acknowledged last"},
		"/snapshots":               {`href="/snapshots/shop/edge/cds"`, ">7<"},
		"/snapshots/shop/edge":     {"shop/new:1", "Service shop/cart", `href="/snapshots/shop/edge/eds?name=shop%2fcart%3a8080"`},
		"/snapshots/shop/edge/cds?name=shop/new:1":             {"connect_timeout", "<details open>"},
		"/snapshots/shop/edge?client=grpc":                     {"for gRPC clients", `href="/snapshots/shop/edge/cds?client=grpc"`, `?name=shop%2fnew%3a1&client=grpc"`},
		"/snapshots/shop/edge/cds?name=shop/new:1&client=grpc": {"wrr_locality", `href="/snapshots/shop/edge?client=grpc"`},
		"/history":                          {"HTTPRoute shop/web changed", "/diff?fleet=shop%2fedge&amp;from=6&amp;to=7", "urgent: 10.0.0.7:8080"},
		"/diff?fleet=shop/edge&from=6&to=7": {`<span class="add">`, `<span class="remove">`, "shop/old:1"},
		"/status":                           {"did you mean", "LastKnownGood", "BackendNotFound", "cart.yaml:27"},
	} {
		body := page(t, small(), path)
		for _, s := range want {
			if !strings.Contains(body, s) {
				t.Errorf("%s lacks %q", path, s)
			}
		}
	}
}

// TestWhatReferenceServicesAreServed is beside the fleets, though it is none.
func TestWhatReferenceServicesAreServed(t *testing.T) {
	w := small()
	if res := call(w.handler(), "GET", "/snapshots/-/rls", ""); res.StatusCode != 404 || !strings.Contains(read(t, res), "--rls-service") {
		t.Errorf("where there are none: %d", res.StatusCode)
	}
	config, err := snapshot.EncodeAfter(nil, translate.RateLimitConfig("shop/edge", nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	w.reference = snapshot.New(config)
	for path, want := range map[string][]string{
		"/snapshots":           {`<a href="/snapshots/-/rls">rls</a>`, `href="/snapshots/-/rls/rls"`},
		"/snapshots/-/rls":     {`href="/snapshots/-/rls/rls?name=shop%2fedge"`, "for reference rate limit services"},
		"/snapshots/-/rls/rls": {`href="/snapshots/-/rls"`, "domain"},
	} {
		body := page(t, w, path)
		for _, s := range want {
			if !strings.Contains(body, s) {
				t.Errorf("%s lacks %q:\n%s", path, s, body)
			}
		}
		if strings.Contains(body, "fleet=rls") {
			t.Errorf("%s leads to the history of what is no fleet", path)
		}
	}
	if body := read(t, call(w.handler(), "GET", "/snapshots", "")); !strings.Contains(body, `"fleet": "rls"`) {
		t.Errorf("%s", body)
	}
}

func TestPagesOfNothing(t *testing.T) {
	for path, want := range map[string]string{
		"/":          "waiting for the first complete set of objects",
		"/services":  "There are no Services",
		"/targets":   "Nothing is scraped",
		"/proxies":   "No proxy is connected",
		"/nacks":     "Every proxy took everything",
		"/snapshots": "there is no fleet",
		"/history":   "No weights were pushed yet",
		"/status":    "No objects were read yet",
	} {
		if body := page(t, empty(), path); !strings.Contains(body, want) {
			t.Errorf("%s lacks %q", path, want)
		}
	}
}

func TestAHostileNameIsText(t *testing.T) {
	w := small()
	c := w.catalog.Services["shop/cart:8080"]
	c.Endpoints[0].Zone, c.Endpoints[0].Pod = hostile, hostile
	w.proxies[0].Node, w.proxies[0].Build = hostile, hostile
	w.targets[0].URL, w.targets[0].LastError = "javascript:alert(1)"+hostile, hostile
	w.generations[1].Why = hostile
	for _, path := range []string{"/", "/services/shop/cart:8080", "/proxies", "/nacks", "/targets", "/history", "/status"} {
		if body := page(t, w, path); strings.Contains(body, "<script") {
			t.Errorf("%s: markup came through", path)
		}
	}
	res := call(w.handler(), "GET", `/services/x/<script>alert(1)<%2fscript>?paused=<b>`, "", header("Accept", "text/html"))
	body := read(t, res)
	checkHTML(t, "an error page", body)
	if res.StatusCode != 404 || strings.Contains(body, "<script>") || strings.Contains(body, "<b>") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

func TestALivePageCanBePaused(t *testing.T) {
	live := page(t, small(), "/services")
	if !strings.Contains(live, `<meta http-equiv="refresh" content="5">`) || !strings.Contains(live, `href="/services?paused="`) {
		t.Error("/services does not refresh itself, or cannot be paused")
	}
	paused := page(t, small(), "/services?paused=")
	if strings.Contains(paused, "http-equiv") || !strings.Contains(paused, `href="/services">resume`) {
		t.Error("a paused page goes on, or cannot be resumed")
	}
	if still := page(t, small(), "/history"); strings.Contains(still, "http-equiv") || strings.Contains(still, "pause") {
		t.Error("/history is read, not watched: it must not refresh itself")
	}
}

func TestAssetsAreOfThisPortAlone(t *testing.T) {
	for path, kind := range map[string]string{"/assets/style.css": "text/css; charset=utf-8", "/assets/icon.svg": "image/svg+xml"} {
		res := call(small().handler(), "GET", path, "")
		body := read(t, res)
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != kind || strings.Contains(strings.ReplaceAll(body, "http://www.w3.org/2000/svg", ""), "//") {
			t.Errorf("%s: %d %s", path, res.StatusCode, res.Header.Get("Content-Type"))
		}
	}
	for _, path := range []string{"/assets/", "/assets/layout.html", "/assets/../admin.go"} {
		if res := call(small().handler(), "GET", path, ""); res.StatusCode == 200 {
			t.Errorf("%s is served", path)
		}
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "now", 0: "now", 59 * time.Second: "59 s ago", 119 * time.Second: "119 s ago", 2 * time.Minute: "2 min ago",
		3 * time.Hour: "3 h ago", 72 * time.Hour: "3 days ago",
	} {
		at := now.Add(-d)
		if got := ago(now, &at); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestDurationsReadWell(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1234 * time.Nanosecond: "1.234µs", 18 * time.Millisecond: "18ms", 1234567 * time.Nanosecond: "1.23ms",
		123456789 * time.Nanosecond: "123ms", 1234567890: "1.23s", 200*time.Second + 7*time.Millisecond: "3m20s", -1500 * time.Millisecond: "-1.5s",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	var b bytes.Buffer
	fmt.Fprint(&b, Duration(time.Second))
	if b.String() != "1s" {
		t.Errorf("printed as %q", b.String())
	}
}
