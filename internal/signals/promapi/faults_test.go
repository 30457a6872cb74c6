package promapi

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// TestFaults: an answer that cannot be used is one failed query with its reason; the other terms of the
// Service come, nothing is quoted.
func TestFaults(t *testing.T) {
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code); io.WriteString(w, body) }
	}
	text := func(body string) http.HandlerFunc { return status(http.StatusOK, body) }
	apiError := func(code int, kind string) http.HandlerFunc {
		return status(code, fmt.Sprintf(`{"status":"error","errorType":%q,"error":"near %s"}`, kind, secret))
	}
	many := make([]result, 101)
	for i := range many {
		many[i] = instance(fmt.Sprintf("10.1.0.%d:%s", i, secret), "1")
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(bytes.Repeat([]byte(" "), 4<<20))
	z.Close()
	for _, fault := range []struct {
		name    string
		handler http.HandlerFunc
		reason  string
		message string
	}{
		{"hangs", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, reasonTimeout, "no complete answer in time"},
		{"drips", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, " ")
				http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(time.Second):
				}
			}
		}, reasonTimeout, "no complete answer in time"},
		{"500", status(500, secret), reasonStatus, "answered 500 Internal Server Error, expected 200 OK"},
		{"503 of the API", apiError(503, "timeout"), reasonStatus, "answered 503"},
		{"401", status(401, secret), reasonStatus, "user and password"},
		{"404", status(404, secret), reasonStatus, "answered 404 Not Found"},
		{"403 for POST and GET", status(403, secret), reasonStatus, "answered 403"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://other:9090/"+secret, http.StatusTemporaryRedirect)
		}, reasonStatus, "redirects are not followed"},
		{"bad query", apiError(400, "bad_data"), reasonQuery, "refuses the query as malformed"},
		{"cannot evaluate", apiError(422, "execution"), reasonExecution, "cannot evaluate"},
		{"gave up", apiError(422, "timeout"), reasonTimeout, "gave the query up"},
		{"an unknown kind of error", apiError(422, secret), reasonSyntax, "not what the query API"},
		{"HTML", text("<html>" + secret), reasonSyntax, "not what the query API"},
		{"nothing", text(""), reasonSyntax, "not what the query API"},
		{"half an answer", text(vector(instance(a, "1"))[:60]), reasonSyntax, "not what the query API"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, vector()[:20])
		}, reasonHTTP, "the connection broke"},
		{"no HTTP", func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := http.NewResponseController(w).Hijack()
			io.WriteString(c, secret+"\r\n\r\n")
			c.Close()
		}, reasonHTTP, "does not speak HTTP"},
		{"huge", func(w http.ResponseWriter, _ *http.Request) {
			for range 200 {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 10_000)); err != nil {
					return
				}
			}
		}, reasonTooLarge, "larger than 1000000 bytes"},
		{"huge when decompressed", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(zipped.Bytes())
		}, reasonTooLarge, "larger than 1000000 bytes"},
		{"many results", text(vector(many...)), reasonResults, "more than 100 results"},
		{"a scalar", text(success("scalar", []any{1.5, "1"})), reasonType, "instant vector"},
		{"a string", text(success("string", []any{1.5, secret})), reasonSyntax, "not what the query API"},
		{"a matrix", text(success("matrix", []any{map[string]any{"metric": map[string]string{}, "values": []any{[]any{1.5, "1"}}}})), reasonType, "instant vector"},
		{"an unknown type", text(success(secret, []any{})), reasonSyntax, "not what the query API"},
		{"a value that is no number", text(vector(instance(a, secret))), reasonSyntax, "not what the query API"},
		{"deep", text(`{"status":"success","data":` + strings.Repeat(`[`, 100_000)), reasonSyntax, "not what the query API"},
	} {
		t.Run(fault.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				good := answers(map[string]string{"requests": vector(instance(a, "1"), instance(b, "1"))})
				options := Options{MaxBody: 1_000_000, MaxResults: 100, Logger: slog.New(slog.NewTextHandler(&log, nil))}
				m := start(t, options, map[string]http.HandlerFunc{"main": func(w http.ResponseWriter, r *http.Request) {
					if r.FormValue("query") == "cpu" {
						fault.handler(w, r)
						return
					}
					good(w, r)
				}}, specOf("shop/cart:80"))
				time.Sleep(15*time.Second + longestTimeout)
				synctest.Wait()
				target := m.target(t, termCPU)
				if target.Health != signals.Down || !strings.Contains(target.LastError, fault.message) {
					t.Errorf("health %s, error %q; want %q", target.Health, target.LastError, fault.message)
				}
				if m.metric(t, "evenkeel_prometheus_query_failures_total", fault.reason) == 0 {
					t.Errorf("the failure is not counted as %s", fault.reason)
				}
				if other := m.target(t, termRequests); other.Health != signals.Up {
					t.Errorf("the query beside it: %+v", other)
				}
				got := m.take()
				if len(got) < 2 || got[0].Terms != signals.TermRequests {
					t.Errorf("readings %+v, want those of the other terms", got)
				}
				m.stop()
				if everything := fmt.Sprint(m.Targets(), log.String()); strings.Contains(everything, secret) || strings.Contains(everything, "panic") {
					t.Errorf("quoted or panicked: %s", everything)
				}
			})
		})
	}
}

// TestNobodyListens: no connection is said, without the password of the URL.
func TestNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, Options{}, map[string]http.HandlerFunc{"main": nil}, specOf("shop/cart:80"))
		time.Sleep(16 * time.Second)
		synctest.Wait()
		target := m.target(t, termCPU)
		if target.Health != signals.Down || !strings.Contains(target.LastError, "nobody listens") || strings.Contains(fmt.Sprint(target), secret) {
			t.Errorf("%+v", target)
		}
		if len(m.take()) > 0 {
			t.Error("readings of nothing")
		}
	})
}

// TestWarnings: an answer with warnings, as of a federation of which a part is away, is used and marked.
func TestWarnings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		warned := strings.Replace(vector(instance(a, "1")), `{`, `{"warnings":["`+secret+`"],`, 1)
		m := start(t, Options{}, map[string]http.HandlerFunc{"main": answers(map[string]string{"requests": warned})}, specOf("shop/cart:80"))
		time.Sleep(16 * time.Second)
		synctest.Wait()
		target := m.target(t, termRequests)
		if target.Health != signals.Up || len(target.Rejected) != 1 || !strings.Contains(target.Rejected[0], "warns") || strings.Contains(fmt.Sprint(target), secret) {
			t.Errorf("%+v", target)
		}
		if got := m.take(); len(got) != 1 || got[0].Done != 37.5 {
			t.Errorf("readings %+v", got)
		}
		if n := m.metric(t, "evenkeel_prometheus_query_warnings_total", ""); n != 1 {
			t.Errorf("%v warnings counted", n)
		}
	})
}

// TestAHangingServer: it is asked no more than its slots allow, and another server does not notice.
func TestAHangingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Int64
		var specs []Spec
		for i := range 20 {
			s := specOf(fmt.Sprintf("shop/hangs-%d:80", i))
			s.Prometheus.Server = "other"
			specs = append(specs, s)
		}
		m := start(t, Options{Slots: 4}, map[string]http.HandlerFunc{
			"other": func(w http.ResponseWriter, r *http.Request) {
				r.FormValue("query") // with its body read the server notices that a client leaves
				now.Add(1)
				defer now.Add(-1)
				<-r.Context().Done()
			},
			"main": answers(map[string]string{"requests": vector(instance(a, "1"), instance(b, "1"))}),
		}, append(specs, specOf("shop/cart:80"))...)
		most := int64(0)
		for range 2 * 60 {
			time.Sleep(time.Second)
			synctest.Wait() // until the server has noticed who left
			most = max(most, now.Load())
		}
		if most != 4 {
			t.Errorf("%d queries at once, want 4", most)
		}
		if got := m.take(); len(got) != 2*8 {
			t.Errorf("%d readings of the other server in two minutes, want 16", len(got))
		}
		if m.metric(t, "evenkeel_prometheus_query_failures_total", reasonSlots) == 0 {
			t.Error("nobody waited for a slot in vain")
		}
	})
}
