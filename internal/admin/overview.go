package admin

import (
	"cmp"
	"net/http"
	"slices"

	"evenkeel.io/controlplane/internal/signals"
)

func (m moment) overview(*http.Request) (any, error) {
	view := OverviewView{
		Ready: true, Version: m.Version, Follows: m.Follows(), Fleets: []FleetView{}, Services: m.allServices(false),
		OutOfSync: []ProxyView{}, Problems: m.problems(),
	}
	if err := m.model.Ready(); err != nil {
		view.Ready, view.Reason = false, err.Error()
	} else if at := m.model.LastKnownGood(); !at.IsZero() {
		view.Reason = lastKnownGood(at)
	}
	byFleet := map[string]*FleetView{}
	fleet := func(name string) *FleetView {
		if byFleet[name] == nil {
			_, generation, _ := m.model.Snapshot(name)
			byFleet[name] = &FleetView{Name: name, Generation: generation, Pin: m.pinView(name)}
		}
		return byFleet[name]
	}
	for _, name := range m.model.Fleets() {
		fleet(name)
	}
	for _, p := range m.proxyViews() {
		f := fleet(p.Fleet)
		f.Proxies++
		if p.InSync() {
			f.InSync++
		} else {
			view.OutOfSync = append(view.OutOfSync, p)
		}
	}
	for _, f := range byFleet {
		view.Fleets = append(view.Fleets, *f)
	}
	slices.SortFunc(view.Fleets, func(a, b FleetView) int { return cmp.Compare(a.Name, b.Name) })
	for _, t := range m.allTargets() {
		view.Targets++
		if t.Health == signals.Down {
			view.TargetsDown++
		}
	}
	return view, nil
}
