package lrs

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/signals"
)

const (
	interval = 5 * time.Second
	fresh    = 12500 * time.Millisecond
)

// What Envoys report is added up by endpoint, each report over its own interval.
func TestReportsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, cart())
		defer m.stop()
		one, two := m.connect("envoy-1", edge), m.connect("envoy-2", edge)
		defer one.close()
		defer two.close()
		one.report(statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 40, 10, 55, 3), endpointOf("10.0.0.2", 8080, 7, 0, 7, 0)))
		time.Sleep(time.Millisecond)
		two.report(statsOf(shop, 10*time.Second, endpointOf("10.0.0.1", 8080, 20, 0, 20, 2)))
		at := time.Now()

		got := m.take(interval)
		// The window is that of the latest report: what the other counted in 5 s counts twice.
		want := signals.Reported{
			From: at.Add(-10 * time.Second), To: at, SourceInterval: interval, All: true,
			Done: 100, Failed: 20, Issued: 130, InFlight: 5,
		}
		if got[a] != want {
			t.Errorf("%+v\nwant %+v", got[a], want)
		}
		if r := got[b]; r.Done != 14 || r.Failed != 0 || !r.All {
			t.Errorf("%+v, want 14 done", r)
		}
		if again := m.take(interval); len(again) != 0 {
			t.Errorf("%v without a new report", again)
		}
		if target := m.Targets()[0]; target.Health != signals.Up || target.LastError != "" || target.Samples != 3 || !target.LastScrape.Equal(at) {
			t.Errorf("%+v", target)
		}
	})
}

// A report is fresh for two and a half intervals. All is true while every node that takes the endpoints
// has a fresh one.
func TestWhoHasReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, cart())
		defer m.stop()
		m.take(interval)
		if target := m.Targets()[0]; target.Health != signals.Unknown {
			t.Errorf("nobody is there: %+v", target)
		}
		one, two := m.connect("envoy-1", edge), m.connect("envoy-2", edge)
		defer one.close()
		m.take(interval)
		if target := m.Targets()[0]; target.Health != signals.Down || !strings.Contains(target.LastError, "none of the 2 nodes") {
			t.Errorf("nobody reports: %+v", target)
		}
		busy := statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 10, 0, 10, 0))
		one.report(busy)
		if got := m.take(interval); got[a].All || got[a].Done != 10 {
			t.Errorf("one of two: %+v", got[a])
		}
		if target := m.Targets()[0]; target.Health != signals.Up || !strings.Contains(target.LastError, "1 of the 2 nodes") {
			t.Errorf("one of two: %+v", target)
		}
		one.report(busy)
		two.report(statsOf(shop, interval)) // idle
		if got := m.take(interval); !got[a].All || got[a].Done != 10 {
			t.Errorf("both: %+v", got[a])
		}
		one.report(busy)
		if got := m.take(interval); !got[a].All {
			t.Errorf("the last report of the other is fresh: %+v", got[a])
		}
		time.Sleep(fresh - 2*interval)
		one.report(busy)
		if got := m.take(interval); got[a].All {
			t.Errorf("the last report of the other is old: %+v", got[a])
		}
		// It goes: who is not there need not report.
		two.close()
		m.ads("envoy-2", edge, -1)
		one.report(busy)
		if got := m.take(interval); !got[a].All {
			t.Errorf("the other has left: %+v", got[a])
		}
	})
}

// Two Envoys may have the same name: each must report.
func TestNamesakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, cart())
		defer m.stop()
		one, two := m.connect("envoy", edge), m.connect("envoy", edge)
		defer one.close()
		defer two.close()
		busy := statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 10, 0, 10, 0))
		one.report(busy)
		if got := m.take(interval); got[a].All {
			t.Errorf("one of two: %+v", got[a])
		}
		one.report(busy)
		two.report(busy)
		if got := m.take(interval); !got[a].All || got[a].Done != 20 {
			t.Errorf("both: %+v", got[a])
		}
	})
}

// A stream that ended leaves its last report behind while that is fresh, until its node reports anew.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, cart())
		defer m.stop()
		busy := statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 10, 0, 10, 0))
		one, two := m.connect("envoy-1", edge), m.connect("envoy-2", edge)
		defer two.close()
		one.report(busy)
		one.close()
		two.report(busy)
		if got := m.take(interval); got[a].Done != 20 || !got[a].All {
			t.Errorf("after its end: %+v", got[a])
		}
		one = m.dial(&corev3.Node{Id: "envoy-1", Cluster: edge})
		defer one.close()
		two.report(busy)
		one.report(busy)
		if got := m.take(interval); got[a].Done != 20 || !got[a].All {
			t.Errorf("after its return: %+v", got[a])
		}
	})
}

// What is not asked for, or not by whom it should be, is counted and dropped, by itself.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := Spec{Service: "bank/vault:80", Fleets: []string{"bank/gate", "eds:bank"}, Endpoints: []string{a}}
		m := start(t, cart(), other)
		defer m.stop()
		busy := statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 10, 0, 10, 0))

		stranger := m.dial(&corev3.Node{Id: "envoy-9", Cluster: edge})
		defer stranger.close()
		stranger.report(busy)
		if got := m.take(interval); len(got) != 0 || m.dropped(reasonNotConnected) != 1 {
			t.Errorf("a node without ADS: %v, %v dropped", got, m.dropped(reasonNotConnected))
		}
		// As soon as it has its ADS stream it counts.
		m.ads("envoy-9", edge, 1)
		stranger.report(busy)
		if got := m.take(interval); got[a].Done != 10 {
			t.Errorf("connected: %v", got)
		}

		for reason, report := range map[string]func(*client){
			reasonCluster: func(c *client) {
				c.report(statsOf("bank/vault:80", interval, endpointOf("10.0.0.1", 8080, 1, 0, 1, 0)), busy)
			},
			reasonInterval: func(c *client) {
				c.report(statsOf(shop, time.Hour, endpointOf("10.0.0.1", 8080, 1, 0, 1, 0)))
				c.report(busy)
			},
			reasonEndpoint: func(c *client) {
				c.report(statsOf(shop, interval, endpointOf("10.9.9.9", 8080, 99, 0, 1, 0), endpointOf("10.0.0.1", 8080, 10, 0, 10, 0)))
			},
			reasonValue: func(c *client) {
				c.report(statsOf(shop, interval, endpointOf("10.0.0.2", 8080, 1<<63, 0, 1, 0), endpointOf("10.0.0.1", 8080, 10, 0, 10, 0)))
			},
			reasonTooLarge: func(c *client) { c.report(statsOf(strings.Repeat("x", maxName+1), interval)); c.report(busy) },
		} {
			before := m.dropped(reason)
			report(stranger)
			got := m.take(interval)
			if m.dropped(reason) != before+1 || got[a].Done != 10 || got[b].Done != 0 {
				t.Errorf("%s: %v dropped, want 1 more than %v; %+v", reason, m.dropped(reason), before, got)
			}
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, cart())
		defer m.stop()
		m.options.MaxValues = 3
		both := statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 10, 0, 10, 0), endpointOf("10.0.0.2", 8080, 10, 0, 10, 0))
		one, two := m.connect("envoy-1", edge), m.connect("envoy-2", edge)
		defer one.close()
		defer two.close()
		for range 3 { // what a report replaces makes room for it
			one.report(both)
		}
		two.report(both)
		if got := m.take(interval); m.dropped(reasonFull) != 1 || got[a].Done != 10 || got[a].All {
			t.Errorf("%v dropped, %+v; want the second's alone", m.dropped(reasonFull), got[a])
		}
		m.SetTargets(nil)
		if m.values != 0 || len(m.services) != 0 {
			t.Errorf("%d values of %d services are kept of none", m.values, len(m.services))
		}
	})
}

// A stream is silent until a policy wants reports of its fleet, is asked by name for what it is served,
// and anew when that changes.
func TestAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.stop()
		one := m.connect("envoy-1", edge, sendsAllClusters)
		defer one.close()
		if one.last() != nil {
			t.Errorf("asked for %v, want silence", one.last())
		}
		pay := Spec{Service: "shop/pay:80", Fleets: []string{edge, "eds:shop"}, Endpoints: []string{b}}
		m.SetTargets([]Spec{cart(), {Service: "bank/vault:80", Fleets: []string{"bank/gate"}}})
		synctest.Wait()
		ask := one.last()
		if ask == nil || strings.Join(ask.Clusters, " ") != shop || ask.SendAllClusters || !ask.ReportEndpointGranularity || ask.LoadReportingInterval.AsDuration() != interval {
			t.Fatalf("asked for %v", ask)
		}
		m.SetTargets([]Spec{cart(), pay})
		synctest.Wait()
		if ask := one.last(); strings.Join(ask.Clusters, " ") != shop+" shop/pay:80" {
			t.Errorf("asked for %v", ask)
		}
		// Endpoints come and go: nobody is asked anew.
		scaled := cart()
		scaled.Endpoints = scaled.Endpoints[:1]
		m.SetTargets([]Spec{scaled, pay})
		synctest.Wait()
		if len(one.asked) != 2 {
			t.Errorf("asked %d times, want 2", len(one.asked))
		}
		m.SetTargets(nil)
		synctest.Wait()
		if ask := one.last(); len(ask.Clusters) != 0 || ask.LoadReportingInterval.AsDuration() != unasked {
			t.Errorf("nothing is wanted, asked for %v", ask)
		}

		// Who has clusters of its own names them as it likes: by their EDS service name they are known.
		m.SetTargets([]Spec{cart()})
		own := m.connect("app-1", "eds:shop", sendsAllClusters)
		defer own.close()
		old := m.connect("app-2", "eds:shop")
		defer old.close()
		if !own.last().SendAllClusters || len(own.last().Clusters) != 0 || strings.Join(old.last().Clusters, " ") != shop {
			t.Errorf("asked for %v and %v", own.last(), old.last())
		}
		mine := statsOf("cart", interval, endpointOf("10.0.0.1", 8080, 10, 0, 10, 0))
		mine.ClusterServiceName = shop
		canary := statsOf("canary", interval, endpointOf("10.0.0.1", 8080, 1, 0, 1, 0))
		canary.ClusterServiceName = shop
		own.report(mine, canary, statsOf("xds", interval))
		old.report(statsOf(shop, interval))
		m.ads("envoy-1", edge, -1)
		if got := m.take(interval); got[a].Done != 11 || !got[a].All || m.dropped(reasonCluster) != 0 {
			t.Errorf("%+v, %v clusters dropped", got[a], m.dropped(reasonCluster))
		}
	})
}

func TestStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, cart())
		defer m.stop()
		nameless := m.dial(&corev3.Node{Cluster: edge})
		if err := <-nameless.served; status.Code(err) != codes.InvalidArgument {
			t.Errorf("a stream without a node: %v", err)
		}
		nameless.end()

		// A panic of the receiving goroutine is raised in the stream's own.
		c := &client{send: make(chan *loadv3.LoadStatsRequest), served: make(chan error, 1)}
		c.ctx, c.end = context.WithCancel(context.Background())
		raised := make(chan any)
		go func() {
			defer func() { raised <- recover() }()
			_ = m.ServeLoadReports(c.ctx, c, anyFleet)
		}()
		c.send <- nil
		if cause, _ := (<-raised).(string); !strings.Contains(cause, "a defect") || !strings.Contains(cause, "RecvMsg") {
			t.Errorf("raised %v", cause)
		}
		c.end()
		synctest.Wait()
		if len(m.reporters) != 0 {
			t.Errorf("%d streams are remembered", len(m.reporters))
		}
	})
}

// An endpoint that left and came back is another: no report from before counts for it.
func TestEndpointsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, cart())
		defer m.stop()
		one := m.connect("envoy-1", edge)
		defer one.close()
		one.report(statsOf(shop, interval, endpointOf("10.0.0.1", 8080, 10, 0, 10, 0), endpointOf("10.0.0.2", 8080, 7, 0, 7, 0)))
		without := cart()
		without.Endpoints = []string{b}
		m.SetTargets([]Spec{without})
		m.SetTargets([]Spec{cart()})
		if got := m.take(interval); got[a].Done != 0 || got[b].Done != 7 || len(got) != 2 {
			t.Errorf("%+v", got)
		}
	})
}
