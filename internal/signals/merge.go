package signals

import (
	"slices"
	"time"
)

// Reported is what the Envoys that use an endpoint say of it, all of them together, in one window
// (From, To]. The zero Reported says nothing.
type Reported struct {
	From, To time.Time
	// SourceInterval is how often they report.
	SourceInterval time.Duration
	// All says that every node that takes the endpoint from us has reported. Callers that do not are not
	// in it.
	All bool
	// Done and Failed count the requests that finished, one for each attempt: failed are those answered
	// with a 5xx or not at all; a 404 or a 429 is done.
	Done, Failed float64
	// Issued counts the requests that were sent, InFlight is how many are being served.
	Issued, InFlight float64
	// Alone says that the Reading is made of this and nothing else: no page is fresh.
	Alone bool
	// Claim is how many times as many requests as these the endpoint itself counted as done, over the same
	// time; 0 where that is not known.
	Claim float64
}

// Fresh reports whether there is anything, and it is no older than 2.5 intervals.
func (r Reported) Fresh(now time.Time) bool {
	return !r.To.IsZero() && now.Sub(r.To) <= r.SourceInterval*5/2
}

// Sources is what the sources of one endpoint said last: its metrics page or a Prometheus server, of which
// a policy names one, and load reports. The zero Sources knows nothing.
//
// The order of trust:
//
//	quantity                   first                   bounded by                          else
//	CPU, response times, done  the page                done: 1.5 x load reports', if All   done: load reports
//	failed                     load reports, if All    -                                   the page, load reports
//	in flight                  the page                -                                   load reports
//
// Done and in flight are load reports' where no page is fresh, failures also where the page has none.
//
// The numerator and the denominator of one ratio are of one source and window: the requests that CPU was
// used for are those that the page counts, and the requests that failures are a part of are those that the
// same reports count. Load reports are about the Envoys that sent them. Unless these are all there are they
// bound nothing: what others send would make an endpoint look as if it lied. Failures are Envoy's to tell
// because it sees those that an endpoint does not count or does not admit, and requests that never reached
// it.
//
// Load reports come up to two intervals after what they tell of, and in a window of their own. Done is
// therefore held against them by Claim, which compares the same time, long enough past: while load rises
// the newest page tells of more requests than the newest reports, and nobody lies.
type Sources struct {
	endpoint Key
	own      Reading
	reported Reported
	// Kept once there is anything Reported, the newest last: own readings, at least pageSpacing apart, and
	// an unbroken row of load reports that were All.
	pages, reports []span
}

// span is a rate in the time (from, to], in requests done per second.
type span struct {
	from, to time.Time
	rate     float64
}

const (
	// spans is how many of each are kept: of load reports, once in 5 s, what covers the window of a
	// Prometheus server that scrapes twice a minute.
	spans       = 16
	pageSpacing = 1500 * time.Millisecond
	// claimCoverage is the part of a page's window that load reports must cover to be held against it: in
	// what they do not cover the load may have multiplied.
	claimCoverage = 0.95
	// claimRequests is how many requests a page's window must hold for a Claim.
	claimRequests = 10
)

// Add takes in a Reading of one of the sources: one with Terms of the page or the server, one without
// them is Reported alone. One that is not newer than what is known of its source changes nothing.
func (s *Sources) Add(r Reading) {
	s.endpoint = r.Endpoint
	n := r.Reported
	switch {
	case r.Terms != 0 || n.To.IsZero():
		if !r.To.After(s.own.To) {
			return
		}
		s.own, s.own.Reported = r, Reported{}
		if !s.reported.To.IsZero() && r.Terms.Has(TermRequests) &&
			(len(s.pages) == 0 || r.To.Sub(s.pages[len(s.pages)-1].to) >= pageSpacing) {
			s.pages = remember(s.pages, span{r.From, r.To, perSecond(r.Done, r.From, r.To)})
		}
	case n.To.After(s.reported.To):
		if !n.All || n.From.Sub(s.reported.To) > n.SourceInterval {
			s.reports = s.reports[:0]
		}
		if n.All {
			s.reports = remember(s.reports, span{n.From, n.To, perSecond(n.Done, n.From, n.To)})
		}
		s.reported = n
		s.reported.Claim = s.claim()
	}
}

func remember(kept []span, s span) []span {
	if len(kept) == spans {
		kept = slices.Delete(kept, 0, 1)
	}
	return append(kept, s)
}

// Merged is one Reading of all that is fresh at now, in the order of trust: the page's, with what is
// Reported; or if that is not fresh, what is Reported alone, in its own window. It reports false where
// nothing is known.
func (s *Sources) Merged(now time.Time) (Reading, bool) {
	fresh := s.reported.Fresh(now)
	ownFresh := !s.own.To.IsZero() && now.Sub(s.own.To) <= s.own.SourceInterval*5/2
	switch {
	case !fresh || ownFresh:
		r := s.own
		if fresh {
			r.Reported = s.reported
		}
		return r, !r.To.IsZero()
	case !s.reported.To.After(s.own.To):
		return s.own, true
	}
	n := s.reported
	n.Alone = true
	return Reading{
		Endpoint: s.endpoint, From: n.From, To: n.To, SourceInterval: n.SourceInterval,
		Terms: TermRequests | TermErrors | TermInFlight, Done: n.Done, Failed: n.Failed, InFlight: n.InFlight,
		Reported: n,
	}, true
}

// claim holds the newest page whose window load reports cover against them.
func (s *Sources) claim() float64 {
	for _, page := range slices.Backward(s.pages) {
		var covered, reported float64
		for _, report := range s.reports {
			common := earlier(page.to, report.to).Sub(later(page.from, report.from)).Seconds()
			if common > 0 {
				covered += common
				reported += common * report.rate
			}
		}
		window := page.to.Sub(page.from).Seconds()
		if !(covered >= claimCoverage*window) {
			continue
		}
		if page.rate*window < claimRequests {
			return 0
		}
		// An endpoint of which nothing is reported is held against one request.
		return page.rate * covered / max(1, reported)
	}
	return 0
}

func perSecond(n float64, from, to time.Time) float64 {
	if !to.After(from) {
		return 0
	}
	return n / to.Sub(from).Seconds()
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
