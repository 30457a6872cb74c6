package weights

import (
	"fmt"
	"math"
	"strings"
	"time"
)

const (
	// shareMoved is the part of the traffic, half the sum of |d share|, whose move is worth a push
	// though no single weight leaves the deadband.
	shareMoved = 0.03
	// decayMoved is the move of the mean qps_decay_factor that is.
	decayMoved = 0.1
	// picksPerEndpoint is how many requests a worker must send per endpoint between two pushes: each
	// push makes it rebuild its schedule from a constant seed, and with fewer picks clients do not see
	// the weights but the beginning of the schedule, over and over.
	picksPerEndpoint = 10
	// maxPicking bounds the interval that follows from it.
	maxPicking = time.Minute
	// defaultWorkers is assumed of subscribers that do not tell.
	defaultWorkers = 4
)

// publish decides whether the integers are sent:
//
//   - what joined, or was edited by the user, at once and alone;
//   - all of them, at once, in a new mode, when another part of the requests is shed, or when one would
//     move by more than Urgent;
//   - all of them, every max(PublishInterval, picking time), when one would move by more than
//     Deadband, more than 3 % of the traffic would, the mean qps_decay_factor by 0.1, the weight of an
//     endpoint that is through its slow start is still a part of it, or weights become equal (snap).
//
// Moves are |d ln| of integers at the present anchor, so that what cannot be expressed is no news.
// Metadata goes with the weights.
func (t *tick) publish() {
	m := t.m
	t.target()
	t.total = m.total()
	why := t.whole()
	anchor := t.anchored()
	all := why != ""
	if !all && !t.hold {
		why = t.news()
	}
	full := why != ""
	if full || m.anchor == 0 {
		m.anchor = anchor
	}
	for i := range m.members {
		e := &m.members[i]
		w := integer(t.w[i], m.anchor)
		t.sent[i] = all || full && !t.held[i] || e.joined || e.declared && w != e.Weight
		if t.sent[i] {
			e.Weight = w
			t.push = true
		}
	}
	if m.overflows() {
		m.anchor = mean(t.w)
		for i := range m.members {
			m.members[i].Weight = integer(t.w[i], m.anchor)
			t.sent[i] = true
		}
		why, full = strings.TrimPrefix(why+"; rescaled", "; "), true
	}
	t.total = m.total()
	for i := range m.members {
		if t.sent[i] {
			m.members[i].Warming = t.ss[i] < 1
			t.publishMetadata(&m.members[i])
		}
	}
	if full {
		m.published, m.mode, m.metadata = t.now, t.cfg.Mode, t.cfg.Metadata
	}
	t.push = t.push || full || len(t.left) > 0
	if t.push {
		t.cause = t.because(why)
	}
}

// target makes t.w the weights that the mode publishes: the computed ones, or what the user gave, or
// equal ones. Computed ones that hardly differ (snap) are all the anchor, and so 1000.
func (t *tick) target() {
	if t.m.mode != t.cfg.Mode {
		t.m.anchor = 0
	}
	for i := range t.m.members {
		e := &t.m.members[i]
		switch t.cfg.Mode {
		case Enforce:
			t.w[i] = e.Damped
			if t.m.snap.On && t.m.anchor > 0 && !e.joined && !e.declared {
				t.w[i] = t.m.anchor
			}
		case Shadow:
			t.w[i] = e.declaredWeight()
		case Equal:
			t.w[i] = 1
			e.declared = false
		}
	}
}

// whole is why everything is to be published, whatever the weights are, "" for no reason.
func (t *tick) whole() string {
	m := t.m
	switch {
	case m.published.IsZero():
		return "first"
	case m.mode != t.cfg.Mode:
		return "mode " + string(t.cfg.Mode)
	case m.metadata != t.cfg.Metadata && t.cfg.Metadata:
		return "metadata on"
	case m.metadata != t.cfg.Metadata:
		return "metadata off"
	case t.shedMoved:
		return fmt.Sprintf("shed %.0f%%", 100*m.shed.Part)
	}
	return ""
}

// news is why the weights are worth a push, "" if they are not.
func (t *tick) news() string {
	m := t.m
	worst, at, differs, warm := 0.0, 0, false, ""
	before, after := 0.0, 0.0
	for i := range m.members {
		e := &m.members[i]
		if e.joined || e.declared || t.held[i] {
			continue
		}
		now := integer(t.w[i], m.anchor)
		differs = differs || now != e.Weight
		if e.Warming && t.ss[i] == 1 && now != e.Weight && warm == "" {
			warm = e.Address
		}
		if now != e.Weight {
			if d := math.Log(float64(now) / float64(e.Weight)); math.Abs(d) > math.Abs(worst) {
				worst, at = d, i
			}
		}
		before += float64(e.Weight)
		after += float64(now)
	}
	move := func() string {
		return fmt.Sprintf("%s %+.0f%%", m.members[at].Address, 100*math.Expm1(worst))
	}
	if math.Abs(worst) > t.cfg.Urgent {
		return "urgent: " + move()
	}
	if len(m.members) == 1 && !t.held[0] && m.members[0].Weight != unit {
		return "one endpoint"
	}
	if t.now.Sub(m.published) < t.interval() {
		return ""
	}
	if warm != "" {
		return "routine: " + warm + " is warm"
	}
	if differs && math.Abs(worst) > t.cfg.Deadband {
		return "routine: " + move()
	}
	if differs && m.snap.On {
		return "routine: equal"
	}
	moved := 0.0
	for i := range m.members {
		if e := &m.members[i]; !e.joined && !e.declared && !t.held[i] {
			moved += math.Abs(float64(integer(t.w[i], m.anchor))/after-float64(e.Weight)/before) / 2
		}
	}
	if moved > shareMoved {
		return fmt.Sprintf("routine: %.0f%% of the traffic", 100*moved)
	}
	if t.cfg.Metadata && t.frozen == "" {
		if moved := t.decayMove(); math.Abs(moved) >= decayMoved-negligible {
			return fmt.Sprintf("qps_decay_factor %+.2f", moved)
		}
	}
	return ""
}

// interval is the shortest time between two routine pushes.
func (t *tick) interval() time.Duration {
	rate := 0.0
	for i := range t.m.members {
		rate += t.m.members[i].RequestsPerSecond
	}
	if rate == 0 {
		return t.cfg.PublishInterval
	}
	workers := t.workers
	if workers <= 0 {
		workers = defaultWorkers
	}
	seconds := picksPerEndpoint * float64(len(t.m.members)) * float64(workers) / rate
	picking := time.Duration(min(maxPicking.Seconds(), seconds) * float64(time.Second))
	return max(t.cfg.PublishInterval, picking)
}

// decayMove is by how much the mean qps_decay_factor moved since it was published.
func (t *tick) decayMove() float64 {
	move := 0.0
	for i := range t.m.members {
		if e := &t.m.members[i]; !e.joined {
			move += t.decay(e) - e.QPSDecayFactor
		}
	}
	return move / float64(max(1, len(t.m.members)))
}

func (t *tick) publishMetadata(e *member) {
	e.HealthScore, e.QPSDecayFactor = 0, 0
	if t.cfg.Metadata {
		e.HealthScore, e.QPSDecayFactor = e.score(), t.decay(e)
	}
}

// because joins why all weights are published with who joined, left or was edited.
func (t *tick) because(why string) string {
	var causes []string
	if why != "" {
		causes = append(causes, why)
	}
	if why != "first" {
		for _, change := range []struct {
			verb      string
			addresses []string
		}{{"joined", t.joined}, {"left", t.left}, {"replaced", t.replaced}, {"edited", t.declared}} {
			switch n := len(change.addresses); {
			case n == 1:
				causes = append(causes, change.verb+": "+change.addresses[0])
			case n > 1:
				causes = append(causes, fmt.Sprintf("%s: %d endpoints", change.verb, n))
			}
		}
	}
	return strings.Join(causes, "; ")
}
