package scrape

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// Families that are read whether a policy names them or not.
const (
	familyProcessStart = "process_start_time_seconds"
	familyGOMAXPROCS   = "go_sched_gomaxprocs_threads"
)

// identity is what makes a target. It is stable over restarts of the control plane, and with it the
// target's phase.
type identity struct{ owner, url string }

// plan is what the Specs of one target ask for, worked out. It is immutable.
type plan struct {
	specs    []Spec
	views    []view
	interval time.Duration
	timeout  time.Duration
	// keep is how long measurements are remembered: the longest window and the slack of its edge.
	keep   time.Duration
	wanted map[string]bool
	// instance as the catalog knows it.
	instance string
	services []string
}

// view is one Spec's way to look at a target. A term that it does not read has an empty family.
type view struct {
	endpoints  []signals.Key
	window     time.Duration
	cpuLimit   float64
	cpuCounter counterKey
	cpuGauge   gaugeKey
	requests   counterKey
	errors     bool
	latency    string
	inFlight   gaugeKey
}

// The keys of meters: what is measured in the same way is measured once, and lives as long as a Spec
// asks for it, whatever else of the Spec changes.
type (
	counterKey struct {
		family string
		// fromZero: a series that appears counts from 0.
		fromZero bool
		// errors is RequestsMetric.Errors as one string, the labels in order.
		errors string
	}
	gaugeKey struct {
		family string
		mean   bool
	}
)

const (
	defaultInterval = 2 * time.Second
	defaultTimeout  = time.Second
)

func newPlan(specs []Spec) *plan {
	p := &plan{specs: specs}
	names := []string{familyProcessStart}
	services := map[string]bool{}
	for _, s := range specs {
		interval, timeout := defaultInterval, defaultTimeout
		if i := s.Scrape.Interval; i != nil && i.Duration > 0 {
			interval = i.Duration
		}
		if t := s.Scrape.Timeout; t != nil && t.Duration > 0 {
			timeout = t.Duration
		}
		if p.interval == 0 || interval < p.interval {
			p.interval = interval
		}
		if p.timeout == 0 || timeout < p.timeout {
			p.timeout = timeout
		}
		if p.instance == "" {
			p.instance = s.Instance
		}
		for _, e := range s.Endpoints {
			services[e.Service] = true
		}
		v := newView(s)
		p.views = append(p.views, v)
		names = append(names, v.cpuCounter.family, v.cpuGauge.family, v.requests.family, v.latency, v.inFlight.family)
		if v.cpuCounter.family != "" && v.cpuLimit == 0 {
			names = append(names, familyGOMAXPROCS)
		}
	}
	p.timeout = min(p.timeout, p.interval)
	for i := range p.views {
		// A window shorter than the interval would never hold two scrapes.
		p.views[i].window = max(p.views[i].window, p.interval) + p.slack()
		p.keep = max(p.keep, p.views[i].window)
	}
	p.wanted = wantedFamilies(names...)
	p.services = slices.Sorted(maps.Keys(services))
	return p
}

// slack is added to a window so that the scrape at its edge is inside on every tick, or on none: the
// answers arrive some milliseconds early or late.
func (p *plan) slack() time.Duration { return p.interval / 2 }

func newView(s Spec) view {
	v := view{endpoints: s.Endpoints, window: s.Window, cpuLimit: max(0, s.CPULimit)}
	if cpu := s.Scrape.CPU; cpu != nil {
		if name := value(cpu.Counter); name != "" {
			v.cpuCounter = counterKey{family: name}
		} else {
			v.cpuGauge = gaugeKey{family: value(cpu.Gauge), mean: true}
		}
	}
	if requests := s.Scrape.Requests; requests != nil {
		v.requests = counterKey{family: value(requests.Counter), fromZero: true, errors: canonical(requests.Errors)}
		v.errors = len(requests.Errors) > 0
	}
	if latency := s.Scrape.Latency; latency != nil {
		v.latency = value(latency.Histogram)
	}
	if inFlight := s.Scrape.InFlight; inFlight != nil {
		v.inFlight = gaugeKey{family: value(inFlight.Gauge)}
	}
	return v
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func canonical(errors map[string]string) string {
	var b strings.Builder
	for _, label := range slices.Sorted(maps.Keys(errors)) {
		fmt.Fprintf(&b, "%q=%q,", label, errors[label])
	}
	return b.String()
}

// errorsOf is the selection that a key's string stands for. An expression that does not compile is
// refused where policies are read; if one comes this far, its term says nothing about errors.
func (p *plan) errorsOf(key counterKey) selection {
	for _, s := range p.specs {
		if s.Scrape.Requests != nil && canonical(s.Scrape.Requests.Errors) == key.errors {
			compiled, err := newSelection(s.Scrape.Requests.Errors)
			if err != nil {
				return nil
			}
			return compiled
		}
	}
	return nil
}
