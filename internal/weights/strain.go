package weights

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	// usualAfter is how long strain lasts until it is what is usual: as long as an endpoint's Reference
	// remembers what it could do.
	usualAfter = time.Hour
	// lasting is for how many windows strain must have lasted that is not plain.
	lasting = 3
	// near is the part of what was found in use from which usual answers say that there is more. loosenUsed,
	// loosenIdle and loosenStrained are by how much it grows then, with less in use, and while answers are slow, in
	// ln per second: a half becomes a whole in 70 s, in 12 minutes, and not within the hour.
	near                                   = 0.7
	loosenUsed, loosenIdle, loosenStrained = 0.01, 0.001, 0.0001
	// crowded is how many times as many requests as usual are in flight where they pile up, and fewCrowd how
	// many more that must be, for few of them come and go by chance.
	crowded, fewCrowd = 2, 4
	// slower is how many times as long as usual answers must take, at least, where requests are said to pile up:
	// a part of the window is of before.
	slower = 1.1
	// comfortable is up to which utilisation as many requests are in flight as are not to be got rid of.
	comfortable = 0.8
	// leastLeft bounds what strain takes: 1 part of mostByPressure is left.
	leastLeft = 1.0 / mostByPressure
	// maxWaiting bounds what is told of a backlog, in seconds.
	maxWaiting = 60
)

// strain holds the median response time against the usual, and from that tells what is left:
//
//	pace = P50 C, C = done/s / cpu           how many times its CPU time a request takes
//	r = pace / usual pace at the same u      the last if above 4, else the least of three, once strained their median
//	h: usual pace at u/h, over h = r' usual pace at u        u: CPU, r' = r^sigma, sigma as of pressure
//
// What runs at the part h of its full pace takes 1/h times as long for everything, and is used to u/h when
// its CPU shows u. How much longer answers take for being used so much is what these endpoints themselves showed
// when they were well: next to nothing for many workers, much for few. What is usual at a CPU is what was measured
// there or, never having been there, at the next higher one, which is on the safe side; above all that were
// measured it grows as 1/(1-u), as with a server that shares its time (M/G/1-PS). It is learned while there
// is no strain. Where requests pile up without end h is u: they can do what they do, and no more.
//
// A P50 is of those that were answered in the window, and they came before. How many requests N there are now
// tells by Little's law whether it is still so:
//
//	N > 2 usual N + 4:                                              r = max(r, 1 + (N - usual N) / (u usual pace))
//	N - usual N < (u pace - u usual pace) / 2 - 2 sqrt(usual N):    it is over, and tells nothing
//
// The first knows of requests that pile up before any of them is answered. Without the second what had
// waited would be taken for slow when it is answered at last.
//
// While N says so and r is above 4 the endpoints are full, and u C is what they can do per second: that is Found,
// and bounds h until usual answers close to it say that there is more. Where little is asked for, which
// says nothing, it is forgotten within minutes.
func strain(t *tick) {
	s := &t.m.usual
	latest := time.Time{}
	for i := range t.m.members {
		if e := &t.m.members[i]; e.reading != nil && e.reading.To.After(latest) {
			latest = e.reading.To
		}
	}
	if t.mid.cpu == 0 || !latest.After(s.To) {
		return // nothing new is told
	}
	passed := min(staleHold, latest.Sub(s.To))
	all := t.together()
	s.To, s.CPU = latest, float32(all.cpu)
	if r, told := s.judge(all); told {
		s.take(r, all, passed)
		switch {
		case max(r, s.ratio()) <= mild:
			s.Since = time.Time{}
			s.learn(all)
		case s.Since.IsZero():
			s.Since = t.now
		case t.now.Sub(s.Since) > usualAfter:
			*s = Usual{To: s.To, CPU: s.CPU}
		}
	}
	s.Waiting = float32(s.waiting(all))
}

// take has what is left from how many times as long as usual answers take.
func (s *Usual) take(r float64, all together, passed time.Duration) {
	copy(s.Strains[1:], s.Strains[:])
	s.Strains[0] = float32(r)
	left := s.left()
	s.find(all, left, passed)
	if s.Found > 0 {
		left = min(left, float64(s.Found)/all.capacity)
	}
	s.Left = float32(max(leastLeft, left))
}

// judge is how many times as long as usual answers take by the last readings, if they tell.
//
// Where requests piled up the window's CPU is not that of then, which the time since the reading before has.
// If CPU rises meanwhile, too many may have come or the servers may have become too slow: the next reading
// tells which. It also tells whether a few just came at once, where it is known already at what the endpoints
// are full. Requests that are there for longer than a window while answers take no longer have not piled up:
// they are connections that stay, or a gauge that is wrong.
func (s *Usual) judge(all together) (r float64, told bool) {
	usual, ok := s.at(all.newest)
	if crowd := ok && usual.inFlight >= 0 && all.inFlight > crowded*usual.inFlight+fewCrowd; !crowd {
		s.Crowds = 0
	} else if s.Crowds = min(math.MaxUint8-1, s.Crowds) + 1; s.Crowds > 1 || s.Found == 0 {
		longer := math.Exp(all.lnPace - usual.lnPace)
		switch {
		case s.Crowds > lasting && longer > mild, s.Crowds <= lasting && longer > slower && (s.Crowds > 1 || all.newest <= all.cpu+alike):
			s.CPU = float32(all.newest)
			return max(longer, 1+(all.inFlight-usual.inFlight)/(all.newest*math.Exp(usual.lnPace))), true
		case s.Crowds <= lasting:
			return 0, false
		}
	}
	if usual, ok = s.at(all.cpu); !ok {
		return 1, true
	}
	pace := math.Exp(usual.lnPace)
	r = math.Exp(all.lnPace) / pace
	if r > mild && all.inFlight >= 0 && usual.inFlight >= 0 &&
		all.inFlight-usual.inFlight < all.cpu*pace*(r-1)/2-2*math.Sqrt(usual.inFlight) {
		s.Strains = [lasting]float32{}
		return 0, false
	}
	return r, true
}

// together is what the members that have something to say do, all of them.
type together struct {
	cpu      float64 // of the median one
	newest   float64 // CPU in the time since the reading before, on average
	lnPace   float64 // ln of how many times its CPU time a request takes, of the median one
	capacity float64 // C of the median one, requests/s
	inFlight float64 // in the median one, -1 where half of them do not say
	waiting  float64 // in how many seconds all of them answer as many requests as are in flight
	perOne   float64 // how many these are in one of them, on average
}

// together looks at the members that t.mid is the median of.
func (t *tick) together() together {
	telling, values := t.m.scratch.telling, t.m.scratch.sorted[:0]
	all := together{cpu: t.mid.cpu}
	requests, inFlight := 0.0, 0.0
	for _, i := range telling {
		e := &t.m.members[i]
		values = append(values, math.Log(e.P50.Seconds()*e.RequestsPerSecond/e.Busy))
		all.newest += float64(e.CPU[0])
		if e.InFlight > 0 {
			inFlight += float64(e.InFlight) - 1
			requests += e.RequestsPerSecond
		}
	}
	all.newest = min(fullCPU, max(minCPU, all.newest/float64(len(telling))))
	all.lnPace = lowerMedian(values)
	all.perOne = inFlight / float64(len(telling))
	if requests > 0 {
		all.waiting = inFlight / requests
	}
	values = values[:0]
	for _, i := range telling {
		values = append(values, float64(t.m.members[i].InFlight)-1)
	}
	all.inFlight = lowerMedian(values)
	values = values[:0]
	for _, i := range telling {
		values = append(values, t.m.members[i].shown())
	}
	all.capacity = lowerMedian(values)
	return all
}

// ratio is how many times as long as usual answers take, as far as it is certain.
func (s *Usual) ratio() float64 {
	if s.Strains[0] > plain {
		return float64(s.Strains[0])
	}
	sorted := s.Strains
	slices.Sort(sorted[:])
	if s.Since.IsZero() {
		return max(1, float64(sorted[0]))
	}
	return max(1, float64(sorted[lasting/2]))
}

// left is h of the last windows.
func (s *Usual) left() float64 {
	r, u := s.ratio(), float64(s.CPU)
	usual, ok := s.at(u)
	if r <= mild || !ok {
		return 1
	}
	want := usual.lnPace + math.Log(r)*min(1, math.Log(r/mild)/lnStrong)
	low, high := u, 1.0
	for range 20 { // to a millionth
		h := (low + high) / 2
		if at, _ := s.at(u / h); at.lnPace-math.Log(h) > want {
			low = h
		} else {
			high = h
		}
	}
	return high
}

// find measures at how many requests/s the endpoints are full while they are, and loosens what was found when they
// are not. The window in which they became so is partly of before, and counts for the first time only.
func (s *Usual) find(all together, left float64, passed time.Duration) {
	full, found := s.Strains[0] > plain, float64(s.Found)
	grow := 0.0
	switch {
	case full && s.Crowds == 1 && found == 0:
		found = left * all.capacity
	case full && (s.Crowds == 2 || s.Crowds > 2 && found == 0):
		found = all.newest * all.capacity
	case full && s.Crowds > 2:
		found += (all.newest*all.capacity - found) / float64(s.Crowds-1)
	case max(float64(s.Strains[0]), s.ratio()) > mild && left*all.capacity < mild*found:
		grow = loosenStrained
	case all.cpu*all.capacity > near*found:
		grow = loosenUsed
	default:
		grow = loosenIdle
	}
	found *= math.Exp(grow * passed.Seconds())
	if found >= all.capacity {
		found = 0
	}
	s.Found = float32(found)
}

// waiting is how many seconds the endpoints take for the requests that are more than there would be at a
// comfortable utilisation, if these are many and have just come, or answers take longer than usual.
func (s *Usual) waiting(all together) float64 {
	usual, ok := s.at(all.cpu)
	room, _ := s.at(min(comfortable, float64(s.CPU)/s.able()))
	if !ok || room.inFlight < 0 || all.perOne < crowded*room.inFlight+fewCrowd {
		return 0
	}
	if just := s.Crowds > 0 && s.Crowds <= lasting; !just && all.lnPace < usual.lnPace+math.Log(slower) {
		return 0
	}
	return min(maxWaiting, all.waiting*(1-room.inFlight/all.perOne))
}

// able is the part of their capacity that the endpoints can show under the strain that all of them share.
func (s *Usual) able() float64 {
	if s.Left == 0 {
		return 1
	}
	return float64(s.Left)
}

// backlog is for how long the endpoints have enough to do if nothing more comes: what waited when they were
// last read, less what they will have got rid of since, if half of what they do is for what waited.
func (t *tick) backlog() time.Duration {
	s := &t.m.usual
	since := max(0, t.now.Sub(s.To)-2*Tick).Seconds()
	return time.Duration(max(0, float64(s.Waiting)-since/2) * float64(time.Second))
}

// strained reports whether anything is lost: too much to do is no strain of this kind.
func (s *Usual) strained() bool { return s.able() <= 0.975 }

// text is the strain in words, "" if there is none.
func (s *Usual) text() string {
	if !s.strained() {
		return ""
	}
	if s.ratio() <= mild {
		return fmt.Sprintf("answers took longer than usual, on all endpoints: together they could do %.0f%%, and have not been asked for that since", 100*s.able())
	}
	return fmt.Sprintf("answers take %.3g times as long as usual at %.0f%% CPU, on all endpoints: together they can do %.0f%%", s.ratio(), 100*s.CPU, 100*s.able())
}

// applyStrain only tells: it moves no weight, but the qps_decay_factor.
func applyStrain(t *tick) {
	if !t.m.usual.strained() {
		return
	}
	for i := range t.m.members {
		t.explain(i, Reason{Term: "strain", Value: t.m.usual.ratio(), Factor: 1, Text: "times as long as usual to answer at this CPU, on all endpoints: counts for qps_decay_factor, not for shares"})
	}
}
