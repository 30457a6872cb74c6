package pipeline

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
)

// LimitsServed are the limits of a fleet.
type LimitsServed struct {
	// Rules as they are served, which is not what the objects say while the fleet is pinned.
	Rules []*rlsconfig.Rule
	// Changing says that the rules of before hold besides, until all Envoys have acknowledged.
	Changing bool
	// Decisions are the factors of rules that adapt, by ID.
	Decisions map[string]adapt.Decision
}

// adapting is what limits are multiplied with, by fleet and rule ID.
type adapting struct {
	factors   map[string]map[string]adapt.Factor
	decisions map[string]map[string]adapt.Decision
	// factorNews says that followers are to be told.
	factorNews bool
	// reference is what reference services are served, referenceNews that it is new.
	reference     *snapshot.Snapshot
	referenceNews bool
}

// adapt moves the factors of all rules that adapt by one tick.
func (c *core) adapt(now time.Time) {
	moved := map[string]bool{}
	factors := map[string]map[string]adapt.Factor{}
	c.limits.decisions = map[string]map[string]adapt.Decision{}
	var questions []question
	for key, l := range c.limits.of {
		for _, rule := range l.rules {
			a := rule.Limit.Adapt
			if a == nil || rule.Limit.Mode != nil && *rule.Limit.Mode == v1alpha1.LimitOff {
				continue
			}
			e := adapt.Evidence{Services: c.backends(now, c.fleets[key], rule)}
			if a.By == v1alpha1.AdaptByMetric {
				q := question{a.Metric.Server, a.Metric.Query}
				questions = append(questions, q)
				e.Metric = c.answers.last(q)
			}
			f := c.limits.factors[key][rule.ID]
			before := f.Value
			d := f.Step(now, a, e)
			if factors[key] == nil {
				factors[key], c.limits.decisions[key] = map[string]adapt.Factor{}, map[string]adapt.Decision{}
			}
			factors[key][rule.ID], c.limits.decisions[key][rule.ID] = f, d
			if d.Value != before {
				moved[key] = true
			}
			if d.Value != before && before != 0 {
				c.log.Info("a limit follows its backends", "fleet", key, "limit", rule.ID, "factor", d.Value, "was", before, "why", d.Why)
			}
		}
	}
	for key, of := range c.limits.factors {
		if len(of) != len(factors[key]) {
			moved[key] = true
		}
	}
	c.answers.want(questions)
	c.limits.factors = factors
	c.applyFactors(moved)
}

// applyFactors tells who counts of the factors, those of the given fleets being new.
func (c *core) applyFactors(moved map[string]bool) {
	if len(moved) == 0 {
		return
	}
	c.unsaved, c.limits.factorNews = true, true
	if c.options.Limits.Service != nil {
		all := map[string]map[string]float64{}
		for key := range c.limits.factors {
			all[key] = c.factorsOf(key)
		}
		c.options.Limits.Service.SetFactors(all)
	}
	for key := range moved {
		if c.limits.of[key] != nil {
			c.refer(key)
		}
	}
}

// takeOverFactors has the factors of another, or of before a restart, in force.
func (c *core) takeOverFactors(factors map[string]map[string]adapt.Factor) {
	moved := map[string]bool{}
	for _, of := range []map[string]map[string]adapt.Factor{factors, c.limits.factors} {
		for key := range of {
			if !maps.Equal(factors[key], c.limits.factors[key]) {
				moved[key] = true
			}
		}
	}
	c.limits.factors = factors
	c.applyFactors(moved)
}

func (c *core) factorsOf(key string) map[string]float64 {
	out := make(map[string]float64, len(c.limits.factors[key]))
	for id, f := range c.limits.factors[key] {
		out[id] = f.Value
	}
	return out
}

// backends is what is known of the services that requests under a rule are sent to.
func (c *core) backends(now time.Time, f *fleet, rule *rlsconfig.Rule) []adapt.Service {
	if f == nil || f.object == nil {
		return nil
	}
	var out []adapt.Service
	for _, name := range servicesUnder(f.object, rule) {
		s := c.services[name]
		if s == nil || s.object == nil {
			continue
		}
		of := adapt.Service{Name: name, Ready: len(s.object.Endpoints)}
		if !s.object.HasPolicy {
			of.Unmeasured = "no BalancePolicy reaches it, so nothing is measured"
		}
		for _, e := range s.object.Endpoints {
			r, ok := c.readings[signals.Key{Service: name, Address: e.Address}]
			if !ok || now.Sub(r.To) > r.SourceInterval*5/2 {
				of.Stale++
			} else if window := r.To.Sub(r.From).Seconds(); window > 0 {
				of.Traffic += (r.Done + r.Failed) / window
			}
		}
		weight := 0.0
		for _, d := range s.decisions.Endpoints {
			of.Ability += float64(d.Weight) * d.QPSDecayFactor
			weight += float64(d.Weight)
		}
		if weight > 0 {
			of.Ability /= weight
		}
		of.Why, of.Backlog = s.decisions.Strain, s.decisions.Backlog
		out = append(out, of)
	}
	return out
}

// servicesUnder are the services that routes under a rule send to, sorted; of a rule of some backends, those.
func servicesUnder(f *catalog.Fleet, rule *rlsconfig.Rule) []string {
	var names []string
	for _, l := range f.Listeners {
		for _, h := range l.VirtualHosts {
			for i := range h.Routes {
				route := &h.Routes[i]
				if !slices.ContainsFunc(route.Limits, func(l catalog.RouteLimit) bool { return l.Rule.ID == rule.ID }) {
					continue
				}
				for _, b := range route.Backends {
					if b.Service != "" && b.Weight > 0 && meant(rule, b.Service) {
						names = append(names, b.Service)
					}
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func meant(rule *rlsconfig.Rule, service string) bool {
	if rule.Limit.When == nil || len(rule.Limit.When.Backends) == 0 {
		return true
	}
	_, name, _ := strings.Cut(service, "/")
	name, _, _ = strings.Cut(name, ":")
	return slices.Contains(rule.Limit.When.Backends, name)
}

// Asker asks Prometheus servers for single numbers.
type Asker interface {
	// Ask asks the server of that name; an error says what was wrong, for a person.
	Ask(ctx context.Context, server, query string) (float64, error)
}

type question struct{ server, query string }

const (
	// askEvery is how often a question is asked, and askWithin how long an answer may take.
	askEvery  = 5 * time.Second
	askWithin = 2 * time.Second
	// maxQuestions bounds what is asked; limits beyond it are held, and say so.
	maxQuestions = 256
	// askAtOnce is how many are under way.
	askAtOnce = 8
)

// answers are the last answers to the questions of limits. Its methods are safe for concurrent use: the worker
// says what is wanted and reads, run asks.
type answers struct {
	asker Asker

	mu  sync.Mutex
	got map[question]adapt.Metric
}

func newAnswers(asker Asker) *answers {
	return &answers{asker: asker, got: map[question]adapt.Metric{}}
}

// want has the questions asked from now on, and no others.
func (a *answers) want(questions []question) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := make(map[question]adapt.Metric, len(questions))
	for _, q := range questions {
		if len(next) < maxQuestions {
			next[q] = a.got[q]
		}
	}
	a.got = next
}

func (a *answers) last(q question) adapt.Metric {
	a.mu.Lock()
	defer a.mu.Unlock()
	m, wanted := a.got[q]
	switch {
	case a.asker == nil:
		m.Error = "nobody is asked here"
	case !wanted && len(a.got) >= maxQuestions:
		m.Error = "too many limits follow metrics: the query is not asked"
	}
	m.Every = askEvery
	return m
}

// run asks until ctx is done.
func (a *answers) run(ctx context.Context) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		a.askAll(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *answers) askAll(ctx context.Context) {
	a.mu.Lock()
	questions := slices.Collect(maps.Keys(a.got))
	a.mu.Unlock()
	var asking sync.WaitGroup
	slots := make(chan struct{}, askAtOnce)
	for _, q := range questions {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			at := time.Now()
			v, err := a.asker.Ask(ctx, q.server, q.query)
			a.mu.Lock()
			defer a.mu.Unlock()
			m, wanted := a.got[q]
			switch {
			case !wanted:
				return
			case err != nil:
				m.Error = err.Error()
			default:
				m = adapt.Metric{At: at, Value: v}
			}
			a.got[q] = m
		})
	}
	asking.Wait()
}
