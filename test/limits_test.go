package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
)

// limited writes a LimitPolicy on the route of the rig's base.
func (r *rig) limited(onError, limits string) {
	r.t.Helper()
	r.write("limits.yaml", `apiVersion: evenkeel.io/v1alpha1
kind: LimitPolicy
metadata: {name: api, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}]
  onError: `+onError+`
  limits:
`+limits)
}

// ask sends a request with headers, "name: value", and returns the answer without its body.
func (r *rig) ask(path string, headers ...string) *http.Response {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url(path), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	request.Close = r.alone
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
	return response
}

// admits sends n requests, one after the other, of which so many are to get a 200 and the others a 429. On a
// machine that is busy with other things a few may not be answered within Envoy's patience, and get a 503: they
// may have been counted.
func (r *rig) admits(n, want int, tenant, why string) {
	r.t.Helper()
	ok, unknown := 0, 0
	for range n {
		switch code := r.ask("/", "X-Tenant: "+tenant).StatusCode; code {
		case http.StatusOK:
			ok++
		case http.StatusTooManyRequests:
		case http.StatusServiceUnavailable:
			unknown++
		default:
			r.t.Fatalf("status %d, want 200 or 429", code)
		}
	}
	if ok > want || ok+unknown < want {
		r.t.Errorf("%s: %d of %d requests were admitted and %d not answered, want %d", why, ok, n, unknown, want)
	}
}

const perTenant = "  - {name: tenant, key: [header:X-Tenant], rate: {requests: %d, per: 1h}}\n"

// TestALimitFollowsItsFile: what a file says holds for the next request, without a connection drained or a count
// lost; a restart without the objects limits as before; and a rollback takes limits back too.
func TestALimitFollowsItsFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice("", 0, 1))
	r.limited("Deny", fmt.Sprintf(perTenant, 10))
	r.start("--rls-timeout", "2s") // what is asked for is counted
	r.startEnvoy("shop/edge")
	r.eventually("the limit is in force", func() error { return r.limitIs("10", "first") })
	r.admits(15, 10, "a", "a tenant with 10")
	r.admits(5, 5, "b", "another one")
	r.eventually("a refusal says when to come again", func() error {
		if h := r.ask("/", "X-Tenant: a").Header; h.Get("retry-after") == "" || h.Get("x-ratelimit-remaining") != "0" {
			return fmt.Errorf("it has the headers %v", h)
		}
		return nil
	})

	drained, updated := r.stat("http.shop/edge/%d.downstream_cx_drain_close"), r.stat("listener_manager.lds.update_success")
	r.limited("Deny", fmt.Sprintf(perTenant, 14))
	took := r.within(time.Minute, "the raised limit holds", func() error { return r.limitIs("14", "c") })
	t.Logf("%v from the file to the first different answer", took)
	// What is used up stays used up: all of it, and half of it.
	r.admits(3, 0, "a", "a tenant that used 10 of 10, when it became 14")
	r.admits(10, 7, "b", "a tenant that used 5 of 10, when it became 14")
	r.limited("Deny", fmt.Sprintf(perTenant, 4))
	r.eventually("the lowered limit holds", func() error { return r.limitIs("4", "d") })
	r.admits(2, 0, "b", "a tenant that used up all, under a lower limit")
	if got := r.stat("http.shop/edge/%d.downstream_cx_drain_close"); got != drained {
		t.Errorf("%v connections were drained", got-drained)
	}
	if got := r.stat("listener_manager.lds.update_success"); got != updated {
		t.Errorf("the listeners were sent %v times", got-updated)
	}

	// Back to the generation in which it was 14.
	r.run("rollback", "shop/edge", fmt.Sprint(r.generation()-1), "--admin", r.adminURL(""))
	r.eventually("the limit of the generation before holds", func() error { return r.limitIs("14", "d") })

	// Nobody reads the objects any more: what was served is, with its limits.
	r.plane.Stop(10 * time.Second)
	r.config = t.TempDir()
	r.launch("/healthz")
	r.eventually("requests are limited after a restart without objects", func() error { return r.limitIs("14", "e") })
}

// TestFixedWindows: whoever asks for windows gets no bursts.
func TestFixedWindows(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice("", 0))
	r.limited("Deny", "  - {name: tenant, key: [header:X-Tenant], rate: {requests: 6, per: 24h, burst: 30}}\n")
	r.start("--rls-fixed-windows")
	r.startEnvoy("shop/edge")
	r.eventually("the limit is in force", func() error { return r.limitIs("6", "first") })
	r.admits(20, 6, "a", "six in a window")
	if out := string(r.run("limits", "--admin", r.adminURL(""))); !strings.Contains(out, "/s, in windows") {
		t.Errorf("limits shows\n%s", out)
	}
}

// TestProxyLimitsSayWhereTheyAreCounted: the statistics that /limits names are those in which Envoy counts.
func TestProxyLimitsSayWhereTheyAreCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.write("base.yaml", r.base())
	r.write("route.yaml", route(toCart))
	r.write("slice.yaml", r.slice("", 0))
	r.limited("Deny", `  - {name: tenant, key: [header:X-Tenant], rate: {requests: 4, per: 24h}, scope: Proxy}
  - {name: all, rate: {requests: 1, per: 24h}, scope: Proxy, mode: Shadow}
`)
	r.start("--rls-address", "") // nobody else counts
	r.startEnvoy("shop/edge")
	var view admin.LimitsView
	if err := demo.GetJSON(t.Context(), r.adminURL("/limits"), &view); err != nil {
		t.Fatal(err)
	}
	if len(view.Limits) != 2 || view.Limits[0].Statistics == nil {
		t.Fatalf("/limits shows %+v, want two limits and where they are counted", view.Limits)
	}
	prefix := view.Limits[0].Statistics.Prefix
	count := func() (counts [3]int) {
		for i, suffix := range []string{"enabled", "enforced", "shadow_mode"} {
			counts[i] = r.stat("^" + prefix + "." + suffix + "$")
		}
		return counts
	}
	r.eventually("the limits are in force", func() error {
		r.ask("/", "X-Tenant: first") // it also takes what there is in Shadow
		if count()[0] == 0 {
			return errors.New("nothing is counted")
		}
		return nil
	})
	before := count()
	r.admits(10, 4, "a", "four in a day")
	after := count()
	for i, want := range [3]int{10, 6, 4} {
		if got := after[i] - before[i]; got != want {
			t.Errorf("of 10 requests, of which 6 are refused and the others would be, Envoy counts %v before and %v after", before, after)
			break
		}
	}
	out := string(r.run("limits", "--admin", r.adminURL("")))
	for i, l := range view.Limits {
		if l.Statistics == nil || l.Statistics.Prefix != prefix || !slices.Equal(l.Statistics.Shared, []string{view.Limits[1-i].Rule}) {
			t.Errorf("%s is counted in %+v, want %s together with the other", l.Rule, l.Statistics, prefix)
		}
	}
	if strings.Count(out, prefix) != 2 {
		t.Errorf("limits does not say where they are counted:\n%s", out)
	}
}

// limitIs says whether a tenant is told of that limit.
func (r *rig) limitIs(limit, tenant string) error {
	r.t.Helper()
	response := r.ask("/", "X-Tenant: "+tenant)
	if got, _, _ := strings.Cut(response.Header.Get("x-ratelimit-limit"), ","); got != limit {
		return fmt.Errorf("status %d, x-ratelimit-limit %q", response.StatusCode, response.Header.Get("x-ratelimit-limit"))
	}
	return nil
}

// stat is a counter of Envoy's; %d stands for the listener's port.
func (r *rig) stat(name string) int {
	r.t.Helper()
	if strings.Contains(name, "%d") {
		name = fmt.Sprintf(name, r.ports.listener)
	}
	var stats struct {
		Stats []struct {
			Name  string
			Value int
		}
	}
	if err := demo.GetJSON(r.t.Context(), "http://"+loopback(r.ports.envoyAdmin)+"/stats?format=json&usedonly&filter="+strings.ReplaceAll(name, "/", "."), &stats); err != nil {
		r.t.Fatal(err)
	}
	sum := 0
	for _, s := range stats.Stats {
		sum += s.Value
	}
	return sum
}

// generation is the number of the newest generation of shop/edge.
func (r *rig) generation() uint64 {
	r.t.Helper()
	var view struct {
		Generations []struct {
			Fleet      string
			Generation uint64
		}
	}
	if err := demo.GetJSON(r.t.Context(), r.adminURL("/history"), &view); err != nil {
		r.t.Fatal(err)
	}
	newest := uint64(0)
	for _, g := range view.Generations {
		newest = max(newest, g.Generation)
	}
	return newest
}

// TestWhenTheRateLimitServiceFails: while it is dead, hangs, or talks nonsense, requests are let pass or refused as
// the policy says, no later than without it; and it heals alone.
func TestWhenTheRateLimitServiceFails(t *testing.T) {
	t.Parallel()
	for onError, want := range map[string]int{"Allow": http.StatusOK, "Deny": http.StatusServiceUnavailable} {
		t.Run(onError, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 1)
			r.write("base.yaml", r.base())
			r.write("route.yaml", route(toCart))
			r.write("slice.yaml", r.slice("", 0))
			r.limited(onError, fmt.Sprintf(perTenant, 1000000))
			// Envoys are told of an address in between, so that what is behind it can be broken.
			between := r.freePort(netip.MustParseAddr("127.0.0.1"))
			r.start("--rls-advertise", loopback(between))
			r.startEnvoy("shop/edge")
			failed := func(why string) {
				t.Helper()
				r.eventually(why, func() error {
					if code := r.ask("/", "X-Tenant: a").StatusCode; code != want || r.ask("/", "X-Tenant: a").Header.Get("x-ratelimit-limit") != "" {
						return fmt.Errorf("status %d", code)
					}
					return nil
				})
				for range 20 {
					if code := r.ask("/", "X-Tenant: a").StatusCode; code != want {
						t.Fatalf("%s: status %d, want %d", why, code, want)
					}
				}
			}
			healthy := func() {
				t.Helper()
				r.eventually("it is asked again", func() error { return r.limitIs("1000000", "b") })
			}
			failed("nobody listens")
			link := r.listenBetween(between, r.ports.limits)
			healthy()
			link.mode.Store(hanging)
			failed("it hangs")
			link.mode.Store(passing)
			healthy()
			link.mode.Store(nonsense)
			failed("it talks nonsense")
			link.mode.Store(passing)
			healthy()
			link.close()
			failed("it is gone")
		})
	}
}

// link passes connections on to a port, or does worse.
type link struct {
	to    atomic.Uint32
	mode  atomic.Int32
	close func()
}

const (
	passing int32 = iota
	hanging
	nonsense
)

func (r *rig) listenBetween(port, to uint16) *link {
	r.t.Helper()
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		r.t.Fatal(err)
	}
	l := &link{}
	l.to.Store(uint32(to))
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open[c] = struct{}{}
	}
	var all sync.WaitGroup
	l.close = sync.OnceFunc(func() {
		listener.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	r.t.Cleanup(l.close)
	all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			keep(c)
			all.Go(func() {
				defer c.Close()
				up, err := net.Dial("tcp", loopback(uint16(l.to.Load())))
				if err != nil {
					return
				}
				keep(up)
				defer up.Close()
				all.Go(func() { _, _ = io.Copy(up, c) })
				buffer := make([]byte, 32<<10)
				for {
					n, err := up.Read(buffer)
					if err != nil {
						return
					}
					switch l.mode.Load() {
					case hanging:
						continue
					case nonsense:
						for i := range buffer[:n] {
							buffer[i] ^= 0x5a
						}
					}
					if _, err := c.Write(buffer[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return l
}
