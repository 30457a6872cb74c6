package pipeline

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/signals/lrs"
	"evenkeel.io/controlplane/internal/signals/promapi"
	"evenkeel.io/controlplane/internal/signals/scrape"
	"evenkeel.io/controlplane/internal/weights"
)

// metadataAutoLimit is the number of endpoints up to which publish.metadata: Auto sends metadata. A
// push with two metadata keys costs an Envoy two to three times as much as one without.
const metadataAutoLimit = 1000

// weighed is a Service as its weight machine is told of it.
func (c *core) weighed(s *catalog.Service) weights.Service {
	w := weights.Service{
		Name:      s.Name,
		Config:    config(s),
		Endpoints: make([]weights.Endpoint, len(s.Endpoints)),
	}
	for i, e := range s.Endpoints {
		w.Endpoints[i] = weights.Endpoint{
			Key:        signals.Key{Service: s.Name, Address: e.Address},
			Instance:   e.Instance,
			Base:       e.Base,
			Multiplier: e.Multiplier,
			ReadySince: e.ReadySince,
		}
	}
	for name, f := range c.fleets {
		if f.object == nil {
			continue
		}
		if _, routed := slices.BinarySearch(f.object.Services, s.Name); routed {
			w.PickingWorkers += c.workersOf(name)
		}
	}
	for _, key := range edsOnlyKeys(s) {
		w.PickingWorkers += c.workersOf(key)
	}
	return w
}

// addresses are those of a Service's endpoints.
func addresses(s *catalog.Service) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range s.Endpoints {
			if !yield(s.Endpoints[i].Address) {
				return
			}
		}
	}
}

// workersOf asks once per tick how many Envoy workers a fleet has.
func (c *core) workersOf(fleet string) int {
	if c.options.Workers == nil {
		return 0
	}
	n, known := c.workers[fleet]
	if !known {
		n = c.options.Workers(fleet)
		c.workers[fleet] = n
	}
	return n
}

// config is the policy in force in the terms of package weights. The policy is complete and valid.
func config(s *catalog.Service) weights.Config {
	if !s.HasPolicy {
		c := weights.DefaultConfig()
		c.Mode = weights.Equal
		c.Metadata = false
		return c
	}
	p := s.Policy
	return weights.Config{
		Mode:                        weights.Mode(*p.Mode),
		Strategy:                    string(*p.Strategy),
		Blend:                       fraction(p.Blend),
		SlowStart:                   p.Capacity.SlowStart.Duration,
		Floor:                       *p.Capacity.Floor,
		Ceiling:                     *p.Capacity.Ceiling,
		MaxRatio:                    *p.Capacity.MaxRatio,
		MaxShed:                     fraction(p.Capacity.MaxShed),
		Tilt:                        *p.Capacity.Tilt,
		ConfiguredRequestsPerSecond: *p.Capacity.ConfiguredRequestsPerSecond,
		RTTQuantile:                 *p.RTT.Quantile,
		RTTAlpha:                    *p.RTT.Alpha,
		RTTWindow:                   p.RTT.Window.Duration,
		PublishInterval:             p.Publish.Interval.Duration,
		Deadband:                    fraction(p.Publish.Deadband),
		Urgent:                      fraction(p.Publish.Urgent),
		Metadata: *p.Publish.Metadata == v1alpha1.MetadataAlways ||
			*p.Publish.Metadata == v1alpha1.MetadataAuto && len(s.Endpoints) <= metadataAutoLimit,
	}
}

func fraction(p *v1alpha1.Percent) float64 {
	f, _ := p.Fraction() // validated when the policy was accepted
	return f
}

// withPolicy are the services of which anything is read, by name. The others, which may be all, are not even sorted:
// this is asked at every change of an endpoint.
func withPolicy(c *catalog.Catalog) (all []*catalog.Service) {
	for _, s := range c.Services {
		if s.HasPolicy {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *catalog.Service) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// scrapeSpecs are the scrape targets of all services: the endpoints of one Pod share one. A Pod behind
// two services is named twice, with what each service's policy reads of it.
func scrapeSpecs(c *catalog.Catalog) []scrape.Spec {
	var out []scrape.Spec
	for _, s := range withPolicy(c) {
		of := map[string]int{} // index in out by owner and URL
		for _, e := range s.Endpoints {
			if e.ScrapeURL == "" {
				continue
			}
			owner := cmp.Or(e.Pod, e.Address)
			i, ok := of[owner+" "+e.ScrapeURL]
			if !ok {
				i = len(out)
				of[owner+" "+e.ScrapeURL] = i
				out = append(out, scrape.Spec{
					URL: e.ScrapeURL, Owner: owner, Instance: e.Instance, CPULimit: e.CPULimit,
					Scrape: *s.Policy.Signals.Scrape, Window: window(s.Policy),
				})
			}
			out[i].Endpoints = append(out[i].Endpoints, signals.Key{Service: s.Name, Address: e.Address})
		}
	}
	return out
}

// prometheusSpecs are the services whose readings a Prometheus server has.
func prometheusSpecs(c *catalog.Catalog) []promapi.Spec {
	var out []promapi.Spec
	for _, s := range withPolicy(c) {
		if s.Policy.Signals.Prometheus == nil || len(s.Endpoints) == 0 {
			continue
		}
		spec := promapi.Spec{Service: s.Name, Prometheus: *s.Policy.Signals.Prometheus, Window: window(s.Policy)}
		for _, e := range s.Endpoints {
			spec.Endpoints = append(spec.Endpoints, promapi.Endpoint{
				Address: e.Address, Pod: e.Pod, Instance: e.Instance, CPULimit: e.CPULimit,
			})
		}
		out = append(out, spec)
	}
	return out
}

// reportSpecs are the services whose load Envoys are to report.
func reportSpecs(c *catalog.Catalog) []lrs.Spec {
	var out []lrs.Spec
	for _, s := range withPolicy(c) {
		if !*s.Policy.Signals.LoadReports || len(s.Endpoints) == 0 {
			continue
		}
		spec := lrs.Spec{Service: s.Name, Fleets: edsOnlyKeys(s)}
		for fleet, f := range c.Fleets {
			if _, routed := slices.BinarySearch(f.Services, s.Name); routed {
				spec.Fleets = append(spec.Fleets, fleet)
			}
		}
		slices.Sort(spec.Fleets)
		for _, e := range s.Endpoints {
			spec.Endpoints = append(spec.Endpoints, e.Address)
		}
		out = append(out, spec)
	}
	return out
}

// window is the sliding window of rates and quantiles: RTT's own, for Capacity long enough to hold two
// scrapes and a fair number of requests. A Prometheus server's is never shorter than two of its own
// scrapes, which may be far apart.
func window(p v1alpha1.BalancePolicySpec) time.Duration {
	least := 6 * time.Second
	if *p.Strategy == v1alpha1.StrategyRTT {
		least = p.RTT.Window.Duration
	}
	switch {
	case p.Signals.Scrape == nil:
		return max(least, 2*p.Signals.Prometheus.Interval.Duration)
	case *p.Strategy == v1alpha1.StrategyRTT:
		return least
	}
	return max(least, 2*p.Signals.Scrape.Interval.Duration)
}
