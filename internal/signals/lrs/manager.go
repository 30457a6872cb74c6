package lrs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// Manager takes load reports. SetTargets, Targets and ServeLoadReports may be called at any time from any
// goroutine, also before Run. Run is one loop; each stream has its own two goroutines. mu protects all
// that is known, and is never held over I/O.
type Manager struct {
	options Options
	metrics *metrics
	changed chan struct{} // holds a token when the set of Services changed
	made    chan struct{} // holds a token when there are summaries to take

	mu        sync.Mutex
	running   bool
	services  map[string]*service
	reporters map[*reporter]struct{} // whose stream is open and said who it is
	values    int                    // of all reports of all Services

	others others
}

// service is a Service with the last report of everyone on it.
type service struct {
	spec      Spec
	endpoints map[netip.AddrPort]*endpoint
	reports   map[*reporter]*report
	summaries map[string]*summary // of other replicas, by name
	next      time.Time           // its next turn
	sentTo    time.Time           // the end of its last reading
	status    signals.Target
}

// endpoint is an endpoint of a Service. One that leaves and comes back is another, so that no report from
// before counts for it.
type endpoint struct {
	key signals.Key
	sum signals.Reported // while a turn adds up
}

// New makes a Manager without Services.
func New(options Options) *Manager {
	options.Interval = max(MinInterval, cmp.Or(max(0, options.Interval), DefaultInterval))
	options.MaxValues = cmp.Or(max(0, options.MaxValues), defaultMaxValues)
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	m := &Manager{
		options:   options,
		changed:   make(chan struct{}, 1),
		made:      make(chan struct{}, 1),
		services:  map[string]*service{},
		reporters: map[*reporter]struct{}{},
		others:    others{untold: map[string]untold{}, leads: options.Leads == nil},
	}
	m.metrics = newMetrics(options.Registerer, m.asked)
	return m
}

// SetTargets replaces the set of Services. What was reported of endpoints that stay is kept; a Service or
// an endpoint that is gone is forgotten. The same set again does nothing. The Manager keeps the Specs:
// nobody may change what they point to.
func (m *Manager) SetTargets(specs []Spec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, moved := time.Now(), false
	wanted := map[string]bool{}
	for _, spec := range specs {
		wanted[spec.Service] = true
		s := m.services[spec.Service]
		if s != nil && reflect.DeepEqual(s.spec, spec) {
			continue
		}
		if s == nil {
			s = &service{
				reports: map[*reporter]*report{}, summaries: map[string]*summary{},
				next: m.nextTurn(spec.Service, now),
				status: signals.Target{
					URL: "load reports", Owner: spec.Service, Services: []string{spec.Service}, Health: signals.Unknown,
				},
			}
			m.services[spec.Service] = s
		}
		moved = moved || !slices.Equal(s.spec.Fleets, spec.Fleets)
		s.adopt(spec)
	}
	for name, s := range m.services {
		if !wanted[name] {
			for r := range s.reports {
				m.forget(s, r)
			}
			delete(m.services, name)
			delete(m.others.untold, name)
			moved = true
		}
	}
	if moved {
		for r := range m.reporters {
			offer(r.replan)
		}
	}
	offer(m.changed)
}

func (s *service) adopt(spec Spec) {
	before := s.endpoints
	s.spec, s.endpoints = spec, make(map[netip.AddrPort]*endpoint, len(spec.Endpoints))
	for _, text := range spec.Endpoints {
		address, err := netip.ParseAddrPort(text)
		if err != nil {
			continue // no report can name it
		}
		e := before[address]
		if e == nil {
			e = &endpoint{key: signals.Key{Service: spec.Service, Address: text}}
		}
		s.endpoints[address] = e
	}
}

// offer puts a token into a channel that holds one.
func offer(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// join is called when a stream says who it is, leave when it ends.
func (m *Manager) join(r *reporter, n node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.node = n
	if r.ended {
		return // while its first message was on the way
	}
	m.reporters[r] = struct{}{}
	offer(r.replan)
}

func (m *Manager) leave(r *reporter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.ended = true
	delete(m.reporters, r)
}

// asked is the number of reporters that were asked for reports.
func (m *Manager) asked() (n float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for r := range m.reporters {
		if r.asked {
			n++
		}
	}
	return n
}

// Targets are the Services as they stand, by name.
func (m *Manager) Targets() []signals.Target {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]signals.Target, 0, len(m.services))
	for _, s := range m.services {
		all = append(all, s.status)
	}
	slices.SortFunc(all, func(a, b signals.Target) int { return cmp.Compare(a.Owner, b.Owner) })
	return all
}

// Run makes readings until ctx is cancelled and then returns nil. It sends batches of them up, and never
// waits for the reader: what is not taken yet stays, the latest reading of each endpoint. The reader owns
// the batch it gets. Run may be called once.
func (m *Manager) Run(ctx context.Context, up chan<- []signals.Reading) error {
	m.mu.Lock()
	if m.running {
		m.mu.Unlock()
		return errors.New("lrs: Run was called twice")
	}
	m.running = true
	m.mu.Unlock()

	var pending signals.Outbox
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		readings, next := m.turns(now)
		if len(readings) > 0 {
			m.metrics.superseded.Add(float64(pending.Add(readings, now)))
		}
		wake := next.Sub(now)
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
		}
	}
}

// nextTurn is when a Service is next added up. Who tells another replica does so earlier than that adds up what it
// was told, or else everything would be a whole interval older there, and old before the next came. A quarter leaves
// a quarter: what is told is at most 2.25 intervals old when the next reading replaces it, and clocks may differ
// by as much in either direction.
func (m *Manager) nextTurn(service string, now time.Time) time.Time {
	if m.others.leads {
		return signals.NextTurn(service, m.options.Interval, now)
	}
	early := m.options.Interval / 4
	return signals.NextTurn(service, m.options.Interval, now.Add(early)).Add(-early)
}

// turns makes the readings of the Services whose turn it is, and says when the next turn is.
func (m *Manager) turns(now time.Time) (readings []signals.Reading, next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.others.role(m.options.Leads, now)
	next = now.Add(m.options.Interval)
	for name, s := range m.services {
		if !now.Before(s.next) {
			readings = append(readings, m.turn(s, now)...)
			s.next = m.nextTurn(name, now)
		}
		if s.next.Before(next) {
			next = s.next
		}
	}
	return readings, next
}

// turn adds up what is fresh on a Service:
//
//	value of an endpoint = sum over nodes of value / interval of the report, times the window
//
// The window is that of the latest report; the others are up to an interval older. An endpoint that a
// report does not name had nothing to do. Where another replica leads, the sum is for it, and there are no
// readings.
func (m *Manager) turn(s *service, now time.Time) []signals.Reading {
	reports, from := m.fresh(s, now)
	if m.others.leads {
		summed, elsewhere := m.freshElsewhere(s, now)
		reports = append(reports, summed...)
		from.silent, from.subscribers = from.silent+elsewhere.silent, from.subscribers+elsewhere.subscribers
	}
	var latest *report
	for _, r := range reports {
		if latest == nil || r.at.After(latest.at) {
			latest = r
		}
	}
	s.show(reports, latest, from)
	if !m.others.leads {
		m.summarise(s, reports, latest, from)
		return nil
	}
	if latest == nil || !latest.at.After(s.sentTo) {
		return nil
	}
	s.sentTo = latest.at
	add(reports, latest.interval)
	readings := make([]signals.Reading, 0, len(s.endpoints))
	for _, e := range s.endpoints {
		sum := e.takeSum()
		sum.From, sum.To = latest.at.Add(-latest.interval), latest.at
		sum.SourceInterval, sum.All = m.options.Interval, from.silent == 0 && !now.Before(m.others.regrouped)
		readings = append(readings, signals.Reading{
			Endpoint: e.key, From: sum.From, To: sum.To, SourceInterval: sum.SourceInterval, Reported: sum,
		})
	}
	return readings
}

// nodes are how many take the endpoints of a Service, and how many of these have not reported.
type nodes struct{ subscribers, silent int }

// fresh are the last reports of this replica's own nodes, but for those that are old.
func (m *Manager) fresh(s *service, now time.Time) (reports []*report, from nodes) {
	live := map[node]int{}
	for r, last := range s.reports {
		// With other replicas, who has gone may report to one of them.
		if m.old(last.at, now) || r.ended && m.options.Elsewhere != nil {
			m.forget(s, r)
			continue
		}
		live[r.node.key()]++
		reports = append(reports, last)
	}
	for id, fleet := range m.options.Subscribers(s.spec.Service) {
		if !slices.Contains(s.spec.Fleets, fleet) {
			continue // it asked for what it is not served
		}
		from.subscribers++
		if n := (node{id: id, fleet: fleet}); live[n] > 0 {
			live[n]--
		} else {
			from.silent++
		}
	}
	return reports, from
}

// old says whether what came at a time counts no more.
func (m *Manager) old(at, now time.Time) bool {
	return now.Sub(at) > time.Duration(freshFor*float64(m.options.Interval))
}

// add adds reports up in their endpoints, as rates over the window.
func add(reports []*report, window time.Duration) {
	for _, r := range reports {
		scale := window.Seconds() / r.interval.Seconds()
		for _, v := range r.values {
			v.of.sum.Done += scale * float64(v.succeeded)
			v.of.sum.Failed += scale * float64(v.failed)
			v.of.sum.Issued += scale * float64(v.issued)
			v.of.sum.InFlight += float64(v.active)
		}
	}
}

// takeSum is what add made, of which nothing stays.
func (e *endpoint) takeSum() signals.Reported {
	sum := e.sum
	e.sum = signals.Reported{}
	return sum
}

// key is the node without what it can do.
func (n node) key() node { return node{id: n.id, fleet: n.fleet} }

// show says on /targets who reports.
func (s *service) show(reports []*report, latest *report, from nodes) {
	t := &s.status
	t.Health, t.LastError, t.Samples = signals.Up, "", 0
	for _, r := range reports {
		t.Samples += len(r.values)
	}
	if latest != nil {
		t.LastScrape = latest.at
	}
	switch {
	case from.subscribers == 0 && latest == nil:
		t.Health = signals.Unknown
	case latest == nil:
		t.Health = signals.Down
		t.LastError = fmt.Sprintf("none of the %d nodes that take its endpoints reports; does their bootstrap have cluster_manager.load_stats_config?", from.subscribers)
	case from.silent > 0:
		t.LastError = fmt.Sprintf("%d of the %d nodes that take its endpoints do not report", from.silent, from.subscribers)
	}
}
