package main

import "time"

// faultAfter is how far into the window a fault begins, unless its scenario says otherwise.
const faultAfter = 5 * time.Second

var scenarios = []scenario{
	{name: "uneven", about: "nothing happens"},
	{name: "even", about: "all servers have the mean speed, nothing happens", alter: even(standard.load)},
	{name: "even50", about: "all servers have the mean speed, the load is half of their capacity, nothing happens", alter: even(0.5)},
	{name: "even85", about: "all servers have the mean speed, the load is 85 % of their capacity, nothing happens", alter: even(0.85)},
	{name: "fourEnvoys", about: "four Envoys share the load, nothing happens", alter: func(t *topology) { t.envoys = 4 }},
	{name: "fourWorkers", about: "the Envoy has four workers, nothing happens", alter: func(t *topology) { t.concurrency = 4 }},

	{name: "visible", about: "after 5 s a quarter of the servers has half its speed, and its CPU shows it",
		during: after(faultAfter, apply(quarter, slowDown(2, false))), faultAt: faultAfter},
	{name: "hidden", about: "after 5 s a quarter of the servers takes twice as long, and its CPU does not show it",
		during: after(faultAfter, apply(quarter, slowDown(2, true))), faultAt: faultAfter},
	{name: "neighbours", about: "every three seconds some server loses up to two thirds of its speed for 5 s to 15 s, half of the time without its CPU showing it",
		during: neighbours},
	{name: "pauses", about: "every two seconds another server does nothing for 0.4 s", during: pauses},

	{name: "sinkhole", about: "after 5 s one server fails every request at once",
		during: after(faultAfter, apply(one, fail(1))), faultAt: faultAfter},
	{name: "sinkhole30", about: "after 5 s one server fails 30 % of its requests at once",
		during: after(faultAfter, apply(one, fail(0.3))), faultAt: faultAfter},
	{name: "sinkhole5", about: "after 5 s one server fails 5 % of its requests at once",
		during: after(faultAfter, apply(one, fail(0.05))), faultAt: faultAfter},
	{name: "blackhole", about: "after 5 s one server accepts requests and answers none, for 20 s",
		during: after(faultAfter, blackHole(20*time.Second)), faultAt: faultAfter},

	{name: "noCPU", about: "nothing happens; one server exports no CPU metric, ever", alter: func(t *topology) { t.withoutCPU = 1 }},
	{name: "dark", about: "after 5 s the metrics of two thirds of the servers hang",
		during: after(faultAfter, apply(twoThirds, hang)), faultAt: faultAfter},
	{name: "dark30", about: "after 5 s the metrics of a third of the servers hang",
		during: after(faultAfter, apply(third, hang)), faultAt: faultAfter},
	{name: "darkAll", about: "after 5 s the metrics of all servers hang",
		during: after(faultAfter, apply(all, hang)), faultAt: faultAfter},
	{name: "liar0", about: "from the start one of the slow servers claims that it uses no CPU, whatever it does",
		during: apply(slow, claim(0))},
	{name: "liar1", about: "from the start one of the slow servers claims that it uses 1 % of its CPU, whatever it does",
		during: apply(slow, claim(0.01))},
	{name: "liar5", about: "from the start one of the slow servers claims that it uses 5 % of its CPU, whatever it does",
		during: apply(slow, claim(0.05))},
	{name: "killed", about: "the control plane, where there is one, is killed at the start and revived at the end",
		during: killControlPlane},

	{name: "square", about: "the load alternates between 45 % and 95 % of the servers' capacity, ten seconds each",
		load: square},
	{name: "overload", about: "after 5 s the load is 120 % of the servers' capacity for 15 s",
		load: overload, faultAt: faultAfter},
	{name: "rolling", about: "one server after the other restarts: its connections break, it refuses for 2 s, then has half its speed for 8 s",
		during: rolling},
	{name: "chaos", about: "neighbours and pauses as in the scenarios of these names; after 5 s the metrics of a third of the servers hang; " +
		"from 15 s to 35 s one server fails every request at once",
		during: together(neighbours, pauses, after(faultAfter, apply(third, hang)), after(15*time.Second, sinkhole(20*time.Second)))},
}

func even(load float64) func(*topology) {
	return func(t *topology) {
		t.slowest, t.fastest = (t.slowest+t.fastest)/2, (t.slowest+t.fastest)/2
		t.load = load
	}
}

// squareHalf is half of the period of square. Routine weights are published at most every ten seconds, so
// with this half period what was computed under one load is in force under the other: the worst there is
// for a loop that would follow the load.
const squareHalf = 10 * time.Second

// square has the standard load as its mean and stays below capacity, so that what is lost is lost to the
// balancing.
func square(t time.Duration) float64 {
	const high, low = 0.95, 0.45
	switch {
	case t < 0:
		return 1
	case (t/squareHalf)%2 == 0:
		return high / standard.load
	default:
		return low / standard.load
	}
}

func overload(t time.Duration) float64 {
	if t >= faultAfter && t < faultAfter+15*time.Second {
		return 1.2 / standard.load
	}
	return 1
}
