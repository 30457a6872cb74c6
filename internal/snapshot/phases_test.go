package snapshot

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/translate"
)

// resourceOf is a resource with a content that only its version tells.
func resourceOf(t translate.Type, name, version string, refs ...string) *Resource {
	r := &Resource{Type: t, Name: name, Version: version}
	if len(refs) > 0 {
		r.Refs = map[translate.Type][]string{translate.CDS: refs}
	}
	return r
}

func names(s *Snapshot, t translate.Type) string {
	return strings.Join(slices.Sorted(maps.Keys(s.Resources(t))), " ")
}

// TestARouteMovesWithoutAGap moves a route from cluster x to y, and takes x away.
func TestARouteMovesWithoutAGap(t *testing.T) {
	from := New(resourceOf(translate.CDS, "x", "1"), resourceOf(translate.EDS, "x", "1"), resourceOf(translate.RDS, "r", "to x", "x"))
	next := New(resourceOf(translate.CDS, "y", "1"), resourceOf(translate.EDS, "y", "1"), resourceOf(translate.RDS, "r", "to y", "y"))
	phases := Phases(from, next)
	var story []string
	for _, s := range phases {
		story = append(story, names(s, translate.CDS)+": "+s.Get(translate.RDS, "r").Version)
	}
	want := []string{"x y: to x", "x y: to y", "y: to y"}
	if !slices.Equal(story, want) {
		t.Errorf("phases %q, want %q", story, want)
	}
}

func TestAWeightIsOnePhase(t *testing.T) {
	from := New(resourceOf(translate.CDS, "x", "1"), resourceOf(translate.EDS, "x", "1"))
	next := from.WithEndpoints(resourceOf(translate.EDS, "x", "2"))
	if phases := Phases(from, next); len(phases) != 1 || phases[0] != next {
		t.Errorf("%d phases, want the next snapshot alone", len(phases))
	}
	if phases := Phases(from, from); len(phases) != 0 {
		t.Errorf("%d phases to the same snapshot", len(phases))
	}
	if phases := Phases(nil, next); len(phases) != 1 || phases[0] != next {
		t.Errorf("%d phases from nothing, want the next snapshot alone", len(phases))
	}
}

// TestPhasesNeverPointAtNothing: between any two snapshots whose routes name clusters that exist, every
// phase has that property with the routes before it too, which a client may still be running.
func TestPhasesNeverPointAtNothing(t *testing.T) {
	draw := rapid.Custom(func(t *rapid.T) *Snapshot {
		var all []*Resource
		clusters := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 4, rapid.ID[string]).Draw(t, "clusters")
		for _, c := range clusters {
			all = append(all, resourceOf(translate.CDS, c, rapid.SampledFrom([]string{"1", "2"}).Draw(t, "version")))
		}
		for _, r := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"r", "s"}), 0, 2, rapid.ID[string]).Draw(t, "routes") {
			to := rapid.SampledFrom(clusters).Draw(t, "to")
			all = append(all, resourceOf(translate.RDS, r, "to "+to, to))
		}
		return New(all...)
	})
	rapid.Check(t, func(t *rapid.T) {
		from, next := draw.Draw(t, "from"), draw.Draw(t, "next")
		phases := Phases(from, next)
		before := from
		for i, s := range phases {
			for _, routes := range []*Snapshot{before, s} {
				for _, r := range routes.Resources(translate.RDS) {
					for _, cluster := range r.Refs[translate.CDS] {
						if i < len(phases)-1 && s.Get(translate.CDS, cluster) == nil {
							t.Fatalf("phase %d lacks cluster %s of route %s", i, cluster, r.Name)
						}
					}
				}
			}
			before = s
		}
		if len(phases) > 0 && !phases[len(phases)-1].Equal(next) {
			t.Fatal("the last phase is not the next snapshot")
		}
	})
}
