package signals

import (
	"math"
	"testing"
	"time"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }

var cart = Key{Service: "shop/cart:80", Address: "10.0.0.1:80"}

// page is what a page scraped every 2 s says at a time, of the 6 s before.
func page(seconds, done float64) Reading {
	return Reading{
		Endpoint: cart, From: at(seconds - 6), To: at(seconds), SourceInterval: 2 * time.Second,
		Terms: TermRequests | TermCPU, Done: done, CPU: 0.5,
	}
}

// reported is a load report every 5 s, of the 5 s before.
func reported(seconds, done, failed float64, all bool) Reading {
	n := Reported{
		From: at(seconds - 5), To: at(seconds), SourceInterval: 5 * time.Second,
		All: all, Done: done, Failed: failed, InFlight: 2,
	}
	return Reading{Endpoint: cart, From: n.From, To: n.To, SourceInterval: n.SourceInterval, Reported: n}
}

func TestMerged(t *testing.T) {
	var s Sources
	if r, ok := s.Merged(at(0)); ok {
		t.Errorf("%+v of nothing", r)
	}
	s.Add(page(10, 60))
	if r, ok := s.Merged(at(10)); !ok || r != page(10, 60) {
		t.Errorf("the page alone: %+v", r)
	}
	s.Add(reported(9, 40, 10, true))
	r, _ := s.Merged(at(10))
	want := page(10, 60)
	want.Reported = reported(9, 40, 10, true).Reported
	if r != want {
		t.Errorf("both: %+v\nwant %+v", r, want)
	}
	// The page is gone: load reports alone, in their own window.
	s.Add(reported(14, 30, 5, false))
	r, _ = s.Merged(at(16))
	want = reported(14, 30, 5, false)
	want.Terms, want.Done, want.Failed, want.InFlight = TermRequests|TermErrors|TermInFlight, 30, 5, 2
	want.Reported.Alone = true
	if r != want {
		t.Errorf("load reports alone: %+v\nwant %+v", r, want)
	}
	// They are gone too: what was known last, which says how old it is.
	if r, ok := s.Merged(at(60)); !ok || r != page(10, 60) {
		t.Errorf("nothing fresh: %+v", r)
	}
	// What is not newer changes nothing, and the page is back.
	s.Add(reported(13, 99, 99, true))
	s.Add(page(9, 99))
	s.Add(page(62, 66))
	if r, _ := s.Merged(at(62)); r != page(62, 66) {
		t.Errorf("the page is back: %+v", r)
	}
}

// While load rises the newest page tells of more requests than the newest load reports, which come up to
// two intervals later. Nobody lies, and nobody is taken to.
func TestClaimWhileLoadRises(t *testing.T) {
	total := map[string]func(t float64) float64{ // requests up to a time
		"a slow start": func(t float64) float64 { // 100/s after 30 s, from 10/s
			r := min(30, max(0, t))
			return 10*r + 1.5*r*r + 100*max(0, t-30)
		},
		"a step": func(t float64) float64 { return 10*t + 90*max(0, t-20) },
	}
	for what, total := range total {
		served := func(from, to float64) float64 { return total(to) - total(from) }
		for _, lie := range []float64{1, 4} {
			for _, delay := range []float64{0.1, 2.5, 4.9} { // from a report to the turn in which it is told
				var s Sources
				told := 0
				for now := 0.0; now <= 60; now += 0.1 {
					if k := math.Round(now * 10); math.Mod(k, 20) == 0 && now >= 6 {
						s.Add(page(now, lie*served(now-6, now)))
					}
					if k := math.Round((now - delay) * 10); math.Mod(k, 50) == 0 && k >= 50 {
						s.Add(reported(now-delay, served(now-delay-5, now-delay), 0, true))
					}
					if r, ok := s.Merged(at(now)); ok && r.Reported.Claim > 0 {
						told++
						if c := r.Reported.Claim / lie; c > 1.5 || c < 0.6 {
							t.Errorf("%s: after %.1f s, told %.1f s later: %.2f times as many as reported, want about %v", what, now, delay, r.Reported.Claim, lie)
						}
					}
				}
				if told < 300 {
					t.Errorf("a claim was made %d times, want most of the time", told)
				}
			}
		}
	}
}

func TestClaim(t *testing.T) {
	play := func(pages, reports float64, all func(i int) bool) float64 {
		var s Sources
		for i := range 10 {
			now := 5 * float64(i)
			s.Add(reported(now, 5*reports, 0, all(i)))
			for _, later := range []float64{1, 3, 5} {
				s.Add(page(now+later, 6*pages))
			}
		}
		r, _ := s.Merged(at(50))
		return r.Reported.Claim
	}
	always := func(int) bool { return true }
	for what, c := range map[string]struct{ got, want float64 }{
		"five times as many":          {play(50, 10, always), 5},
		"fewer":                       {play(5, 10, always), 0.5},
		"nothing reported":            {play(50, 0, always), 300},
		"too few to say":              {play(1, 10, always), 0},
		"not all report":              {play(50, 10, func(int) bool { return false }), 0},
		"all report since a moment":   {play(50, 10, func(i int) bool { return i == 9 }), 0},
		"all report for long enough":  {play(50, 10, func(i int) bool { return i >= 8 }), 5},
		"all did and do not any more": {play(50, 10, func(i int) bool { return i < 9 }), 0},
	} {
		if math.Abs(c.got-c.want) > 0.01*c.want {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
}

// A Prometheus server's window is longer than a load report's: several of these cover it.
func TestClaimOverLongWindows(t *testing.T) {
	var s Sources
	for i := range 60 {
		s.Add(reported(5*float64(i), 50, 0, true))
		if i%3 == 2 {
			r := page(5*float64(i)+1, 3*10*37.5)
			r.From, r.SourceInterval = r.To.Add(-37500*time.Millisecond), 15*time.Second
			s.Add(r)
		}
	}
	if r, _ := s.Merged(at(299)); math.Abs(r.Reported.Claim-3) > 0.01 {
		t.Errorf("%v, want 3", r.Reported.Claim)
	}
	if len(s.pages) > spans || len(s.reports) > spans {
		t.Errorf("%d pages and %d reports are kept, want %d at most", len(s.pages), len(s.reports), spans)
	}
}
