package admin

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/weights"
)

// freshIntervals is how many intervals of its source a reading stays fresh.
const freshIntervals = 2.5

func (m moment) services(*http.Request) (any, error) {
	return ServicesView{Follows: m.Follows(), Services: m.allServices(true)}, nil
}

func (m moment) service(r *http.Request) (any, error) {
	name := r.PathValue("namespace") + "/" + r.PathValue("service")
	svc, err := m.find(name)
	if err != nil {
		return nil, err
	}
	view := m.serviceView(svc, true)
	view.Pushes = m.pushViews(name)
	return ServicesView{Follows: m.Follows(), Services: []ServiceView{view}}, nil
}

// find is the Service of the name, or an error that tells its ports apart.
func (m moment) find(name string) (*catalog.Service, error) {
	all := m.catalog().Services
	if svc := all[name]; svc != nil {
		return svc, nil
	}
	base, _, _ := strings.Cut(name, ":")
	var near []string
	for other := range all {
		if b, _, _ := strings.Cut(other, ":"); b == base {
			near = append(near, other)
		}
	}
	if slices.Sort(near); len(near) > 0 {
		return nil, notFound("there is no service %q; there is %s", name, strings.Join(near, ", "))
	}
	return nil, notFound("there is no service %q; services are named <namespace>/<name>:<port>, and /services lists them", name)
}

// catalog is the one in force, an empty one before there is any.
func (m moment) catalog() *catalog.Catalog {
	return cmp.Or(m.model.Catalog(), &catalog.Catalog{})
}

// allServices are views of all Services, sorted by name.
func (m moment) allServices(endpoints bool) []ServiceView {
	all := m.catalog().Services
	views := make([]ServiceView, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		views = append(views, m.serviceView(all[name], endpoints))
	}
	return views
}

func (m moment) serviceView(svc *catalog.Service, endpoints bool) ServiceView {
	view := ServiceView{Name: svc.Name, Policies: []string{}, Fleets: []string{}, Members: len(svc.Endpoints)}
	view.Mode, view.Strategy = balancing(svc)
	for _, p := range svc.Policies {
		view.Policies = append(view.Policies, p.Namespace+"/"+p.Name)
	}
	for name, fleet := range m.catalog().Fleets {
		if slices.Contains(fleet.Services, svc.Name) {
			view.Fleets = append(view.Fleets, name)
		}
	}
	slices.Sort(view.Fleets)

	decisions, decided := m.model.Decisions(svc.Name)
	if decided {
		view.Frozen, view.DecidedAt = decisions.Frozen, timestamp(decisions.At)
		view.Overload, view.Strain = decisions.Overload, decisions.Strain
		view.Shed, view.Shedding = decisions.Shed, decisions.Shedding
	}
	view.Imbalance = m.imbalance(svc)
	if endpoints {
		view.Endpoints = m.endpointViews(svc, decisions)
	}
	return view
}

// balancing is the mode and the strategy in force. Without a policy endpoints are equal by no strategy.
func balancing(svc *catalog.Service) (mode, strategy string) {
	if !svc.HasPolicy {
		return string(v1alpha1.ModeEqual), ""
	}
	return deref(svc.Policy.Mode), deref(svc.Policy.Strategy)
}

func deref[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

// imbalance is the highest over the mean CPU utilisation of endpoints with fresh readings, nil where
// fewer than two have one or all are idle.
func (m moment) imbalance(svc *catalog.Service) *float64 {
	var sum, highest float64
	var n int
	for _, e := range svc.Endpoints {
		r, ok := m.model.Reading(signals.Key{Service: svc.Name, Address: e.Address})
		if ok && r.Terms.Has(signals.TermCPU) && m.fresh(r) {
			sum, highest, n = sum+r.CPU, max(highest, r.CPU), n+1
		}
	}
	if n < 2 || sum <= 0 {
		return nil
	}
	return number(highest / (sum / float64(n)))
}

func (m moment) fresh(r signals.Reading) bool {
	return m.now.Sub(r.To) <= time.Duration(freshIntervals*float64(r.SourceInterval))
}

// endpointViews joins the catalog's endpoints with what was decided of them. An endpoint that no step
// has seen yet has the state Prior.
func (m moment) endpointViews(svc *catalog.Service, decisions weights.Decisions) []EndpointView {
	decided := make(map[string]weights.Decision, len(decisions.Endpoints))
	var total float64
	for _, d := range decisions.Endpoints {
		decided[d.Key.Address] = d
	}
	for _, e := range svc.Endpoints {
		total += float64(decided[e.Address].Weight)
	}
	views := make([]EndpointView, 0, len(svc.Endpoints))
	for _, e := range svc.Endpoints {
		view := EndpointView{
			Address: e.Address, Zone: e.Zone, Pod: e.Pod, State: weights.Prior,
			HealthScore: 1, QPSDecayFactor: 1, Reasons: []ReasonView{},
		}
		if d, ok := decided[e.Address]; ok {
			view.State, view.Weight = d.State, d.Weight
			view.Computed = number(d.Computed)
			view.HealthScore, view.QPSDecayFactor = d.HealthScore, d.QPSDecayFactor
			for _, r := range d.Reasons {
				reason := ReasonView{Term: r.Term, Unit: r.Unit, Factor: number(r.Factor), Text: r.Text}
				if r.Value != 0 || r.Unit != "" {
					reason.Value = number(r.Value)
				}
				view.Reasons = append(view.Reasons, reason)
			}
		}
		if total > 0 {
			view.Share = *number(float64(view.Weight) / total)
		} else {
			view.Share = *number(1 / float64(len(svc.Endpoints)))
		}
		if r, ok := m.model.Reading(signals.Key{Service: svc.Name, Address: e.Address}); ok {
			view.Reading = m.readingView(r)
		}
		views = append(views, view)
	}
	return views
}

func (m moment) readingView(r signals.Reading) *ReadingView {
	view := &ReadingView{Age: Duration(max(0, m.now.Sub(r.To))), Stale: !m.fresh(r)}
	if window := r.To.Sub(r.From).Seconds(); r.Terms.Has(signals.TermRequests) && window > 0 {
		all := r.Done + r.Failed
		view.RPS = number(all / window)
		if r.Terms.Has(signals.TermErrors) && all > 0 {
			view.ErrorRatio = number(r.Failed / all)
		}
	}
	if r.Terms.Has(signals.TermCPU) {
		view.CPU = number(r.CPU)
	}
	if r.Terms.Has(signals.TermInFlight) {
		view.InFlight = number(r.InFlight)
	}
	if r.Terms.Has(signals.TermLatency) {
		p50, p90 := Duration(r.P50), Duration(r.P90)
		view.P50, view.P90 = &p50, &p90
	}
	view.LoadReports = m.reportedView(r.Reported)
	return view
}

func (m moment) reportedView(n signals.Reported) *ReportedView {
	window := n.To.Sub(n.From).Seconds()
	if window <= 0 {
		return nil
	}
	view := &ReportedView{
		Age: Duration(max(0, m.now.Sub(n.To))), Stale: !n.Fresh(m.now), All: n.All,
		RPS: number((n.Done + n.Failed) / window), Issued: number(n.Issued / window), InFlight: number(n.InFlight),
	}
	if all := n.Done + n.Failed; all > 0 {
		view.ErrorRatio = number(n.Failed / all)
	}
	if n.Claim > 0 {
		view.Claim = number(n.Claim)
	}
	return view
}
