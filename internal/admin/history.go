package admin

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// maxPushes bounds the pushes of an answer, all Services together; the oldest are left out.
const maxPushes = 256

func (m moment) history(r *http.Request) (any, error) {
	query := r.URL.Query()
	fleet, service := query.Get("fleet"), query.Get("service")
	view := HistoryView{Generations: []GenerationView{}, Pushes: []PushView{}}
	if fleet != "" && !slices.Contains(m.model.Fleets(), fleet) {
		return nil, m.noFleet(fleet)
	}
	if service != "" {
		if _, err := m.find(service); err != nil {
			return nil, err
		}
	}
	if service == "" {
		for _, name := range m.model.Fleets() {
			if fleet == "" || fleet == name {
				view.Generations = append(view.Generations, m.generationViews(name)...)
			}
		}
		slices.SortStableFunc(view.Generations, func(a, b GenerationView) int { return newestFirst(a.At, b.At) })
	}
	if fleet == "" {
		for _, name := range slices.Sorted(maps.Keys(m.catalog().Services)) {
			if service == "" || service == name {
				view.Pushes = append(view.Pushes, m.pushViews(name)...)
			}
		}
		slices.SortStableFunc(view.Pushes, func(a, b PushView) int { return newestFirst(a.At, b.At) })
		view.OmittedPushes = max(0, len(view.Pushes)-maxPushes)
		view.Pushes = view.Pushes[:len(view.Pushes)-view.OmittedPushes]
	}
	return view, nil
}

// generationViews are a fleet's generations, the newest first, each with what it changed.
func (m moment) generationViews(fleet string) []GenerationView {
	generations := m.model.Generations(fleet)
	_, served, _ := m.model.Snapshot(fleet)
	views := make([]GenerationView, 0, len(generations))
	for i, g := range slices.Backward(generations) {
		view := GenerationView{Fleet: fleet, Number: g.Number, At: timestamp(g.At), Why: g.Why, By: g.By, Changes: []ChangeView{}}
		switch {
		case g.Number == served && m.model.Pin(fleet) != nil:
			view.State = GenerationPinned
		case g.Number == served:
			view.State = GenerationServed
		case g.Number > served:
			view.State = GenerationHeldBack
		}
		if i > 0 {
			view.Changes = changedResources(generations[i-1].Snapshot, g.Snapshot)
		}
		views = append(views, view)
	}
	return views
}

// changedResources are the resources other than endpoints that differ, by type and name, without the
// texts that snapshot.Diff would make of each.
func changedResources(a, b *snapshot.Snapshot) []ChangeView {
	changes := []ChangeView{}
	for _, t := range translate.Types {
		if t == translate.EDS {
			continue
		}
		before, after := a.Resources(t), b.Resources(t)
		for _, r := range sorted(after) {
			switch old := before[r.Name]; {
			case old == nil:
				changes = append(changes, ChangeView{Type: string(t), Name: r.Name, Op: "added"})
			case old.Version != r.Version:
				changes = append(changes, ChangeView{Type: string(t), Name: r.Name, Op: "changed"})
			}
		}
		for _, r := range sorted(before) {
			if after[r.Name] == nil {
				changes = append(changes, ChangeView{Type: string(t), Name: r.Name, Op: "removed"})
			}
		}
	}
	return changes
}

// pushViews are a Service's pushes, the newest first, each with the weights it changed.
func (m moment) pushViews(service string) []PushView {
	pushes := m.model.Pushes(service)
	views := make([]PushView, 0, len(pushes))
	for i, p := range slices.Backward(pushes) {
		view := PushView{Service: service, At: timestamp(p.At), Why: p.Why, Weights: byAddress(p.Weights), Changes: []WeightChangeView{}}
		if i > 0 {
			view.Changes = weightChanges(byAddress(pushes[i-1].Weights), view.Weights)
		}
		views = append(views, view)
	}
	return views
}

func byAddress(all []snapshot.EndpointWeight) map[string]uint32 {
	m := make(map[string]uint32, len(all))
	for _, e := range all {
		m[e.Address] = e.Weight
	}
	return m
}

func weightChanges(before, after map[string]uint32) []WeightChangeView {
	changes := []WeightChangeView{}
	for address, weight := range after {
		if before[address] != weight {
			changes = append(changes, WeightChangeView{Address: address, Before: before[address], After: weight})
		}
	}
	for address, weight := range before {
		if _, stays := after[address]; !stays {
			changes = append(changes, WeightChangeView{Address: address, Before: weight})
		}
	}
	slices.SortFunc(changes, func(a, b WeightChangeView) int { return cmp.Compare(a.Address, b.Address) })
	return changes
}

func (m moment) diff(r *http.Request) (any, error) {
	query := r.URL.Query()
	fleet := query.Get("fleet")
	if fleet == "" {
		return nil, badRequest("which fleet? /diff?fleet=<namespace>/<gateway>&from=<generation>&to=<generation>")
	}
	if !slices.Contains(m.model.Fleets(), fleet) {
		return nil, m.noFleet(fleet)
	}
	generations := m.model.Generations(fleet)
	from, err := generation(generations, "from", query.Get("from"))
	if err != nil {
		return nil, err
	}
	to, err := generation(generations, "to", query.Get("to"))
	if err != nil {
		return nil, err
	}
	view := DiffView{Fleet: fleet, From: from.Number, To: to.Number, Changes: []ChangeView{}}
	for _, c := range snapshot.Diff(from.Snapshot, to.Snapshot) {
		view.Changes = append(view.Changes, ChangeView{Type: string(c.Type), Name: c.Name, Op: c.Op, Text: c.Text})
	}
	return view, nil
}

// generation is the one of the number that a parameter gives.
func generation(generations []snapshot.Generation, parameter, value string) (snapshot.Generation, error) {
	number, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return snapshot.Generation{}, badRequest("%s=%q is not the number of a generation", parameter, value)
	}
	kept := make([]string, len(generations))
	for i, g := range generations {
		if g.Number == number {
			return g, nil
		}
		kept[i] = strconv.FormatUint(g.Number, 10)
	}
	return snapshot.Generation{}, notFound("%s=%d is not kept; of this fleet there is %s", parameter, number, strings.Join(kept, ", "))
}
