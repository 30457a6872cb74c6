package scrape

import (
	"math"
	"slices"
	"strconv"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// memory is what is known of a target from its earlier scrapes. It belongs to the scrape that is
// under way, of which there is never more than one per target.
type memory struct {
	plan          *plan
	times         []time.Time // of the scrapes within plan.keep, oldest first
	counters      map[counterKey]*counter
	gauges        map[gaugeKey]*gauge
	distributions map[string]*distribution
	instance      string  // as the catalog knew it
	start         float64 // process_start_time_seconds, 0: not exported
}

// observation is what one scrape says.
type observation struct {
	readings []signals.Reading
	// missing are terms that the target does not export, rejected those it exports in a way that
	// cannot be used ("latency: decreasing").
	missing, rejected []string
	// rejections counts the rejected samples by reason.
	rejections map[rejection]int
}

// startJitter is how far two values of one process's start time may be apart: Linux derives it from
// a boot time that follows corrections of the clock. A process that lived no longer than this is
// noticed by its counters.
const startJitter = 2.0

// adopt makes the meters that the plan needs, keeps those that it shares with the one before, and
// drops the others.
func (m *memory) adopt(p *plan) {
	if m.plan == p {
		return
	}
	counters, gauges, distributions := map[counterKey]*counter{}, map[gaugeKey]*gauge{}, map[string]*distribution{}
	for _, v := range p.views {
		for _, key := range []counterKey{v.cpuCounter, v.requests} {
			if key.family == "" || counters[key] != nil {
				continue
			}
			if counters[key] = m.counters[key]; counters[key] == nil {
				counters[key] = &counter{family: key.family, fromZero: key.fromZero, errors: p.errorsOf(key)}
			}
		}
		for _, key := range []gaugeKey{v.cpuGauge, v.inFlight} {
			if key.family == "" || gauges[key] != nil {
				continue
			}
			if gauges[key] = m.gauges[key]; gauges[key] == nil {
				gauges[key] = &gauge{family: key.family, mean: key.mean}
			}
		}
		if v.latency != "" && distributions[v.latency] == nil {
			if distributions[v.latency] = m.distributions[v.latency]; distributions[v.latency] == nil {
				distributions[v.latency] = &distribution{family: v.latency}
			}
		}
	}
	m.plan, m.counters, m.gauges, m.distributions = p, counters, gauges, distributions
}

// observe takes in one page and says what each view of the plan sees since.
func (m *memory) observe(p *plan, f families, at time.Time, maxSeries int) observation {
	m.adopt(p)
	if n := len(m.times); n > 0 && !at.After(m.times[n-1]) {
		return observation{}
	}
	m.noticeRestart(f)
	m.trim(at.Add(-p.keep))

	o := observation{rejections: map[rejection]int{}}
	verdicts := make(map[any]verdict, 8)
	note := func(key any, v verdict) {
		verdicts[key] = v
		if v.rejected != "" {
			o.rejections[v.rejected]++
		}
	}
	for key, c := range m.counters {
		note(key, c.observe(f, at, maxSeries))
	}
	for key, g := range m.gauges {
		note(key, g.observe(f, at, maxSeries))
	}
	for key, d := range m.distributions {
		note(key, d.observe(f, at, maxSeries))
	}
	m.times = append(m.times, at)

	for _, v := range p.views {
		if reading, ok := m.read(v, verdicts, f, &o); ok {
			for _, endpoint := range v.endpoints {
				reading.Endpoint = endpoint
				o.readings = append(o.readings, reading)
			}
		}
	}
	slices.Sort(o.missing)
	slices.Sort(o.rejected)
	o.missing, o.rejected = slices.Compact(o.missing), slices.Compact(o.rejected)
	return o
}

// noticeRestart forgets everything when the process is not the one that was measured.
func (m *memory) noticeRestart(f families) {
	start := m.start
	if metrics := f[familyProcessStart].GetMetric(); len(metrics) == 1 {
		if value, ok := scalar(metrics[0]); ok && badCount(value) == "" && math.Abs(value-m.start) > startJitter {
			start = value
		}
	}
	instanceChanged := m.instance != m.plan.instance && m.instance != "" && m.plan.instance != ""
	if instanceChanged || start != m.start && m.start != 0 {
		*m = memory{instance: m.plan.instance, start: start, plan: m.plan}
		p := m.plan
		m.plan = nil
		m.adopt(p)
	}
	m.instance, m.start = m.plan.instance, start
}

func (m *memory) trim(before time.Time) {
	n := 0
	for n < len(m.times) && m.times[n].Before(before) {
		n++
	}
	m.times = slices.Delete(m.times, 0, n)
	for _, c := range m.counters {
		c.trim(before)
	}
	for _, g := range m.gauges {
		g.trim(before)
	}
	for _, d := range m.distributions {
		d.trim(before)
	}
}

// read is one view's Reading without its endpoint.
//
// All terms share one window. It ends with this scrape and begins with the oldest one in the view's
// window at which the most of the terms were measured; a term that was not measured then is absent.
func (m *memory) read(v view, verdicts map[any]verdict, f families, o *observation) (signals.Reading, bool) {
	to := m.times[len(m.times)-1]
	usable := func(term string, key any) bool {
		switch verdict := verdicts[key]; {
		case !verdict.exported:
			o.missing = append(o.missing, term)
		case verdict.rejected != "":
			o.rejected = append(o.rejected, term+": "+string(verdict.rejected))
		default:
			return true
		}
		return false
	}
	var (
		cpu, requests *counter
		latency       *distribution
		windowed      []interface{ has(time.Time) bool }
	)
	limit := v.cpuLimit
	if v.cpuCounter.family != "" && usable("cpu", v.cpuCounter) {
		if limit == 0 {
			limit = gomaxprocs(f)
		}
		if limit > 0 {
			cpu = m.counters[v.cpuCounter]
			windowed = append(windowed, cpu)
		} else {
			o.missing = append(o.missing, "cpu limit")
		}
	}
	if v.requests.family != "" && usable("requests", v.requests) {
		requests = m.counters[v.requests]
		windowed = append(windowed, requests)
		if v.errors && !verdicts[v.requests].selectable {
			o.missing = append(o.missing, "errors")
		}
	}
	if v.latency != "" && usable("latency", v.latency) {
		latency = m.distributions[v.latency]
		windowed = append(windowed, latency)
	}

	from, most := time.Time{}, -1
	for _, at := range m.times[:len(m.times)-1] {
		if to.Sub(at) > v.window {
			continue
		}
		n := 0
		for _, meter := range windowed {
			if meter.has(at) {
				n++
			}
		}
		if n > most {
			from, most = at, n
		}
	}

	r := signals.Reading{From: from, To: to, SourceInterval: m.plan.interval, Instance: m.instance}
	if r.Instance == "" && m.start != 0 {
		r.Instance = strconv.FormatFloat(m.start, 'f', -1, 64)
	}
	if v.cpuGauge.family != "" && usable("cpu", v.cpuGauge) {
		points := m.gauges[v.cpuGauge].after(from)
		for _, p := range points {
			r.CPU += p.value / float64(len(points))
		}
		r.Terms |= signals.TermCPU
	}
	if v.inFlight.family != "" && usable("inFlight", v.inFlight) {
		points := m.gauges[v.inFlight].points
		r.InFlight = points[len(points)-1].value
		r.Terms |= signals.TermInFlight
	}
	if most < 0 {
		return r, false // the first scrape
	}
	if cpu != nil && cpu.has(from) {
		if used := sum(cpu.after(from)).all / to.Sub(from).Seconds() / limit; badCount(used) == "" {
			r.CPU = used
			r.Terms |= signals.TermCPU
		}
	}
	if requests != nil && requests.has(from) {
		if inc := sum(requests.after(from)); badCount(inc.all) == "" {
			r.Done, r.Failed = max(0, inc.all-inc.selected), inc.selected
			r.Terms |= signals.TermRequests
			if v.errors && verdicts[v.requests].selectable {
				r.Terms |= signals.TermErrors
			}
		}
	}
	if latency != nil && latency.has(from) {
		p50, p90 := quantiles(latency.after(from))
		if !math.IsNaN(p50) && !math.IsNaN(p90) {
			r.P50, r.P90 = seconds(p50), seconds(p90)
			r.Terms |= signals.TermLatency
		}
	}
	return r, r.Terms != 0
}

func sum(points []point[increment]) (total increment) {
	for _, p := range points {
		total.all += p.value.all
		total.selected += p.value.selected
	}
	return total
}

// quantiles are the 0.5 and 0.9 quantiles of what the points counted; NaN if they counted nothing, or
// their buckets changed.
func quantiles(points []point[histogram]) (p50, p90 float64) {
	var all histogram
	for _, p := range points {
		switch {
		case p.value == nil:
		case all == nil:
			all = p.value
		default:
			if all = all.plus(p.value); all == nil {
				return math.NaN(), math.NaN()
			}
		}
	}
	if all == nil {
		return math.NaN(), math.NaN()
	}
	return all.quantile(0.5), all.quantile(0.9)
}

// gomaxprocs is the CPU limit that the Go runtime of the target has, 0 if it does not say.
func gomaxprocs(f families) float64 {
	metrics := f[familyGOMAXPROCS].GetMetric()
	if len(metrics) != 1 {
		return 0
	}
	value, ok := scalar(metrics[0])
	if !ok || badCount(value) != "" {
		return 0
	}
	return value
}

// seconds is s as a Duration, at least 0 and at most the longest there is.
func seconds(s float64) time.Duration {
	return time.Duration(min(max(s*float64(time.Second), 0), math.MaxInt64/2))
}
