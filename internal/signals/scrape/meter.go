package scrape

import (
	"hash/maphash"
	"math"
	"regexp"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// rejection is why a sample is not used, "" if it is: the label of evenkeel_scrape_rejected_samples_total.
// One bad series rejects the whole term of that scrape, as a sum without it would be wrong.
type rejection string

const (
	rejectedNaN        rejection = "nan"
	rejectedInf        rejection = "inf"
	rejectedNegative   rejection = "negative"
	rejectedDecreasing rejection = "decreasing" // a bucket holds less than the one before it
	rejectedDuplicate  rejection = "duplicate"  // a series or bucket stands there twice
	rejectedBuckets    rejection = "buckets"    // no buckets, malformed ones, or others than the other series
	rejectedType       rejection = "type"       // the family is of another type than the term needs
	rejectedLimit      rejection = "limit"      // more series or buckets than are kept
)

// badCount is why v cannot be a count.
func badCount(v float64) rejection {
	switch {
	case math.IsNaN(v):
		return rejectedNaN
	case v < 0:
		return rejectedNegative
	case math.IsInf(v, 1):
		return rejectedInf
	}
	return ""
}

// track keeps what a meter measured at each scrape, oldest first.
type track[T any] struct{ points []point[T] }

type point[T any] struct {
	at    time.Time
	value T // a counter's increment since the point before, a gauge's value
}

func (t *track[T]) add(at time.Time, value T) { t.points = append(t.points, point[T]{at, value}) }

// trim forgets the points before the given time.
func (t *track[T]) trim(before time.Time) {
	n := 0
	for n < len(t.points) && t.points[n].at.Before(before) {
		n++
	}
	if n > 0 {
		rest := copy(t.points, t.points[n:])
		clear(t.points[rest:])
		t.points = t.points[:rest]
	}
}

// has says whether there is a point of exactly that time.
func (t *track[T]) has(at time.Time) bool {
	for i := len(t.points) - 1; i >= 0 && !t.points[i].at.Before(at); i-- {
		if t.points[i].at.Equal(at) {
			return true
		}
	}
	return false
}

// after are the values of the points later than from.
func (t *track[T]) after(from time.Time) []point[T] {
	for i, p := range t.points {
		if p.at.After(from) {
			return t.points[i:]
		}
	}
	return nil
}

// verdict is what became of a meter's family in one scrape.
type verdict struct {
	exported bool // the family is there
	// selectable: a series has all labels that the selection names. Without one, nothing can be said
	// about what was not selected.
	selectable bool
	rejected   rejection
}

// seriesTable is what a meter knows of each series since the process started. A series that is not
// seen in a scrape keeps its value: if it comes back, it goes on from there.
type seriesTable[T any] struct {
	known map[uint64]series[T]
	round uint64 // counts the scrapes
	// begun: the family has been looked for before, so that a series seen for the first time is new,
	// and all that it counts is an increment.
	begun bool
}

type series[T any] struct {
	value T
	round uint64
}

// trimTo forgets the series that the last scrape did not show if there are more than limit.
func (s *seriesTable[T]) trimTo(limit int) {
	if len(s.known) <= limit {
		return
	}
	for id, known := range s.known {
		if known.round != s.round {
			delete(s.known, id)
		}
	}
}

var labelSeed = maphash.MakeSeed()

// seriesID identifies a series within its family, whatever the order of the labels.
func seriesID(m *dto.Metric) uint64 {
	sum := uint64(0)
	for _, pair := range m.GetLabel() {
		var h maphash.Hash
		h.SetSeed(labelSeed)
		h.WriteString(pair.GetName())
		h.WriteByte(0xff) // is in no UTF-8 text
		h.WriteString(pair.GetValue())
		sum += h.Sum64()
	}
	return sum
}

// selection picks series by labels: all must match, each the whole value.
type selection map[string]*regexp.Regexp

// newSelection compiles the expressions of RequestsMetric.Errors.
func newSelection(labels map[string]string) (selection, error) {
	s := selection{}
	for label, expression := range labels {
		compiled, err := regexp.Compile("^(?s:" + expression + ")$")
		if err != nil {
			return nil, err
		}
		s[label] = compiled
	}
	return s, nil
}

// match says whether a series is selected, and whether it has all labels of the selection.
func (s selection) match(m *dto.Metric) (selected, complete bool) {
	found, selected := 0, len(s) > 0
	for _, pair := range m.GetLabel() {
		if expression := s[pair.GetName()]; expression != nil {
			found++
			selected = selected && expression.MatchString(pair.GetValue())
		}
	}
	complete = found >= len(s) && len(s) > 0
	return selected && complete, complete
}

// increment is what a counter's series counted between two scrapes: together, and in those that the
// selection picks.
type increment struct{ all, selected float64 }

// counter measures the increments of a counter family, each series with its own resets.
type counter struct {
	track[increment]
	family string
	// late says what the first value of a series is that was not there before: an increment from 0
	// (requests: the series of a status code appears with its first request), or nothing (CPU: it
	// was used before it was exported).
	fromZero bool
	errors   selection
	table    seriesTable[counterSeries]
}

type counterSeries struct {
	value    float64
	selected bool
	complete bool
}

func (c *counter) observe(f families, at time.Time, maxSeries int) verdict {
	metrics, value := counterOf(f, c.family)
	v := verdict{exported: len(metrics) > 0}
	if !v.exported {
		// A family that has never been there stands at 0, as a vector without children exports nothing.
		if c.fromZero && len(c.table.known) == 0 {
			c.table.begun = true
			c.add(at, increment{})
		}
		return v
	}
	if len(metrics) > maxSeries {
		v.rejected = rejectedLimit
		return v
	}
	t := &c.table
	if t.known == nil {
		t.known = make(map[uint64]series[counterSeries], len(metrics))
	}
	// Nothing is taken over before all series are found good: the next increment must begin at the
	// last scrape that counted.
	fresh := make(map[uint64]counterSeries, len(metrics))
	for _, m := range metrics {
		now, ok := value(m)
		if !ok {
			v.rejected = rejectedType
			return v
		}
		if v.rejected = badCount(now); v.rejected != "" {
			return v
		}
		id := seriesID(m)
		if _, twice := fresh[id]; twice {
			v.rejected = rejectedDuplicate
			return v
		}
		next := counterSeries{value: now}
		if before, known := t.known[id]; known {
			next.selected, next.complete = before.value.selected, before.value.complete
		} else {
			next.selected, next.complete = c.errors.match(m)
		}
		v.selectable = v.selectable || next.complete
		fresh[id] = next
	}

	var inc increment
	t.round++
	for id, next := range fresh {
		before, known := t.known[id]
		grown := 0.0
		switch {
		case known && next.value >= before.value.value:
			grown = next.value - before.value.value
		case known, t.begun && c.fromZero:
			grown = next.value
		}
		inc.all += grown
		if next.selected {
			inc.selected += grown
		}
		t.known[id] = series[counterSeries]{next, t.round}
	}
	t.begun = true
	t.trimTo(maxSeries)
	c.add(at, inc)
	return v
}

// counterOf finds a counter's series and how to read them. A name that ends in _count may be that of
// a histogram's or summary's number of observations.
func counterOf(f families, name string) ([]*dto.Metric, func(*dto.Metric) (float64, bool)) {
	if family := f[name]; family != nil {
		return family.GetMetric(), scalar
	}
	if base, ok := strings.CutSuffix(name, "_count"); ok {
		return f[base].GetMetric(), observations
	}
	return nil, scalar
}

// scalar is the value of a counter, a gauge or an untyped sample: the type that an exporter declares
// is often untyped, or wrong.
func scalar(m *dto.Metric) (float64, bool) {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue(), true
	case m.Gauge != nil:
		return m.Gauge.GetValue(), true
	case m.Untyped != nil:
		return m.Untyped.GetValue(), true
	}
	return 0, false
}

func observations(m *dto.Metric) (float64, bool) {
	switch {
	case m.Histogram != nil:
		return either(m.Histogram.GetSampleCountFloat(), m.Histogram.GetSampleCount()), true
	case m.Summary != nil:
		return float64(m.Summary.GetSampleCount()), true
	}
	return 0, false
}

// gauge measures the values of a gauge family.
type gauge struct {
	track[float64]
	family string
	mean   bool // of the series; else their sum
}

func (g *gauge) observe(f families, at time.Time, maxSeries int) verdict {
	metrics := f[g.family].GetMetric()
	v := verdict{exported: len(metrics) > 0}
	if !v.exported {
		return v
	}
	if len(metrics) > maxSeries {
		v.rejected = rejectedLimit
		return v
	}
	sum := 0.0
	for _, m := range metrics {
		value, ok := scalar(m)
		if !ok {
			v.rejected = rejectedType
			return v
		}
		if v.rejected = badCount(value); v.rejected != "" {
			return v
		}
		sum += value
	}
	if g.mean {
		sum /= float64(len(metrics))
	}
	g.add(at, sum)
	return v
}

// distribution measures the increments of a histogram family, its series added up, each with its own
// resets.
type distribution struct {
	track[histogram] // nil: nothing was observed
	family           string
	table            seriesTable[histogram]
}

func (d *distribution) observe(f families, at time.Time, maxSeries int) verdict {
	metrics := f[d.family].GetMetric()
	v := verdict{exported: len(metrics) > 0}
	t := &d.table
	if !v.exported {
		if len(t.known) == 0 {
			t.begun = true
			d.add(at, nil)
		}
		return v
	}
	if len(metrics) > maxSeries {
		v.rejected = rejectedLimit
		return v
	}
	if t.known == nil {
		t.known = make(map[uint64]series[histogram], len(metrics))
	}
	fresh := make(map[uint64]histogram, len(metrics))
	var inc histogram
	comparable := true
	for _, m := range metrics {
		now, why := histogramOf(m.GetHistogram(), maxSeries)
		if v.rejected = why; why != "" {
			return v
		}
		id := seriesID(m)
		if _, twice := fresh[id]; twice {
			v.rejected = rejectedDuplicate
			return v
		}
		fresh[id] = now
		var grown histogram
		if before, known := t.known[id]; known {
			if grown = now.since(before.value); grown == nil {
				comparable = false
			}
		} else if t.begun {
			grown = now
		}
		switch {
		case grown == nil:
		case inc == nil:
			inc = grown
		default:
			if inc = inc.plus(grown); inc == nil {
				v.rejected = rejectedBuckets
				return v
			}
		}
	}
	if !comparable {
		// The buckets are others than before: what was measured with the old ones cannot be added to.
		*d = distribution{family: d.family}
		t.known = make(map[uint64]series[histogram], len(metrics))
		inc = nil
	}
	t.round++
	for id, now := range fresh {
		t.known[id] = series[histogram]{now, t.round}
	}
	t.begun = true
	t.trimTo(maxSeries)
	d.add(at, inc)
	return v
}
