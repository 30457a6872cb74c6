package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// plan is what is to be compared, the most important first: it may be cut short.
type plan struct {
	name, about string
	settings    settings
	parts       []part
}

// part is some scenarios under the same arms, the first of which is ours.
type part struct {
	scenarios []string
	arms      []entry
}

type entry struct {
	arm         string
	repetitions int
}

// settings are the times of a run. Runs of different settings cannot be compared.
type settings struct {
	Warmup time.Duration `json:"warmupNs"`
	Settle time.Duration `json:"settleNs"`
	Window time.Duration `json:"windowNs"`
}

const (
	// longest that a run or a warm-up may take.
	longest = time.Hour
	// tail is how long answers are waited for after the window; clients give up before it is over.
	tail = 2 * time.Second
	// overhead of a run is what it takes to start and to stop everything.
	overhead = 2 * time.Second
)

func (s settings) validate() error {
	if s.Window < 2*time.Second || s.Window > longest || s.Window%time.Second != 0 {
		return fmt.Errorf("-window %s: want whole seconds from 2s to %s", s.Window, longest)
	}
	if s.Settle < 0 || s.Settle > longest || s.Warmup <= 0 || s.Warmup > longest {
		return fmt.Errorf("-settle %s, -warmup %s: want at most %s, and some warm-up", s.Settle, s.Warmup, longest)
	}
	return nil
}

// slot is how long a run takes.
func (s settings) slot() time.Duration { return s.Settle + s.Window + tail + overhead }

// ours is the arm that every report is about.
const ours = "Capacity"

var plans = []plan{
	{
		name: "smoke", about: "does everything work? Its figures say nothing",
		settings: settings{Warmup: 4 * time.Second, Settle: 1 * time.Second, Window: 4 * time.Second},
		parts:    []part{{[]string{"uneven", "sinkhole"}, []entry{{ours, 1}, {"LEAST_REQUEST", 1}}}},
	},
	{
		name: "short", about: "the whole comparison with fewer repetitions, in an hour and a half",
		settings: settings{Warmup: 3 * time.Minute, Settle: 12 * time.Second, Window: time.Minute},
		parts: []part{
			{[]string{"uneven"}, []entry{
				{ours, 9}, {"oracle", 9}, {"LEAST_REQUEST", 9},
				{"Capacity tilt 0.25", 4}, {"PID", 2}, {"ORCA", 2},
				{"ROUND_ROBIN", 2}, {"RTT", 2}, {"LEAST_REQUEST slow start", 2},
			}},
			{[]string{"hidden", "sinkhole"}, []entry{{ours, 5}, {"LEAST_REQUEST", 5}, {"PID", 2}, {"ORCA", 1}}},
			{[]string{"even"}, []entry{{ours, 9}, {"LEAST_REQUEST", 9}}},
			{[]string{"noCPU", "dark", "pauses"}, []entry{{ours, 5}, {"LEAST_REQUEST", 5}, {"PID", 2}}},
			{[]string{"darkAll", "killed", "liar1", "square"}, []entry{{ours, 3}, {"LEAST_REQUEST", 3}}},
			{[]string{"fourEnvoys", "fourWorkers"}, []entry{{ours, 3}, {"oracle", 3}}},
			{[]string{"sinkhole30", "liar0", "liar5"}, []entry{{ours, 3}, {"LEAST_REQUEST", 3}}},
			{[]string{"even50", "even85"}, []entry{{ours, 3}, {"LEAST_REQUEST", 3}}},
			{[]string{"overload", "rolling", "chaos", "visible"}, []entry{{ours, 2}, {"LEAST_REQUEST", 2}}},
		},
	},
	{
		name: "standard", about: "the whole comparison",
		settings: settings{Warmup: 3 * time.Minute, Settle: 12 * time.Second, Window: time.Minute},
		parts: []part{
			{[]string{"uneven"}, []entry{
				{ours, 9}, {"oracle", 9}, {"LEAST_REQUEST", 9},
				{"Capacity tilt 0.25", 5}, {"PID", 3}, {"ORCA", 3},
				{"ROUND_ROBIN", 3}, {"RTT", 3}, {"LEAST_REQUEST slow start", 3},
			}},
			{[]string{"hidden", "sinkhole"}, []entry{{ours, 5}, {"LEAST_REQUEST", 5}, {"PID", 3}, {"ORCA", 2}}},
			{[]string{"even"}, []entry{{ours, 9}, {"LEAST_REQUEST", 9}}},
			{[]string{"noCPU", "dark", "pauses"}, []entry{{ours, 5}, {"LEAST_REQUEST", 5}, {"PID", 3}}},
			{[]string{"darkAll", "killed", "liar0", "liar1", "liar5", "square"}, []entry{{ours, 5}, {"LEAST_REQUEST", 5}}},
			{[]string{"fourEnvoys", "fourWorkers"}, []entry{{ours, 5}, {"oracle", 5}}},
			{[]string{"even50", "even85"}, []entry{{ours, 5}, {"LEAST_REQUEST", 5}}},
			{[]string{"visible", "overload", "rolling", "chaos", "sinkhole30"}, []entry{{ours, 3}, {"LEAST_REQUEST", 3}}},
		},
	},
}

func planNamed(name string) (plan, error) {
	var known []string
	for _, p := range plans {
		if p.name == name {
			return p, nil
		}
		known = append(known, p.name)
	}
	return plan{}, fmt.Errorf("-plan %q: want one of %s", name, strings.Join(known, ", "))
}

func armNamed(name string) (arm, error) {
	if i := slices.IndexFunc(arms, func(a arm) bool { return a.name == name }); i >= 0 {
		return arms[i], nil
	}
	return arm{}, fmt.Errorf("no arm is called %q", name)
}

func scenarioNamed(name string) (scenario, error) {
	if i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name }); i >= 0 {
		return scenarios[i], nil
	}
	return scenario{}, fmt.Errorf("no scenario is called %q", name)
}

// trial is one run of a plan. In one repetition all arms see the same arrivals and the same work.
type trial struct {
	Scenario   string `json:"scenario"`
	Arm        string `json:"arm"`
	Repetition int    `json:"repetition"` // from 1
}

func (t trial) String() string { return fmt.Sprintf("%s, %s %d", t.Scenario, t.Arm, t.Repetition) }

// restrict leaves the scenarios named in only, all if it names none, and gives every arm that many
// repetitions, as many as planned if it is 0.
func (p plan) restrict(only []string, repetitions int) (plan, error) {
	restricted := plan{name: p.name, about: p.about, settings: p.settings}
	found := map[string]bool{}
	for _, planned := range p.parts {
		var kept part
		for _, name := range planned.scenarios {
			if len(only) == 0 || slices.Contains(only, name) {
				kept.scenarios = append(kept.scenarios, name)
				found[name] = true
			}
		}
		if len(kept.scenarios) == 0 {
			continue
		}
		for _, e := range planned.arms {
			if repetitions > 0 {
				e.repetitions = repetitions
			}
			kept.arms = append(kept.arms, e)
		}
		restricted.parts = append(restricted.parts, kept)
	}
	for _, name := range only {
		if !found[name] {
			return plan{}, fmt.Errorf("-only %q: plan %s has no such scenario, it has %s", name, p.name, strings.Join(p.scenarios(), ", "))
		}
	}
	return restricted, nil
}

func (p plan) scenarios() []string {
	var names []string
	for _, of := range p.parts {
		names = append(names, of.scenarios...)
	}
	return names
}

// check finds a name that nothing has.
func (p plan) check() error {
	for _, of := range p.parts {
		for _, name := range of.scenarios {
			if _, err := scenarioNamed(name); err != nil {
				return fmt.Errorf("plan %s: %w", p.name, err)
			}
		}
		for _, e := range of.arms {
			if _, err := armNamed(e.arm); err != nil {
				return fmt.Errorf("plan %s: %w", p.name, err)
			}
		}
	}
	return nil
}
