// Package adapt has a limit's bound follow what the backends can do. It is pure: a Factor is what one limit
// is multiplied by at present, moved by Step(now, adapt, evidence) and by nothing else; every Decision carries
// its reason.
//
//	evidence ─▶ what the bound should be multiplied by ─▶ nearest step, floor, ceil ─▶ falls at once, rises a step per hold
//
// It measures nothing (weights and signals do), applies no factor (package rls does) and knows no requests:
// a factor that moves changes a bound and resets no counter.
package adapt

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// Evidence is what is known at a moment of the backends that a limit protects.
type Evidence struct {
	// Services that requests under the limit are sent to.
	Services []Service
	// Metric is the last answer to the limit's query.
	Metric Metric
}

// Service is one of the backends.
type Service struct {
	Name string
	// Traffic in requests/s, the weight of this service among the others.
	Traffic float64
	// Ability is what the endpoints can do of what they could, in (0, 1]: their qps_decay_factor, weighted
	// by their part of the traffic.
	Ability float64
	// Backlog is how long the endpoints will be busy with requests that piled up in them.
	Backlog time.Duration
	// Ready endpoints, of which Stale have no fresh reading.
	Ready, Stale int
	// Why is why Ability is low where no single endpoint is to blame, "" for nothing to add.
	Why string
	// Unmeasured is why nothing is measured here at all, "" if something is.
	Unmeasured string
}

// Metric is an answer to a query. The zero Metric is none.
type Metric struct {
	At    time.Time
	Value float64
	// Every is how often it is asked; an answer is fresh for 2.5 of these.
	Every time.Duration
	// Error is why there was none since.
	Error string
}

// Factor is the state of one limit. The zero Factor has not been stepped.
type Factor struct {
	// Value the bound is multiplied by, 0 before the first Step, and Held what it is without a backlog.
	Value float64 `json:"value,omitempty"`
	Held  float64 `json:"held,omitempty"`
	// Moved is when Held last moved.
	Moved time.Time `json:"moved,omitzero"`
	// Above and Below are since when a metric has been above Down and below Up, zero if it is not.
	Above time.Time `json:"above,omitzero"`
	Below time.Time `json:"below,omitzero"`
	// Judged is the newest answer that was taken into account.
	Judged time.Time `json:"judged,omitzero"`
}

// Decision is what a factor is, and why.
type Decision struct {
	Value float64 `json:"value"`
	// Held is what it is without a backlog, and Wanted what the evidence asks for, within floor and ceil: Held
	// is on its way there.
	Held   float64 `json:"held"`
	Wanted float64 `json:"wanted"`
	// Frozen is why the evidence cannot be trusted and the Value stays, "" if it can.
	Frozen string `json:"frozen,omitempty"`
	// Why is the evidence in words.
	Why string `json:"why"`
}

const (
	// negligible is less than any step.
	negligible = 1e-9
	// serveWithin is how long a backlog is that leaves no room for anything new. Less would have the backends idle
	// until the next reading tells that it is served, more would have new requests wait behind it.
	serveWithin = time.Second
	// able is the ability above which a backlog is nobody's loss: it was let in on purpose.
	able = 0.9
)

// Step moves the factor by one tick. a is complete (v1alpha1.Limit.WithDefaults).
//
//	Held  = clamp(nearest multiple of step of what is wanted, floor, ceil)
//	Value = clamp(nearest multiple of step of Held * room, floor, Held)      room = max(0, 1 - backlog / 1 s)
//
// Held falls at once, and rises by one step when hold has passed since it last moved. The first Step takes what
// is wanted as it is; where that is not known the factor is 1, within floor and ceil. What backends that can do
// less than they could have piled up takes its room until it is served, and then gives it back at once.
func (f *Factor) Step(now time.Time, a *v1alpha1.Adapt, e Evidence) Decision {
	if now.Before(f.Moved) { // the clock was set back
		f.Moved = now
	}
	first := f.Value == 0
	held := bounded(a, cmp.Or(f.Held, f.Value, 1))
	wanted, why, frozen := f.wanted(now, a, held, e)
	if frozen != "" {
		f.move(now, held, 1, a)
		return Decision{Value: held, Held: held, Wanted: held, Frozen: frozen, Why: why}
	}
	wanted = bounded(a, quantised(wanted, *a.Step))
	switch {
	case first, wanted < held-negligible:
		held = wanted
	case wanted > held+negligible && now.Sub(f.Moved) >= a.Hold.Duration:
		held = min(wanted, bounded(a, quantised(held+*a.Step, *a.Step)))
	}
	room := 1.0
	if a.By == v1alpha1.AdaptByHealth {
		room = roomFor(e.Services)
	}
	f.move(now, held, room, a)
	return Decision{Value: f.Value, Held: f.Held, Wanted: wanted, Why: why}
}

func (f *Factor) move(now time.Time, held, room float64, a *v1alpha1.Adapt) {
	if math.Abs(f.Held-held) > negligible {
		f.Held, f.Moved = held, now
	}
	f.Value = held
	if room < 1 {
		f.Value = min(held, bounded(a, quantised(held*room, *a.Step)))
	}
}

// wanted is what the evidence asks for, in words and as a factor, or why it cannot be trusted.
func (f *Factor) wanted(now time.Time, a *v1alpha1.Adapt, held float64, e Evidence) (factor float64, why, frozen string) {
	switch a.By {
	case v1alpha1.AdaptByHealth:
		return health(e.Services)
	case v1alpha1.AdaptByReplicas:
		ready := 0
		for _, s := range e.Services {
			ready += s.Ready
		}
		return float64(ready) / float64(*a.Replicas), fmt.Sprintf("%d of %d replicas are ready", ready, *a.Replicas), ""
	case v1alpha1.AdaptByMetric:
		return f.metric(now, a, held, e.Metric)
	}
	return 0, "", fmt.Sprintf("by: %q is not known here", a.By)
}

// byTraffic is the mean of what is said of services that have endpoints, weighted by their traffic, or where
// there is none equally. It is false where all traffic goes to services that have none.
func byTraffic(services []Service, of func(*Service) float64) (float64, bool) {
	traffic := 0.0
	for i := range services {
		traffic += services[i].Traffic
	}
	sum, weights := 0.0, 0.0
	for i := range services {
		s := &services[i]
		if s.Ready == 0 {
			continue
		}
		w := s.Traffic
		if traffic == 0 {
			w = 1
		}
		sum += w * of(s)
		weights += w
	}
	return sum / weights, weights > 0
}

// roomFor is the part of what the services can do that is left for new requests while they serve what piled up.
func roomFor(services []Service) float64 {
	room, ok := byTraffic(services, func(s *Service) float64 {
		if s.Ability > able {
			return 1
		}
		return min(1, max(0, 1-s.Backlog.Seconds()/serveWithin.Seconds()))
	})
	if !ok {
		return 1
	}
	return room
}

// health is the ability of the services by traffic. With more than half of the endpoints stale it is not known.
func health(services []Service) (factor float64, why, frozen string) {
	var parts []string
	ready, stale := 0, 0
	for _, s := range services {
		if s.Unmeasured != "" {
			return 0, "", s.Name + ": " + s.Unmeasured
		}
		ready += s.Ready
		stale += s.Stale
		if s.Ready > 0 && len(parts) < 3 {
			part := fmt.Sprintf("%s can do %.0f%% of what it could", s.Name, 100*s.Ability)
			if s.Why != "" {
				part += " (" + s.Why + ")"
			}
			if s.Backlog > 0 {
				part += fmt.Sprintf(" and has %.1f s of it waiting", s.Backlog.Seconds())
			}
			parts = append(parts, part)
		}
	}
	switch {
	case ready == 0:
		return 0, "", "no endpoint is ready"
	case 2*stale > ready:
		return 0, "", fmt.Sprintf("%d of %d endpoints have no fresh reading", stale, ready)
	}
	ability, ok := byTraffic(services, func(s *Service) float64 { return s.Ability })
	if !ok {
		return 0, "", "no endpoint that gets traffic is ready"
	}
	if more := len(services) - len(parts); more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return ability, strings.Join(parts, ", "), ""
}

// metric falls by a step with each answer while the number has been above Down for For, and asks for all
// there is while it is below Up; hold has it rise by steps.
func (f *Factor) metric(now time.Time, a *v1alpha1.Adapt, held float64, m Metric) (factor float64, why, frozen string) {
	switch {
	case m.At.IsZero() && m.Error != "":
		return 0, "", fmt.Sprintf("%s: %s", a.Metric.Server, m.Error)
	case m.At.IsZero():
		return 0, "", a.Metric.Server + " has not answered yet"
	case now.Sub(m.At) > m.Every*5/2:
		return 0, "", fmt.Sprintf("the last answer of %s is %v old; %s", a.Metric.Server, now.Sub(m.At).Round(time.Second), cmp.Or(m.Error, "there was no other"))
	}
	news := m.At.After(f.Judged)
	f.Judged = m.At
	f.Above, f.Below = since(f.Above, m.At, m.Value > a.Metric.Down), since(f.Below, m.At, m.Value < a.Metric.Up)
	lasting := func(since time.Time) bool { return !since.IsZero() && m.At.Sub(since) >= a.Metric.For.Duration }
	switch {
	case lasting(f.Above) && news:
		return held - *a.Step, fmt.Sprintf("the metric is %.4g, above %.4g", m.Value, a.Metric.Down), ""
	case lasting(f.Below):
		return *a.Ceil, fmt.Sprintf("the metric is %.4g, below %.4g", m.Value, a.Metric.Up), ""
	}
	return held, fmt.Sprintf("the metric is %.4g; it falls above %.4g and rises below %.4g", m.Value, a.Metric.Down, a.Metric.Up), ""
}

// since is the moment from which a condition holds that held since before.
func since(before, now time.Time, holds bool) time.Time {
	switch {
	case !holds:
		return time.Time{}
	case before.IsZero() || before.After(now):
		return now
	}
	return before
}

func bounded(a *v1alpha1.Adapt, v float64) float64 { return min(*a.Ceil, max(*a.Floor, v)) }

// quantised is the nearest multiple of step; numbers that are none count as 1.
func quantised(v, step float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 1
	}
	// Through the inverse, so that 0.7 is 0.7 and not 0.7000000000000001.
	return math.Round(math.Round(v/step)*step*1e6) / 1e6
}

// Describe is the decision on one line.
func (d Decision) Describe() string {
	line := fmt.Sprintf("x %.2f", d.Value)
	switch {
	case d.Frozen != "":
		return line + " held: " + d.Frozen
	case d.Value < d.Held-negligible:
		line += fmt.Sprintf(" until what piled up is served, then %.2f", d.Held)
	}
	if math.Abs(d.Wanted-d.Held) > negligible {
		line += fmt.Sprintf(" on its way to %.2f", d.Wanted)
	}
	return line + ": " + d.Why
}
