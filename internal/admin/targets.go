package admin

import (
	"cmp"
	"net/http"
	"slices"

	"evenkeel.io/controlplane/internal/signals"
)

func (m moment) targets(*http.Request) (any, error) {
	return TargetsView{Targets: m.targetViews()}, nil
}

// allTargets are those of all collectors.
func (m moment) allTargets() (all []signals.Target) {
	for _, t := range m.Targets {
		all = append(all, t.Targets()...)
	}
	return all
}

// targetViews are sorted with those that are down first, then by owner and URL.
func (m moment) targetViews() []TargetView {
	views := []TargetView{}
	for _, t := range m.allTargets() {
		views = append(views, TargetView{
			URL: t.URL, Query: t.Query, Owner: t.Owner, Services: t.Services, State: t.Health, LastScrape: timestamp(t.LastScrape),
			LastDuration: Duration(t.LastDuration), LastError: t.LastError, Missing: t.Missing,
			Rejected: t.Rejected, Samples: t.Samples,
		})
	}
	down := func(t TargetView) int {
		if t.State == signals.Down {
			return 0
		}
		return 1
	}
	slices.SortFunc(views, func(a, b TargetView) int {
		return cmp.Or(down(a)-down(b), cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.URL, b.URL))
	})
	return views
}
