package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/weights"
)

// policy is a way to balance: what Envoy is configured to do and who gives it weights. Outlier
// detection is on under all of them.
type policy struct {
	name, what string
	picker     func(*clock, *rand.Rand) picker
	control    func(settings) controlPlane
	orca       bool
}

const evenkeel = "evenkeel"

const (
	// bias is what the control plane compiles into its clusters as active_request_bias, envoyBias what
	// Envoy has without that.
	bias, envoyBias = 1.5, 1.0
	envoySlowStart  = 30 * time.Second
)

var policies = []policy{
	{name: "round-robin", what: "ROUND_ROBIN, equal weights",
		picker: rr, control: noControl},
	{name: "least-request", what: "LEAST_REQUEST, equal weights: Envoy's power of two choices",
		picker: lr, control: noControl},
	{name: "slow-start", what: "the same with Envoy's slow start of 30 s, which replaces the two choices by a schedule, with active_request_bias 1, Envoy's default",
		picker: func(c *clock, random *rand.Rand) picker { return newLeastRequest(c, random, envoyBias, envoySlowStart) }, control: noControl},
	{name: "orca-wrr", what: "client_side_weighted_round_robin: every Envoy weighs by the load that servers report with their responses",
		picker: rr, control: noControl, orca: true},
	{name: "rtt", what: "the strategy RTT, base * (1 + 0.3 * median P90/P90), with LEAST_REQUEST",
		picker: lr, control: func(s settings) controlPlane { return newEngine(weights.RTT, s.proxies*s.pickers) }},
	{name: "pid", what: "a PID controller on max(CPU, in-flight), with ROUND_ROBIN",
		picker: rr, control: func(settings) controlPlane { return newPID() }},
	{name: evenkeel, what: "the strategy Capacity, all defaults, with LEAST_REQUEST and active_request_bias 1.5",
		picker: lr, control: func(s settings) controlPlane { return newEngine(weights.Capacity, s.proxies*s.pickers) }},
	{name: "oracle", what: "the true capacities at every moment, which no control plane can know, with the same LEAST_REQUEST",
		picker: lr, control: func(s settings) controlPlane { return &oracle{mean: s.work.Seconds()} }},
}

func rr(_ *clock, random *rand.Rand) picker { return newRoundRobin(random) }
func lr(c *clock, random *rand.Rand) picker { return newLeastRequest(c, random, bias, 0) }
func noControl(settings) controlPlane       { return none{} }

// hasWeights says whether its weights come to differ.
func (p policy) hasWeights() bool {
	_, equal := p.control(defaults()).(none)
	return p.orca || !equal
}

func policyName(p policy) string     { return p.name }
func scenarioName(s scenario) string { return s.name }

func nameList[T any](all []T, name func(T) string) string {
	var names []string
	for _, one := range all {
		names = append(names, name(one))
	}
	return strings.Join(names, ", ")
}

// choose finds the comma-separated names in all, in the order of all; "" is all of them.
func choose[T any](what, list string, all []T, name func(T) string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	wanted := map[string]bool{}
	for n := range strings.SplitSeq(list, ",") {
		wanted[strings.TrimSpace(n)] = true
	}
	var chosen []T
	for _, one := range all {
		if wanted[name(one)] {
			chosen = append(chosen, one)
			delete(wanted, name(one))
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("%s %q: want one of %s", what, slices.Sorted(maps.Keys(wanted))[0], nameList(all, name))
	}
	return chosen, nil
}
