package promapi

import (
	"fmt"
	"math"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// plan is what is asked about a Service and how the answers are read, worked out. It is immutable.
type plan struct {
	spec     Spec
	server   *server // nil: there is none of that name
	interval time.Duration
	timeout  time.Duration
	span     time.Duration // that a reading covers
	queries  []query
	inCores  bool // the CPU is in cores, to be divided by the limit
	matcher  *matcher
}

func newPlan(s Spec, servers map[string]*server) *plan {
	p := &plan{spec: s, server: servers[s.Prometheus.Server], interval: 15 * time.Second, matcher: newMatcher(s.Endpoints)}
	if i := s.Prometheus.Interval; i != nil && i.Duration > 0 {
		p.interval = i.Duration
	}
	p.timeout = min(longestTimeout, p.interval/2)
	p.span = (s.Window + p.interval/2).Round(time.Millisecond)
	p.queries, p.inCores = queriesOf(s, p.span)
	return p
}

// values are what the answers say of each endpoint, by term and index of the endpoint.
type values map[term]map[int]float64

// digest is what became of one answer's results.
type digest struct {
	term     term
	matched  int // endpoints with a result, NaN included
	rejected []string
	dropped  map[string]int // results by reason
}

// The reasons why results are dropped.
const (
	droppedUnmatched = "unmatched" // about none of the Service's endpoints
	droppedAmbiguous = "ambiguous" // one of several endpoints or one of several results for an endpoint
	droppedValue     = "value"     // negative, above maxValue, or a histogram
)

// maxValue is more than any term can be, in cores, requests per second or seconds. Products with it are finite.
const maxValue = 1e15

// take reads one answer. Of several results for an endpoint the one that names it best counts; of
// several that name it equally well none does, because nothing says whether they add up.
func (p *plan) take(a answer, into values) digest {
	type found struct {
		value float64
		by    rank
		twice bool
	}
	d := digest{term: a.term, dropped: map[string]int{}}
	best := map[int]found{}
	reject := func(reason, words string) {
		d.dropped[reason]++
		d.rejected = append(d.rejected, fmt.Sprintf("%s: %s", a.term, words))
	}
	for _, result := range a.results {
		endpoints, by, ambiguous := p.matcher.match(result.Metric)
		value := float64(result.Value)
		switch {
		case ambiguous:
			reject(droppedAmbiguous, "a result is about any of several endpoints of its host")
			continue
		case by == rankNone:
			d.dropped[droppedUnmatched]++
			continue
		case result.Histogram != nil:
			reject(droppedValue, "a histogram; use histogram_quantile or histogram_count")
			continue
		case value < 0 || value > maxValue:
			reject(droppedValue, "negative, or larger than anything measured")
			continue
		}
		for _, i := range endpoints {
			was, seen := best[i]
			switch {
			case !seen || by > was.by:
				best[i] = found{value: value, by: by}
			case by == was.by:
				was.twice = true
				best[i] = was
			}
		}
	}
	d.matched = len(best)
	into[a.term] = map[int]float64{}
	for i, f := range best {
		switch {
		case f.twice:
			reject(droppedAmbiguous, "several results for one endpoint; aggregate by (namespace, pod) or by instance")
		case math.IsNaN(f.value): // such as the quantile of no requests
		default:
			into[a.term][i] = f.value
		}
	}
	if a.warned {
		d.rejected = append(d.rejected, fmt.Sprintf("%s: used, but the server warns about its answer", a.term))
	}
	slices.Sort(d.rejected)
	d.rejected = slices.Compact(d.rejected)
	return d
}

// missing says for how many endpoints the answer has nothing.
func (d digest) missing(endpoints int) []string {
	switch d.matched {
	case endpoints:
		return nil
	case 0:
		return []string{string(d.term)}
	}
	return []string{fmt.Sprintf("%s of %d of %d endpoints", d.term, endpoints-d.matched, endpoints)}
}

// readings joins the terms per endpoint. evaluated is the instant that all queries were about.
func (p *plan) readings(v values, evaluated time.Time) (readings []signals.Reading) {
	for i, e := range p.spec.Endpoints {
		r := signals.Reading{
			Endpoint:       signals.Key{Service: p.spec.Service, Address: e.Address},
			From:           evaluated.Add(-p.span),
			To:             evaluated,
			SourceInterval: p.interval,
			Instance:       e.Instance,
		}
		if requests, ok := v[termRequests][i]; ok {
			r.Done = requests * p.span.Seconds()
			r.Terms |= signals.TermRequests
			if errors, ok := v[termErrors][i]; ok {
				r.Failed = errors * p.span.Seconds()
				r.Done = max(0, r.Done-r.Failed)
				r.Terms |= signals.TermErrors
			}
		}
		if cpu, ok := p.cpu(v, i, e); ok {
			r.CPU = cpu
			r.Terms |= signals.TermCPU
		}
		if inFlight, ok := v[termInFlight][i]; ok {
			r.InFlight = inFlight
			r.Terms |= signals.TermInFlight
		}
		p50, hasP50 := v[termLatencyP50][i]
		p90, hasP90 := v[termLatencyP90][i]
		if hasP50 && hasP90 {
			r.P50, r.P90 = seconds(p50), seconds(p90)
			r.Terms |= signals.TermLatency
		}
		if r.Terms != 0 {
			readings = append(readings, r)
		}
	}
	return readings
}

// cpu is an endpoint's use of its CPU limit.
func (p *plan) cpu(v values, i int, e Endpoint) (float64, bool) {
	cpu, ok := v[termCPU][i]
	if !ok || !p.inCores {
		return cpu, ok
	}
	limit := e.CPULimit
	if limit <= 0 {
		limit = v[termCPULimit][i]
	}
	if limit <= 0 {
		return 0, false
	}
	cpu /= limit
	return cpu, !math.IsInf(cpu, 0)
}

// seconds is s as a Duration, at most the longest there is.
func seconds(s float64) time.Duration {
	return time.Duration(min(s*float64(time.Second), math.MaxInt64/2))
}
