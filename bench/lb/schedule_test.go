package main

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func example() plan {
	return plan{parts: []part{
		{[]string{"uneven"}, []entry{{ours, 2}, {oracle, 2}, {plainLeast, 2}, {"PID", 2}}},
		{[]string{"sinkhole"}, []entry{{ours, 1}, {plainLeast, 1}}},
	}}
}

func TestScheduleOfTheExample(t *testing.T) {
	want := []slot{
		{{"uneven", ours, 1}, {"uneven", oracle, 1}, {"uneven", plainLeast, 1}},
		{{"uneven", "PID", 1}, {"uneven", "PID", 2}},
		{{"uneven", oracle, 2}, {"uneven", plainLeast, 2}, {"uneven", ours, 2}},
		{{"sinkhole", ours, 1}, {"sinkhole", plainLeast, 1}},
	}
	if got := schedule(example(), 3, false); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("schedule\n%v\nwant\n%v", got, want)
	}
}

// TestOneLaneTakesTurns: one after the other, and another one first each time.
func TestOneLaneTakesTurns(t *testing.T) {
	p := plan{parts: []part{{[]string{"s"}, []entry{{"a", 3}, {"b", 3}, {"c", 3}}}}}
	order := ""
	for _, s := range schedule(p, 1, false) {
		order += s[0].Arm
	}
	if order != "abcbcacab" {
		t.Errorf("order %s, want abcbcacab", order)
	}
}

// TestScheduleKeepsTogether: every trial once, no slot wider than the lanes, and what fits side by side is.
func TestScheduleKeepsTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lanes := rapid.IntRange(1, 5).Draw(t, "lanes")
		var p plan
		planned := 0
		for i := range rapid.IntRange(1, 4).Draw(t, "scenarios") {
			of := part{scenarios: []string{fmt.Sprint("s", i)}}
			for j := range rapid.IntRange(1, 7).Draw(t, "arms") {
				n := rapid.IntRange(1, 4).Draw(t, "repetitions")
				of.arms = append(of.arms, entry{fmt.Sprint("a", j), n})
				planned += n
			}
			p.parts = append(p.parts, of)
		}
		slots := schedule(p, lanes, false)
		at := map[trial]int{}
		for i, s := range slots {
			if len(s) == 0 || len(s) > lanes {
				t.Fatalf("slot %d has %d trials in %d lanes", i+1, len(s), lanes)
			}
			for _, tr := range s {
				if _, twice := at[tr]; twice {
					t.Fatalf("%s is there twice", tr)
				}
				at[tr] = i
			}
		}
		if len(at) != planned {
			t.Fatalf("%d trials, planned %d", len(at), planned)
		}
		for _, g := range groups(p, lanes) {
			for _, tr := range g {
				if at[tr] != at[g[0]] {
					t.Fatalf("%s and %s are apart", g[0], tr)
				}
			}
		}
	})
}

func TestDenseScheduleLeavesNoLaneFree(t *testing.T) {
	slots := schedule(example(), 3, true)
	if len(slots) != 4 || trials(slots) != 10 {
		t.Errorf("%d trials in %d slots, want 10 in 4: %v", trials(slots), len(slots), slots)
	}
	for _, s := range slots[:3] {
		if len(s) != 3 {
			t.Errorf("a lane is free: %v", s)
		}
	}
}

func TestWhatIsDoneIsNotRunAgain(t *testing.T) {
	slots := schedule(example(), 3, false)
	done := map[trial]bool{{"uneven", ours, 1}: true, {"sinkhole", ours, 1}: true, {"sinkhole", plainLeast, 1}: true, {"uneven", "PID", 2}: false}
	left := without(slots, done)
	if trials(left) != trials(slots)-3 || len(left) != 3 {
		t.Errorf("left %v", left)
	}
	if slices.ContainsFunc(left, func(s slot) bool { return slices.Contains(s, trial{"uneven", ours, 1}) }) {
		t.Error("what is done is still there")
	}
	if trials(slots) != 10 {
		t.Error("the schedule itself has changed")
	}
}
