package main

import (
	"math"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// testbed is one server and what became of the requests it was given.
type testbed struct {
	clock
	*server
	ended map[int]time.Duration // by number
	how   map[int]outcome
	hosts *host
	proxy *proxy
}

func newTestbed(workers, queue int) *testbed {
	b := &testbed{ended: map[int]time.Duration{}, how: map[int]outcome{}}
	b.server = newServer(&b.clock, 0, workers, queue, 2)
	b.proxy = &proxy{clock: &b.clock}
	b.hosts = &host{server: b.server}
	return b
}

func (b *testbed) request(number int, work float64, luck float64) *request {
	return &request{arrived: b.clock.now, work: work, luck: luck, proxy: b.proxy, host: b.hosts,
		over: func(_ *request, how outcome) { b.ended[number], b.how[number] = b.clock.now, how }}
}

func (b *testbed) give(number int, work float64) { b.accept(b.request(number, work, 0.5)) }

func TestServerServesInTurn(t *testing.T) {
	b := newTestbed(2, 1)
	b.give(1, 0.2) // 100 ms at speed 2
	b.give(2, 0.4)
	b.give(3, 0.2)
	b.give(4, 0.2)
	if b.how[4] != failed || b.ended[4] != 0 {
		t.Error("a full queue does not refuse")
	}
	b.passes(time.Second)
	for n, want := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 3: 200 * time.Millisecond} {
		if b.ended[n] != want || b.how[n] != succeeded {
			t.Errorf("request %d ended at %v (%v), want %v", n, b.ended[n], b.how[n], want)
		}
	}
	if b.said.done != 3 || b.said.failed != 1 || b.said.inFlight != 0 {
		t.Errorf("counters %v done, %v failed, %v in flight", b.said.done, b.said.failed, b.said.inFlight)
	}
}

func TestStealIsSeenOrNot(t *testing.T) {
	for _, test := range []struct {
		visible, hidden, took, cpu float64
	}{{0, 0, 0.1, 0.1}, {0.5, 0, 0.2, 0.2}, {0, 0.5, 0.2, 0.1}} {
		b := newTestbed(1, 10)
		b.visible, b.hidden = test.visible, test.hidden
		b.give(1, 0.2)
		b.passes(time.Second)
		b.account()
		if got := b.ended[1].Seconds(); math.Abs(got-test.took) > 1e-6 {
			t.Errorf("steal %v, %v: took %v s, want %v", test.visible, test.hidden, got, test.took)
		}
		if math.Abs(b.said.cpuSeconds()-test.cpu) > 1e-6 || math.Abs(b.busy.Seconds()-test.took) > 1e-6 {
			t.Errorf("steal %v, %v: CPU %v s, want %v; in use %v s, want %v", test.visible, test.hidden, b.said.cpuSeconds(), test.cpu, b.busy.Seconds(), test.took)
		}
	}
}

func TestPauseDelaysAllAndCostsNoCPU(t *testing.T) {
	b := newTestbed(1, 10)
	b.give(1, 0.2)
	b.give(2, 0.2)
	b.passes(50 * time.Millisecond)
	b.pause(400 * time.Millisecond)
	b.passes(time.Second)
	b.account()
	if b.ended[1] != 500*time.Millisecond || b.ended[2] != 600*time.Millisecond {
		t.Errorf("ended at %v and %v, want 500ms and 600ms", b.ended[1], b.ended[2])
	}
	if math.Abs(b.said.cpuSeconds()-0.2) > 1e-6 {
		t.Errorf("CPU %v s, want 0.2", b.said.cpu)
	}
}

func TestBlackHoleSwallows(t *testing.T) {
	b := newTestbed(1, 10)
	b.blackHole = true
	r := b.request(1, 0.2, 0.5)
	b.accept(r)
	b.passes(time.Second)
	if b.said.inFlight != 1 || len(b.how) != 0 {
		t.Fatalf("in flight %d, outcomes %v", b.said.inFlight, b.how)
	}
	r.timeout()
	if b.said.inFlight != 0 || b.how[1] != timedOut {
		t.Errorf("in flight %d, outcome %v after the deadline", b.said.inFlight, b.how[1])
	}
}

func TestFastErrorsFailByLuck(t *testing.T) {
	b := newTestbed(1, 10)
	b.errorRate = 0.3
	b.accept(b.request(1, 0.2, 0.29))
	b.accept(b.request(2, 0.2, 0.31))
	b.passes(time.Second)
	if b.how[1] != failed || b.ended[1] != failsIn || b.how[2] != succeeded {
		t.Errorf("%v at %v, %v", b.how[1], b.ended[1], b.how[2])
	}
}

func TestAbandonedWorkGoesOn(t *testing.T) {
	b := newTestbed(1, 10)
	r := b.request(1, 4, 0.5)
	b.accept(r)
	b.clock.at(deadline, r.timeout)
	b.passes(3 * time.Second)
	if b.how[1] != timedOut || b.ended[1] != deadline || b.said.done != 1 || b.hosts.active != -1 {
		t.Errorf("%v at %v, %v done, active %d", b.how[1], b.ended[1], b.said.done, b.hosts.active)
	}
}

func TestRestartLosesWorkAndIsCold(t *testing.T) {
	b := newTestbed(1, 10)
	b.give(1, 0.2)
	b.give(2, 0.2)
	b.stop()
	if b.how[1] != failed || b.how[2] != failed {
		t.Error("a stopped process answers")
	}
	b.give(3, 0.2)
	if b.how[3] != failed {
		t.Error("a process that is down accepts")
	}
	b.passes(time.Second)
	b.start()
	if got := b.rate(); math.Abs(got-2./coldSlowdown) > 1e-9 {
		t.Errorf("rate %v when cold", got)
	}
	if b.instance != 1 || b.said.done != 0 || b.said.failed != 0 {
		t.Errorf("instance %d, counters %+v", b.instance, b.said)
	}
	b.served = 10 * coldRequests
	if got := b.rate(); math.Abs(got-2) > 0.01 {
		t.Errorf("rate %v when warm", got)
	}
	b.give(4, 0.2)
	b.passes(time.Second)
	if b.how[4] != succeeded {
		t.Error("the new process does not serve")
	}
}

func TestScrapeReadsAWindow(t *testing.T) {
	b := newTestbed(2, 100)
	c := &scraper{server: b.server}
	load := func() { // one worker of two is busy
		for i := range 20 {
			b.clock.at(b.clock.now+time.Duration(i)*100*time.Millisecond, func() { b.give(0, 0.2) })
		}
		b.passes(2 * time.Second)
	}
	c.scrape()
	if !c.latest.To.IsZero() {
		t.Fatal("a reading of one scrape")
	}
	for range 5 {
		load()
		c.scrape()
	}
	r := c.latest
	if got := r.To.Sub(r.From); got != 6*time.Second {
		t.Fatalf("window %v", got)
	}
	if math.Abs(r.Done-60) > 1 || math.Abs(r.CPU-0.5) > 0.01 || r.Failed != 0 {
		t.Errorf("done %v, CPU %v, failed %v; want 60, 0.5, 0", r.Done, r.CPU, r.Failed)
	}
	if !r.Terms.Has(signals.TermRequests|signals.TermErrors|signals.TermCPU|signals.TermInFlight|signals.TermLatency) ||
		math.Abs(r.P50.Seconds()-0.1) > 0.01 || math.Abs(r.P90.Seconds()-0.1) > 0.01 {
		t.Errorf("terms %b, P50 %v, P90 %v", r.Terms, r.P50, r.P90)
	}
	b.saidCPU = 0.01
	load()
	c.scrape()
	if c.latest.CPU != 0.01 {
		t.Errorf("CPU %v of a liar", c.latest.CPU)
	}
	was := c.latest
	b.mute = true
	load()
	c.scrape()
	if c.latest != was {
		t.Error("a scrape that fails gives a reading")
	}
	b.mute = false
	b.stop()
	b.start()
	c.scrape()
	if c.latest != was {
		t.Error("a window reaches over a restart")
	}
}

func (b *testbed) passes(d time.Duration) { b.clock.run(b.clock.now + d) }
