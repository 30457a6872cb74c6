package main

import (
	"slices"
	"strings"
	"testing"
)

func TestPlansNameWhatThereIs(t *testing.T) {
	for _, p := range plans {
		if err := p.check(); err != nil {
			t.Error(err)
		}
		if err := p.settings.validate(); err != nil {
			t.Errorf("plan %s: %v", p.name, err)
		}
		for _, of := range p.parts {
			if of.arms[0].arm != ours {
				t.Errorf("plan %s: the first arm of %v is %s, want ours", p.name, of.scenarios, of.arms[0].arm)
			}
		}
	}
}

// TestBarsAreOfTheStandardPlan: what must hold is measured by it.
func TestBarsAreOfTheStandardPlan(t *testing.T) {
	p, err := planNamed("standard")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bars {
		for _, name := range b.scenarios {
			if !slices.Contains(p.scenarios(), name) {
				t.Errorf("the bar %s is of scenario %s, which the plan has not", b.measure, name)
			}
		}
	}
}

func TestRestrictingAPlan(t *testing.T) {
	p := plan{name: "p", parts: []part{
		{[]string{"a", "b"}, []entry{{"x", 3}, {"y", 2}}},
		{[]string{"c"}, []entry{{"x", 1}}},
	}}
	restricted, err := p.restrict([]string{"b", "c"}, 4)
	if err != nil {
		t.Fatal(err)
	}
	if got := restricted.scenarios(); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("scenarios %v, want b and c", got)
	}
	if got := restricted.parts[0].arms; !slices.Equal(got, []entry{{"x", 4}, {"y", 4}}) {
		t.Errorf("arms %v, want 4 repetitions of each", got)
	}
	if p.parts[0].arms[0].repetitions != 3 {
		t.Error("the plan itself has changed")
	}
	if _, err := p.restrict([]string{"d"}, 0); err == nil || !strings.Contains(err.Error(), `"d"`) || !strings.Contains(err.Error(), "a, b, c") {
		t.Errorf("error %v, want one that names d and lists the scenarios", err)
	}
}

func TestUnknownNamesAreRefused(t *testing.T) {
	if _, err := armNamed("Magic"); err == nil || !strings.Contains(err.Error(), `"Magic"`) {
		t.Errorf("error %v, want one that names Magic", err)
	}
	for args, want := range map[string]string{
		"walk":                                      "run or report",
		"run -plan none -results /nowhere":          "smoke, short, standard",
		"run -plan smoke -only x -results y":        `"x"`,
		"run -plan smoke":                           "-results",
		"run -plan smoke -results y -lanes 0":       "lanes",
		"run -plan smoke -results y -window 1500ms": "whole seconds",
		"report":                   "-results",
		"report -results /nowhere": "no runs",
	} {
		if err := command(t.Context(), strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", args, err, want)
		}
	}
}
