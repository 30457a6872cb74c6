package promapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// Manager asks about Services. SetTargets and Targets may be called at any time from any goroutine,
// also before Run. Run is one loop; each Service has a goroutine that waits for its turn and asks all
// its queries at once, as far as the server's slots allow. mu protects the Services and what is shown
// of them, and is never held over I/O.
type Manager struct {
	options Options
	client  *http.Client
	servers map[string]*server
	metrics *metrics
	changed chan struct{} // holds a token when the set of Services changed

	mu       sync.Mutex
	running  bool
	services map[string]*service
}

// service is a Service with its state, all of it under the Manager's mu. One that is taken away and
// comes back is another.
type service struct {
	plan    *plan
	targets map[term]signals.Target
	replan  chan struct{} // holds a token when plan changed
}

// New makes a Manager without Services. It starts nothing until Run.
func New(options Options) *Manager {
	options.Slots = cmp.Or(max(0, options.Slots), defaultSlots)
	options.MaxBody = cmp.Or(max(0, options.MaxBody), defaultMaxBody)
	options.MaxResults = cmp.Or(max(0, options.MaxResults), defaultMaxResults)
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	m := &Manager{
		options:  options,
		client:   newHTTPClient(options),
		servers:  map[string]*server{},
		changed:  make(chan struct{}, 1),
		services: map[string]*service{},
	}
	for name, base := range options.Servers {
		m.servers[name] = newServer(base, m.client, options)
	}
	m.metrics = newMetrics(options.Registerer, m.count)
	return m
}

// SetTargets replaces the set of Services. One that stays keeps its phase and, for every query that it
// still has, its status; one that is gone is forgotten. The same set again does nothing. The Manager
// keeps the Specs: nobody may change what they point to.
func (m *Manager) SetTargets(specs []Spec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := map[string]bool{}
	for _, spec := range specs {
		wanted[spec.Service] = true
		s := m.services[spec.Service]
		if s != nil && reflect.DeepEqual(s.plan.spec, spec) {
			continue
		}
		if s == nil {
			s = &service{replan: make(chan struct{}, 1)}
			m.services[spec.Service] = s
		}
		m.adopt(s, newPlan(spec, m.servers))
	}
	maps.DeleteFunc(m.services, func(name string, _ *service) bool { return !wanted[name] })
	offer(m.changed)
}

// adopt gives a Service a plan and what is shown of its queries.
func (m *Manager) adopt(s *service, p *plan) {
	before, unknownBefore := s.targets, s.plan != nil && s.plan.server == nil
	s.plan, s.targets = p, map[term]signals.Target{}
	for _, q := range p.queries {
		t := before[q.term]
		t.Query, t.Owner, t.Services = q.text, p.spec.Service+" "+string(q.term), []string{p.spec.Service}
		if p.server == nil {
			name := p.spec.Prometheus.Server
			t = signals.Target{
				Query: t.Query, Owner: t.Owner, Services: t.Services, Health: signals.Down,
				LastError: fmt.Sprintf("no server named %s: serve --prometheus %s=URL", name, name),
			}
		} else if t.URL != p.server.shown || t.Health == "" {
			t.URL, t.Health, t.LastError = p.server.shown, signals.Unknown, ""
		}
		s.targets[q.term] = t
	}
	if p.server == nil && !unknownBefore {
		m.options.Logger.Warn("a policy names a Prometheus server that serve was not given; its Service has no readings",
			"service", p.spec.Service, "server", p.spec.Prometheus.Server)
	}
	offer(s.replan)
}

// offer puts a token into a channel that holds one.
func offer(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Targets are the queries as they stand, by Service and term.
func (m *Manager) Targets() []signals.Target {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []signals.Target
	for _, s := range m.services {
		all = slices.AppendSeq(all, maps.Values(s.targets))
	}
	slices.SortFunc(all, func(a, b signals.Target) int { return cmp.Compare(a.Owner, b.Owner) })
	return all
}

// count is the number of queries of a health.
func (m *Manager) count(health signals.Health) (n float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.services {
		for _, t := range s.targets {
			if t.Health == health {
				n++
			}
		}
	}
	return n
}

// Run asks until ctx is cancelled and then returns nil, when the last query has ended. It sends batches
// of readings up, and never waits for the reader: what is not taken yet stays, the latest reading of
// each endpoint. The reader owns the batch it gets. Run may be called once.
func (m *Manager) Run(ctx context.Context, up chan<- []signals.Reading) error {
	m.mu.Lock()
	if m.running {
		m.mu.Unlock()
		return errors.New("promapi: Run was called twice")
	}
	m.running = true
	m.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	var followers sync.WaitGroup
	defer m.client.CloseIdleConnections()
	defer followers.Wait()
	defer cancel()

	rounds := make(chan round)
	following := map[*service]context.CancelFunc{}
	var pending signals.Outbox
	timer := time.NewTimer(0)
	defer timer.Stop()
	offer(m.changed)
	for {
		to, batch, wait := pending.Offer(up, time.Now())
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.changed:
			current := m.current()
			for s, stop := range following {
				if _, stays := current[s]; !stays {
					stop()
					delete(following, s)
				}
			}
			for s, name := range current {
				if following[s] == nil {
					ctx, stop := context.WithCancel(ctx)
					following[s] = stop
					followers.Go(func() { m.follow(ctx, name, s, rounds) })
				}
			}
		case <-timer.C:
		case to <- batch:
			pending.Sent()
		case r := <-rounds:
			if following[r.service] != nil {
				m.metrics.superseded.Add(float64(pending.Add(r.readings, time.Now())))
			}
		}
	}
}

// current are the Services with their names.
func (m *Manager) current() map[*service]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[*service]string, len(m.services))
	for name, s := range m.services {
		all[s] = name
	}
	return all
}

// round is what the queries of a Service gave at one turn.
type round struct {
	service  *service
	readings []signals.Reading
}

// follow asks about a Service at each of its turns until ctx is done.
func (m *Manager) follow(ctx context.Context, name string, s *service, rounds chan<- round) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		m.mu.Lock()
		p := s.plan
		m.mu.Unlock()
		if p.server == nil {
			timer.Stop() // the servers are fixed: only another plan helps
		} else {
			now := time.Now()
			timer.Reset(signals.NextTurn(name, p.interval, now).Sub(now))
		}
		select {
		case <-ctx.Done():
			return
		case <-s.replan:
			continue
		case <-timer.C:
		}
		readings := m.ask(ctx, s, p)
		if ctx.Err() != nil {
			return // what was cut short says nothing
		}
		select {
		case rounds <- round{s, readings}:
		case <-ctx.Done():
			return
		}
	}
}

// ask sends the queries of a Service at once and waits for all: a reading is what they say together.
func (m *Manager) ask(ctx context.Context, s *service, p *plan) []signals.Reading {
	evaluated := time.Now().Truncate(time.Millisecond) // as the API takes it
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	answers := make(chan answer, len(p.queries))
	for _, q := range p.queries {
		go func() { answers <- m.query(ctx, p.server, q, evaluated, p.timeout) }()
	}
	v := values{}
	for range p.queries {
		a := <-answers
		m.note(s, p, a, p.take(a, v))
	}
	return p.readings(v, evaluated)
}

// note counts what became of a query, and shows it unless the Service has another plan by now.
func (m *Manager) note(s *service, p *plan, a answer, d digest) {
	m.metrics.duration.Observe(a.took.Seconds())
	for reason, n := range d.dropped {
		m.metrics.dropped.WithLabelValues(reason).Add(float64(n))
	}
	if a.warned {
		m.metrics.warnings.Inc()
	}
	if a.failure != nil {
		m.metrics.failures.WithLabelValues(a.failure.reason).Inc()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.plan != p {
		return
	}
	t := s.targets[a.term]
	t.LastScrape, t.LastDuration = a.at, a.took
	if a.failure != nil {
		t.Health, t.LastError, t.Samples, t.Missing, t.Rejected = signals.Down, a.failure.message, 0, nil, nil
	} else {
		t.Health, t.LastError, t.Samples = signals.Up, "", len(a.results)
		t.Missing, t.Rejected = d.missing(len(p.spec.Endpoints)), d.rejected
	}
	s.targets[a.term] = t
}
