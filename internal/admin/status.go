package admin

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/status"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

func (m moment) status(*http.Request) (any, error) {
	proxies := m.Proxies.Proxies()
	return StatusView{Objects: m.objects(proxies), Canaries: m.canaries(proxies)}, nil
}

// canaries are those of the snapshots that are served, and how many of their Envoys have exactly these routes.
func (m moment) canaries(proxies []xds.Proxy) []CanaryView {
	views := []CanaryView{}
	for _, fleet := range m.model.Fleets() {
		served, _, ok := m.model.Snapshot(fleet)
		if !ok {
			continue
		}
		rules := served.Get(translate.Limits, fleet).Rules()
		if len(rules) == 0 {
			continue
		}
		version := served.Version(translate.RDS)
		envoys, acknowledged := 0, 0
		for _, p := range proxies {
			if p.Fleet != fleet || strings.HasPrefix(p.Agent, translate.GRPCAgents) {
				continue
			}
			envoys++
			if routes := p.Types[translate.RDS]; routes.State == xds.Synced && routes.Version == version {
				acknowledged++
			}
		}
		resources := served.Resources(translate.RDS)
		for _, name := range slices.Sorted(maps.Keys(resources)) {
			routes, ok := resources[name].Message().(*routev3.RouteConfiguration)
			if !ok {
				continue
			}
			for _, c := range translate.Canaries(routes, rules) {
				views = append(views, CanaryView{
					Fleet: fleet, Route: c.Route, Backend: c.Cluster, Weight: c.Weight, Of: c.Of, Limit: c.Rule,
					Requests: c.Quota.Requests, Per: Duration(c.Quota.Per.Duration), Together: c.Together,
					Version: version, Envoys: envoys, Acknowledged: acknowledged,
				})
			}
		}
	}
	return views
}

// objects are all objects with their conditions, in view of the proxies connected.
func (m moment) objects(proxies []xds.Proxy) []status.Object {
	return status.Conditions(m.statusInput(proxies))
}

// StatusInput is what /status is computed from. The Model is to be no newer than the proxies, or what they
// acknowledged may be an older version.
func StatusInput(model Model, proxies []xds.Proxy, now time.Time) status.Input {
	return moment{model: model, now: now}.statusInput(proxies)
}

func (m moment) statusInput(proxies []xds.Proxy) status.Input {
	in := status.Input{
		Store: m.model.Store(), Catalog: m.model.Catalog(), Proxies: proxies, Stale: map[string]string{}, Refused: map[string]string{},
		Restored: map[string]string{}, RolledBack: map[string]status.RolledBack{},
	}
	for _, r := range m.model.Refusals() {
		in.Refused[r.Source] = r.Error()
	}
	for _, name := range m.model.Fleets() {
		if at := m.model.LastKnownGood(); !at.IsZero() {
			in.Restored[name] = lastKnownGood(at)
		}
		if p := m.model.Pin(name); p != nil {
			in.RolledBack[name] = status.RolledBack{
				Text:    fmt.Sprintf("fleet %s is pinned to generation %d by %s since %s", name, p.Number, p.By, p.At.UTC().Format(time.RFC3339)),
				Objects: slices.Concat(p.Objects, p.Held), All: p.AllObjects,
			}
		}
	}
	for name, svc := range m.catalog().Services {
		if !svc.HasPolicy {
			continue // nothing is read of it, and nothing has to be
		}
		if d, ok := m.model.Decisions(name); ok && d.Frozen != "" {
			if fresh, n := m.freshReadings(svc), len(svc.Endpoints); 2*fresh < n {
				in.Stale[name] = fmt.Sprintf("the weights are held: %d of %d endpoints have fresh readings", fresh, n)
			}
		}
	}
	return in
}

// lastKnownGood says what is served while there are no objects.
func lastKnownGood(at time.Time) string {
	return "since the start the objects could not be read, or there were none; what was saved at " + at.UTC().Format(time.RFC3339) + " is served"
}

// freshReadings counts the endpoints whose metrics are fresh; what Envoys report of the others makes no weight.
func (m moment) freshReadings(svc *catalog.Service) int {
	n := 0
	for _, e := range svc.Endpoints {
		if r, ok := m.model.Reading(signals.Key{Service: svc.Name, Address: e.Address}); ok && m.fresh(r) && !r.Reported.Alone {
			n++
		}
	}
	return n
}

// problems are the Bad conditions of all objects.
func (m moment) problems() []Problem {
	problems := []Problem{}
	for _, o := range m.objects(m.Proxies.Proxies()) {
		for _, c := range o.Conditions {
			if Bad(c) {
				ref := source.Ref{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
				problems = append(problems, Problem{Object: ref.String(), File: o.File, Line: o.Line, Condition: c})
			}
		}
	}
	return problems
}

// Bad reports whether a condition should not be.
func Bad(c status.Condition) bool { return c.Bad() }
