package scrape

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

const (
	defaultSlots      = 256
	defaultMaxBody    = 1 << 20
	defaultMaxSamples = 10_000
)

// Manager scrapes targets. SetTargets and Targets may be called at any time from any goroutine, also
// before Run. Run is one loop that starts a goroutine per scrape, never more than Options.Slots; mu
// protects the targets and their turns, and is never held over I/O.
type Manager struct {
	options Options
	fetcher *fetcher
	metrics *metrics
	// decoders bounds how many pages are decoded at once: to use all CPUs is enough, and what a
	// hostile page grows to in memory counts that often only.
	decoders chan struct{}
	changed  chan struct{} // holds a token when targets changed

	mu      sync.Mutex
	running bool
	targets map[identity]*target
	// leaving are removed targets whose scrape is still under way. One that comes back meanwhile is
	// the same target: two scrapes of it at once would be two otherwise.
	leaving  map[identity]*target
	schedule schedule
}

// target is a target with its state. The loop and SetTargets change it under the Manager's mu, but
// for memory, which the scrape under way has to itself.
type target struct {
	id     identity
	plan   *plan
	turn   turn
	memory memory
	status signals.Target
}

// New makes a Manager without targets. It starts nothing until Run.
func New(options Options) *Manager {
	options.Slots = cmp.Or(max(0, options.Slots), defaultSlots)
	options.MaxBody = cmp.Or(max(0, options.MaxBody), defaultMaxBody)
	options.MaxSamples = cmp.Or(max(0, options.MaxSamples), defaultMaxSamples)
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	m := &Manager{
		options:  options,
		fetcher:  newFetcher(options),
		decoders: make(chan struct{}, runtime.GOMAXPROCS(0)),
		changed:  make(chan struct{}, 1),
		targets:  map[identity]*target{},
		leaving:  map[identity]*target{},
		schedule: schedule{slots: options.Slots},
	}
	m.metrics = newMetrics(options.Registerer, m.count)
	return m
}

// SetTargets replaces the set of targets. A target that stays keeps its phase, its status and all
// measurements that its new Spec still asks for; one that is gone is forgotten. Specs of the same
// owner and URL are one target. The same set again does nothing. The Manager keeps the Specs: nobody may
// change what they point to.
func (m *Manager) SetTargets(specs []Spec) {
	grouped := map[identity][]Spec{}
	for _, s := range specs {
		id := identity{s.Owner, s.URL}
		grouped[id] = append(grouped[id], s)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for id, t := range m.targets {
		if _, stays := grouped[id]; !stays {
			m.schedule.remove(t)
			delete(m.targets, id)
			if t.turn.running {
				m.leaving[id] = t
			}
		}
	}
	for id, specs := range grouped {
		t := m.targets[id]
		if left := m.leaving[id]; left != nil {
			delete(m.leaving, id)
			t, m.targets[id] = left, left
			m.schedule.put(t, now)
		}
		if t != nil && reflect.DeepEqual(t.plan.specs, specs) {
			continue
		}
		p := newPlan(specs)
		if t == nil {
			t = &target{
				id:     id,
				turn:   turn{position: -1},
				status: signals.Target{URL: id.url, Owner: id.owner, Health: signals.Unknown},
			}
			m.targets[id] = t
		}
		moved := t.plan == nil || t.plan.interval != p.interval
		t.plan, t.status.Services = p, p.services
		if moved {
			m.schedule.put(t, now)
		}
	}
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Targets are the targets as they stand, by owner and URL.
func (m *Manager) Targets() []signals.Target {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]signals.Target, 0, len(m.targets))
	for _, t := range m.targets {
		all = append(all, t.status)
	}
	slices.SortFunc(all, func(a, b signals.Target) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.URL, b.URL))
	})
	return all
}

// count is the number of targets of a health.
func (m *Manager) count(health signals.Health) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, t := range m.targets {
		if t.status.Health == health {
			n++
		}
	}
	return float64(n)
}

// result is a scrape that has ended.
type result struct {
	target   *target
	at       time.Time // when it began
	took     time.Duration
	failure  *failure
	samples  int
	observed observation
}

// Run scrapes until ctx is cancelled and then returns nil, when the last scrape has ended. It sends
// batches of readings up, and never waits for the reader: what is not taken yet stays, the latest
// reading of each endpoint. The reader owns the batch it gets. Run may be called once.
func (m *Manager) Run(ctx context.Context, up chan<- []signals.Reading) error {
	m.mu.Lock()
	if m.running {
		m.mu.Unlock()
		return errors.New("scrape: Run was called twice")
	}
	m.running = true
	m.mu.Unlock()

	var scrapes sync.WaitGroup
	defer m.fetcher.client.CloseIdleConnections()
	defer scrapes.Wait()
	// As many places as slots: no scrape waits to deliver its result.
	results := make(chan result, m.options.Slots)
	var pending signals.Outbox
	timer := time.NewTimer(0)
	defer timer.Stop()

	for {
		now := time.Now()
		wake := m.startDue(ctx, now, results, &scrapes)
		to, batch, wait := pending.Offer(up, now)
		if wait > 0 {
			wake = min(wake, wait)
		}
		timer.Reset(wake)
		select {
		case <-ctx.Done():
			return nil
		case <-m.changed:
		case <-timer.C:
		case to <- batch:
			pending.Sent()
		case r := <-results:
			if m.finish(r) {
				m.metrics.superseded.Add(float64(pending.Add(r.observed.readings, time.Now())))
			}
		}
	}
}

// startDue begins the scrapes that are due and says how long until the next one is.
func (m *Manager) startDue(ctx context.Context, now time.Time, results chan<- result, scrapes *sync.WaitGroup) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	begin, skipped := m.schedule.start(now)
	m.metrics.skipped.Add(float64(skipped))
	for _, t := range begin {
		m.metrics.lateness.Observe(now.Sub(t.turn.queuedAt).Seconds())
		p := t.plan
		scrapes.Go(func() { results <- m.scrape(ctx, t, p) })
	}
	if at, ok := m.schedule.next(); ok {
		return at.Sub(now)
	}
	return time.Hour
}

// scrape reads a target once. It never panics: a defect that one page brings out stays with its target.
func (m *Manager) scrape(ctx context.Context, t *target, p *plan) (r result) {
	r = result{target: t, at: time.Now()}
	defer func() {
		if cause := recover(); cause != nil {
			// The stack alone: the cause may quote the page.
			m.options.Logger.Error("panic in a scrape", "owner", t.id.owner, "url", t.id.url, "stack", string(debug.Stack()))
			t.memory = memory{}
			r.failure, r.observed = failed(reasonPanic, "internal error, see the log"), observation{}
		}
		r.took = time.Since(r.at)
	}()
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	page, fail := m.fetcher.fetch(ctx, t.id.url, p.timeout)
	if fail != nil {
		r.failure = fail
		return r
	}
	defer m.fetcher.release(page.buffer)

	m.decoders <- struct{}{}
	defer func() { <-m.decoders }()
	decoded, samples, fail := decode(page.body, page.format, p.wanted, m.options.MaxSamples)
	if fail != nil {
		r.failure = fail
		return r
	}
	r.samples = samples
	r.observed = t.memory.observe(p, decoded, page.at, m.options.MaxSamples)
	return r
}

// finish records a result, and says whether its readings are wanted still.
func (m *Manager) finish(r result) bool {
	m.metrics.duration.Observe(r.took.Seconds())
	for why, n := range r.observed.rejections {
		m.metrics.rejected.WithLabelValues(string(why)).Add(float64(n))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := r.target
	if m.leaving[t.id] == t {
		delete(m.leaving, t.id)
	}
	m.schedule.finish(t, r.failure != nil && r.failure.reason == reasonTimeout)
	t.status.LastScrape, t.status.LastDuration = r.at, r.took
	if r.failure != nil {
		m.metrics.failures.WithLabelValues(r.failure.reason).Inc()
		t.status.Health, t.status.LastError, t.status.Samples = signals.Down, r.failure.message, 0
		return false
	}
	t.status.Health, t.status.LastError, t.status.Samples = signals.Up, "", r.samples
	t.status.Missing, t.status.Rejected = r.observed.missing, r.observed.rejected
	return m.targets[t.id] == t
}
