package lrs

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// regroup is for how long what is reported is not taken for all, after a replica went or this one took over
// from another: Envoys come back to others within half of that, and report an interval later.
const regroup = time.Minute

// maxSummary is of how many busy endpoints a summary may be: 2 MB of what is told to another replica.
const maxSummary = 20_000

// others is what a Manager knows of the other replicas. An Envoy reports to the replica that it is connected
// to; those that do not lead add up what they were told, once per turn of a Service, and tell the leader.
// All of it is under the Manager's mu.
type others struct {
	leads     bool              // this replica
	followed  bool              // it did not, when it had something to tell
	regrouped time.Time         // until then nodes may be missing that nobody knows of
	untold    map[string]untold // made and not taken by the leader, by Service
}

// untold is a summary without its age, and when the newest report of it came.
type untold struct {
	signals.Summary
	at time.Time
}

// summary is what another replica told last of a Service.
type summary struct {
	report // added up; without an interval where nobody reported
	nodes
	came time.Time
}

// role asks who leads.
func (o *others) role(leads func() bool, now time.Time) {
	if leads == nil {
		return
	}
	if o.leads = leads(); o.leads && o.followed {
		o.followed, o.regrouped = false, now.Add(regroup)
		clear(o.untold)
	}
}

// freshElsewhere are the summaries of other replicas. All nodes of one that has not told anything of late
// are silent.
func (m *Manager) freshElsewhere(s *service, now time.Time) (reports []*report, from nodes) {
	if m.options.Elsewhere == nil {
		return nil, nodes{}
	}
	elsewhere := m.options.Elsewhere(s.spec.Fleets)
	for replica, told := range s.summaries {
		if m.old(told.came, now) {
			delete(s.summaries, replica)
			continue
		}
		delete(elsewhere, replica)
		from.subscribers += told.subscribers
		from.silent += told.silent
		if told.interval > 0 {
			reports = append(reports, &told.report)
		}
	}
	for _, n := range elsewhere {
		from.subscribers += n
		from.silent += n
	}
	return reports, from
}

// summarise makes what the leader is to be told of a Service. What it did not take yet is replaced.
func (m *Manager) summarise(s *service, reports []*report, latest *report, from nodes) {
	m.others.followed = true
	next := untold{Summary: signals.Summary{Service: s.spec.Service, Subscribers: from.subscribers, Silent: from.silent}}
	if latest != nil {
		next.Interval, next.at = latest.interval, latest.at
		add(reports, latest.interval)
		for _, e := range s.endpoints {
			if sum := e.takeSum(); sum != (signals.Reported{}) {
				next.Endpoints = append(next.Endpoints, signals.SummaryOf{
					Address: e.key.Address, Done: sum.Done, Failed: sum.Failed, Issued: sum.Issued, InFlight: sum.InFlight,
				})
			}
		}
	}
	if len(next.Endpoints) > maxSummary {
		m.drop(reasonTooLarge)
		next = untold{Summary: signals.Summary{Service: next.Service, Subscribers: from.subscribers, Silent: from.subscribers}}
	}
	if _, waits := m.others.untold[next.Service]; waits {
		m.metrics.untold.Inc()
	}
	m.others.untold[next.Service] = next
	offer(m.made)
}

// Made holds a token when there may be summaries to take.
func (m *Manager) Made() <-chan struct{} { return m.made }

// TakeSummaries are what the leader is to be told, by Service: what was made since the last call, the newest
// of each. None where this replica leads.
func (m *Manager) TakeSummaries() []signals.Summary {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	summaries := make([]signals.Summary, 0, len(m.others.untold))
	for _, name := range slices.Sorted(maps.Keys(m.others.untold)) {
		next := m.others.untold[name]
		if next.Interval > 0 {
			next.Age = now.Sub(next.at)
		}
		summaries = append(summaries, next.Summary)
	}
	clear(m.others.untold)
	return summaries
}

// MergeSummaries takes in what another replica tells. It replaces what that one told before of the same
// Services, and counts for as long as a report does.
func (m *Manager) MergeSummaries(replica string, summaries []signals.Summary) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for i := range summaries {
		of := &summaries[i]
		s := m.services[of.Service]
		next, ok := s.summaryOf(of, now)
		if !ok {
			m.drop(reasonSummary)
			continue
		}
		s.summaries[replica] = next
	}
}

// summaryOf takes over a summary, if it is one of the Service. It has no more values than the Service has
// endpoints.
func (s *service) summaryOf(of *signals.Summary, now time.Time) (*summary, bool) {
	if s == nil || of.Subscribers < 0 || of.Silent < 0 || of.Age < 0 || of.Age > longest ||
		of.Interval != 0 && (of.Interval < shortest || of.Interval > longest) || len(of.Endpoints) > maxSummary {
		return nil, false
	}
	next := &summary{nodes: nodes{of.Subscribers, of.Silent}, came: now}
	next.at, next.interval = now.Add(-of.Age), of.Interval
	most := maxPerSecond * of.Interval.Seconds()
	seen := map[*endpoint]bool{}
	for _, v := range of.Endpoints {
		address, err := netip.ParseAddrPort(v.Address)
		e := s.endpoints[address]
		switch {
		case err != nil, e == nil, seen[e]:
			continue // the replicas have not seen the same objects yet
		case !(min(v.Done, v.Failed, v.Issued, v.InFlight) >= 0) || max(v.Done, v.Failed, v.Issued) > most || v.InFlight > maxPerSecond:
			return nil, false
		}
		seen[e] = true
		next.values = append(next.values, value{e, float32(v.Done), float32(v.Failed), float32(v.Issued), float32(v.InFlight)})
	}
	return next, true
}

// ForgetReplica is called when another replica is not heard any more. What its nodes do is not known until
// they have come to others.
func (m *Manager) ForgetReplica(replica string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.services {
		delete(s.summaries, replica)
	}
	m.others.regrouped = time.Now().Add(regroup)
}
