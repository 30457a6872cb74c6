package test

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/limittest"
)

// window is for how long a row of TestLimitExamples asks; minute is what stands for a minute in it.
const (
	window = 4 * time.Second
	minute = 2 * time.Second
)

// TestLimitExamples runs each directory of examples/limits on a real Envoy, with a minute of two seconds, and
// counts at the client what is let through: the burst and the rate times the time, within 2 %.
func TestLimitExamples(t *testing.T) {
	for _, example := range []struct {
		dir  string
		rows []row
		edit []string // pairs of what is replaced in the files
	}{
		{dir: "tenant-quota", rows: []row{
			{name: "a tenant", headers: with("X-Tenant-ID", "acme"), admits: rate(100, time.Second, 200)},
			{name: "its other method", method: "POST", headers: with("X-Tenant-ID", "acme"), admits: rate(100, time.Second, 200)},
			{name: "another tenant", headers: with("X-Tenant-ID", "umbrella"), admits: rate(100, time.Second, 200)},
			{name: "nobody's", admits: rate(100, time.Second, 200)},
		}},
		{dir: "tenant-quota", edit: []string{"requests: 500,", "requests: 50,"}, rows: []row{
			{name: "all of the namespace's environment", headers: with("X-Tenant-ID", "acme"), admits: rate(50, time.Second, 50)},
		}},
		{dir: "per-ip", rows: []row{
			{name: "an address", from: "127.0.0.1", admits: rate(100, minute, 100)},
			{name: "another", from: "127.0.0.2", admits: rate(100, minute, 100)},
		}},
		{dir: "tiers", rows: []row{
			{name: "free", headers: with("X-Tier", "free", "X-Tenant-ID", "a"), admits: rate(10, minute, 10)},
			{name: "default", headers: with("X-Tier", "basic", "X-Tenant-ID", "b"), admits: rate(100, minute, 100),
				refusal: http.Header{"X-Upgrade": {"https://shop.example.com/plans"}}, body: "This is more than your plan includes."},
			{name: "vip", headers: with("X-Tier", "vip", "X-Tenant-ID", "c"), admits: rate(500, minute, 500), offered: 600},
			{name: "unlimited", headers: with("X-Tier", "none", "X-Tenant-ID", "status-page"), admits: everything},
			{name: "no tier", headers: with("X-Tenant-ID", "d"), admits: nothing},
		}},
		{dir: "methods", rows: []row{
			{name: "a version's reads", headers: with("X-API-Version", "2"), admits: rate(50, time.Second, 50)},
			{name: "reads without one", admits: rate(50, time.Second, 50)},
			{name: "an agent's deletes", method: "DELETE", headers: with("User-Agent", "some-agent/1"), admits: everything},
			{name: "writes", method: "POST", headers: with("X-API-Version", "2"), admits: everything},
		}},
		{dir: "soft-and-hard", rows: []row{
			{name: "over both", headers: with("X-Tenant-ID", "acme"), admits: rate(100, time.Second, 100)},
			{name: "over the soft one", headers: with("X-Tenant-ID", "umbrella"), offered: 70, admits: everything},
		}},
		{dir: "canary", edit: []string{"weight: 95}", "weight: 50}", "weight: 5}", "weight: 50}", "requests: 300,", "requests: 40,"}, rows: []row{
			{name: "to the canary", answeredBy: 2, admits: rate(40, minute, 40)},
		}},
	} {
		t.Run(example.dir, func(t *testing.T) {
			r := newRig(t, 0)
			r.limitExample(example.dir, example.edit...)
			r.start("--rls-timeout", "2s")
			r.startEnvoy("shop/edge")
			r.eventually("the listener answers", func() error {
				if got := r.get("/"); got != 200 && got != 403 && got != 429 {
					return fmt.Errorf("status %d", got)
				}
				return nil
			})
			// What was asked before must not be in a counter.
			time.Sleep(minute)
			var rows sync.WaitGroup
			for _, row := range example.rows {
				rows.Go(func() { r.judge(row) })
			}
			rows.Wait()
		})
	}
}

// TestStreamsAreCounted runs examples/limits/streams: of an address three streams at a time, however many it asks
// for, and others when those have ended. What is no stream is not counted.
func TestStreamsAreCounted(t *testing.T) {
	r := newRig(t, 0)
	r.limitExample("streams")
	for _, b := range r.backends {
		if err := b.SetSpeed(1. / 2000); err != nil { // a stream of two seconds
			t.Fatal(err)
		}
	}
	r.start("--rls-timeout", "2s")
	r.startEnvoy("shop/edge")
	open := func(accept string, n int) map[int]int {
		statuses := make(chan int, n)
		for range n {
			go func() {
				req, err := http.NewRequestWithContext(t.Context(), "GET", r.url("/"), nil)
				if err != nil {
					panic(err)
				}
				req.Header.Set("Accept", accept)
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					statuses <- 0
					return
				}
				defer resp.Body.Close()
				_, _ = io.Copy(io.Discard, resp.Body)
				statuses <- resp.StatusCode
			}()
		}
		counted := map[int]int{}
		for range n {
			counted[<-statuses]++
		}
		return counted
	}
	r.eventually("a stream is answered", func() error {
		if got := open("text/event-stream", 1); got[200] != 1 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	for range 2 {
		// The end of the last one reaches the service after its client.
		r.eventually("three of eight streams are let through", func() error {
			if got := open("text/event-stream", 8); got[200] != 3 || got[429] != 5 {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
	if got := open("text/html", 8); got[200] != 8 {
		t.Errorf("requests that are no streams: %v", got)
	}
}

// row is what one client sends, and what of it is let through.
type row struct {
	name    string
	method  string
	from    string // the client's address
	headers http.Header
	offered float64 // requests/s; 0: 220
	// answeredBy says that only what that backend answers, and what is refused, is of this row; 0: all is.
	answeredBy int
	admits     limittest.Quota
	// refusal and body are what a refused request is answered with.
	refusal http.Header
	body    string
}

func with(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

var everything, nothing = limittest.Quota{Per: time.Second, Burst: math.Inf(1)}, limittest.Quota{Per: time.Second}

func rate(requests float64, per time.Duration, burst float64) limittest.Quota {
	return limittest.Quota{Requests: requests, Per: per, Burst: burst}
}

// judge sends the requests of a row for a window and compares what was let through: with what of them would be
// if each came when it was sent, and if each came when it was answered.
func (r *rig) judge(row row) {
	r.t.Helper()
	row.offered = cmp.Or(row.offered, 220)
	c := r.flood(row)
	got, ifSent, ifAnswered := float64(c.admitted), row.admits.Admits(c.sent), row.admits.Admits(c.answered)
	least, most := min(ifSent, ifAnswered), max(ifSent, ifAnswered)
	say := r.t.Logf
	if got < least-max(1.5, 0.02*least) || got > most+max(1.5, 0.02*most) {
		say = r.t.Errorf
	}
	q := row.admits
	say("%s: %v of %d requests in %.2fs were let through, want %v to %v (%v + %v per %v makes %.1f); answers %v", row.name, got,
		len(c.sent), c.took.Seconds(), least, most, q.Burst, q.Requests, q.Per, q.Burst+q.Requests*c.took.Seconds()/q.Per.Seconds(), c.statuses)
	if (c.refused == nil) != (q == everything) {
		r.t.Errorf("%s: refused is %v", row.name, c.refused)
	}
	if c.refused == nil || c.refused.StatusCode != http.StatusTooManyRequests {
		return
	}
	for _, name := range []string{"Retry-After", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"} {
		if c.refused.Header.Get(name) == "" {
			r.t.Errorf("%s: a refusal has no %s: %v", row.name, name, c.refused.Header)
		}
	}
	for name := range row.refusal {
		if got, want := c.refused.Header.Get(name), row.refusal.Get(name); got != want {
			r.t.Errorf("%s: a refusal has %s %q, want %q", row.name, name, got, want)
		}
	}
	if row.body != "" && c.refusedBody != row.body {
		r.t.Errorf("%s: a refusal says %q, want %q", row.name, c.refusedBody, row.body)
	}
}

// counted is what a client saw: when it sent its requests and when they were answered, in no order.
type counted struct {
	sent, answered []time.Time
	took           time.Duration
	admitted       int
	statuses       map[int]int
	refused        *http.Response
	refusedBody    string
}

// flood sends the requests of a row at its rate for a window, and on until one is refused where some are to be.
func (r *rig) flood(row row) counted {
	const clients = 8
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	if row.from != "" {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(row.from)}}
		transport.DialContext = dialer.DialContext
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	c := counted{statuses: map[int]int{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	began := time.Now()
	for range clients {
		all.Go(func() {
			pace := time.NewTicker(time.Duration(clients / row.offered * float64(time.Second)))
			defer pace.Stop()
			for over := false; !over; <-pace.C {
				req, err := http.NewRequestWithContext(r.t.Context(), row.method, r.url("/"), nil)
				if err != nil {
					r.t.Error(err)
					return
				}
				maps.Copy(req.Header, row.headers)
				sent := time.Now()
				resp, err := client.Do(req)
				if err != nil {
					r.t.Errorf("%s: %v", row.name, err)
					return
				}
				answered := time.Now()
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				ok := resp.StatusCode == http.StatusOK
				mu.Lock()
				c.statuses[resp.StatusCode]++
				if !ok || row.answeredBy == 0 || resp.Header.Get("X-Demo-Backend") == netip.AddrPortFrom(r.address(row.answeredBy), r.ports.backend).String() {
					c.sent, c.answered, c.took = append(c.sent, sent), append(c.answered, answered), answered.Sub(began)
					if ok {
						c.admitted++
					}
				}
				if !ok && c.refused == nil {
					c.refused, c.refusedBody = resp, string(body)
				}
				over = answered.Sub(began) > window && (row.admits.Requests == 0 || c.refused != nil) || answered.Sub(began) > 5*window
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return c
}

// limitExample writes a directory of examples/limits with three backends that have time for everybody.
func (r *rig) limitExample(dir string, edit ...string) {
	r.t.Helper()
	r.limitExampleOn(demo.BackendConfig{Workers: 64, Work: demo.Distribution{Shape: demo.Deterministic, Mean: time.Millisecond}}, 3)
	r.writeLimitExample(dir, edit...)
}

// limitExampleOn starts the backends of an example.
func (r *rig) limitExampleOn(config demo.BackendConfig, n int) {
	r.t.Helper()
	r.ports.backend = r.freePort(r.address(0), r.address(1), r.address(2))
	for i := range n {
		r.addBackend(i, config)
	}
}

// writeLimitExample writes a directory of examples/limits, in one file, with the addresses of this rig and a short
// minute. What the service cannot be asked about is refused, so that a machine that is too slow does not let more through.
func (r *rig) writeLimitExample(dir string, edit ...string) {
	r.t.Helper()
	replace := strings.NewReplacer(append(edit,
		"127.0.3.1", r.address(0).String(), "127.0.3.2", r.address(1).String(), "127.0.3.3", r.address(2).String(),
		"port: 8080", fmt.Sprintf("port: %d", r.ports.backend), "port: 8000", fmt.Sprintf("port: %d", r.ports.listener),
		"per: 1m", "per: "+minute.String(), "\n  limits:", "\n  onError: Deny\n  limits:")...)
	files, err := filepath.Glob(filepath.Join("..", "examples", "limits", dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		r.t.Fatalf("no files in examples/limits/%s: %v", dir, err)
	}
	var objects []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			r.t.Fatal(err)
		}
		objects = append(objects, replace.Replace(string(content)))
	}
	r.write("example.yaml", strings.Join(objects, "\n---\n"))
}
