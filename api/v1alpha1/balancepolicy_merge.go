package v1alpha1

import "cmp"

// Over is the policy that holds where both s and general apply: field by field s wins, and general
// fills what s leaves out. TargetRefs are those of s.
//
// Four fields are more than their leaves. The source of readings is one choice: where s names scrape or
// prometheus, general's part in the other is gone. A preset stands for the four terms it names, so the preset
// of s wins over terms that general spells out. CPU is one choice: a gauge in s displaces a counter in
// general. And the timeout of a scrape never exceeds the interval, whichever of them was inherited.
func (s BalancePolicySpec) Over(general BalancePolicySpec) BalancePolicySpec {
	return BalancePolicySpec{
		TargetRefs: s.TargetRefs,
		Mode:       first(s.Mode, general.Mode),
		Strategy:   first(s.Strategy, general.Strategy),
		Blend:      first(s.Blend, general.Blend),
		Base:       first(s.Base, general.Base),
		Signals:    merge(s.Signals, general.Signals, Signals.over),
		Capacity:   merge(s.Capacity, general.Capacity, CapacityParameters.over),
		RTT:        merge(s.RTT, general.RTT, RTTParameters.over),
		Publish:    merge(s.Publish, general.Publish, Publish.over),
	}
}

// over takes the source that s names, else general's. Both are named by DefaultBalance alone, which
// has the defaults of either: then scraping is what happens.
func (s Signals) over(general Signals) Signals {
	switch {
	case s.Prometheus != nil && s.Scrape != nil:
	case s.Prometheus != nil:
		general.Scrape = nil
	case s.Scrape != nil, general.Scrape != nil:
		general.Prometheus = nil
	}
	return Signals{
		Scrape:      merge(s.Scrape, general.Scrape, Scrape.over),
		Prometheus:  merge(s.Prometheus, general.Prometheus, Prometheus.over),
		LoadReports: first(s.LoadReports, general.LoadReports),
	}
}

// over is by field, but for the preset: it stands for queries of every term, so the preset of s wins
// over queries that general spells out.
func (p Prometheus) over(general Prometheus) Prometheus {
	if p.Preset != nil {
		general.Queries = nil
	}
	return Prometheus{
		Server:   cmp.Or(p.Server, general.Server),
		Interval: first(p.Interval, general.Interval),
		Preset:   first(p.Preset, general.Preset),
		Queries:  merge(p.Queries, general.Queries, PrometheusQueries.over),
	}
}

func (q PrometheusQueries) over(general PrometheusQueries) PrometheusQueries {
	return PrometheusQueries{
		CPU:        first(q.CPU, general.CPU),
		Requests:   first(q.Requests, general.Requests),
		Errors:     first(q.Errors, general.Errors),
		LatencyP50: first(q.LatencyP50, general.LatencyP50),
		LatencyP90: first(q.LatencyP90, general.LatencyP90),
		InFlight:   first(q.InFlight, general.InFlight),
	}
}

func (s Scrape) over(general Scrape) Scrape {
	s, general = s.expanded(), general.expanded()
	merged := Scrape{
		Interval: first(s.Interval, general.Interval),
		Timeout:  first(s.Timeout, general.Timeout),
		Preset:   first(s.Preset, general.Preset),
		CPU:      first(s.CPU, general.CPU),
		Requests: s.Requests.over(general.Requests),
		Latency:  first(s.Latency, general.Latency),
		InFlight: first(s.InFlight, general.InFlight),
	}
	if merged.Interval != nil && merged.Timeout != nil {
		merged.Timeout = duration(min(merged.Timeout.Duration, merged.Interval.Duration))
	}
	return merged
}

func (c CapacityParameters) over(general CapacityParameters) CapacityParameters {
	return CapacityParameters{
		SlowStart:                   first(c.SlowStart, general.SlowStart),
		Floor:                       first(c.Floor, general.Floor),
		Ceiling:                     first(c.Ceiling, general.Ceiling),
		MaxRatio:                    first(c.MaxRatio, general.MaxRatio),
		MaxShed:                     first(c.MaxShed, general.MaxShed),
		Tilt:                        first(c.Tilt, general.Tilt),
		ConfiguredRequestsPerSecond: first(c.ConfiguredRequestsPerSecond, general.ConfiguredRequestsPerSecond),
	}
}

func (r RTTParameters) over(general RTTParameters) RTTParameters {
	return RTTParameters{
		Quantile: first(r.Quantile, general.Quantile),
		Alpha:    first(r.Alpha, general.Alpha),
		Window:   first(r.Window, general.Window),
	}
}

func (p Publish) over(general Publish) Publish {
	return Publish{
		Interval: first(p.Interval, general.Interval),
		Deadband: first(p.Deadband, general.Deadband),
		Urgent:   first(p.Urgent, general.Urgent),
		Metadata: first(p.Metadata, general.Metadata),
	}
}

// first is the more specific value if there is one.
func first[T any](specific, general *T) *T {
	if specific != nil {
		return specific
	}
	return general
}

// merge is first for a struct that is itself merged by field.
func merge[T any](specific, general *T, over func(T, T) T) *T {
	var none T
	switch {
	case specific == nil && general == nil:
		return nil
	case specific == nil:
		return new(over(none, *general))
	case general == nil:
		return new(over(*specific, none))
	}
	return new(over(*specific, *general))
}
