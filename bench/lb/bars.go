package main

import (
	"fmt"
	"math"
	"strings"
)

// verdict on a bar.
type verdict string

const (
	met         verdict = "yes"
	missed      verdict = "**no**"
	notMeasured verdict = "not measured"
)

func verdictOf(ok bool) verdict {
	if ok {
		return met
	}
	return missed
}

// judgement is a bar and how ours stands to it: a line of the summary.
type judgement struct {
	scenario, measure, ours, others, bar string
	verdict                              verdict
}

// bar is what must hold in some scenarios. judge fills in ours, others and verdict, if it has the runs.
type bar struct {
	scenarios     []string
	measure, want string
	judge         func(*study, *judgement)
}

const (
	// sameGoodput is how many points of goodput are a tie.
	sameGoodput = 0.01
	// safeGoodput is how many points may be lost where the engine has nothing true to go by.
	safeGoodput = 0.03
	// sameTail is how much of p99 knowing less may cost.
	sameTail = 1.08
	// wideTail is the same for other ways to place Envoys.
	wideTail = 1.10
	// sameBalance is by how much max/avg may differ from that of the true capacities.
	sameBalance = 0.03
)

var (
	faults = []string{"hidden", "visible", "sinkhole", "noCPU", "dark", "pauses", "rolling", "chaos"}
	blind  = []string{"darkAll", "killed", "liar0", "liar1", "liar5", "square"}
	shapes = []string{"fourEnvoys", "fourWorkers"}
)

// bars are in the order of the summary.
var bars = []bar{
	{[]string{"uneven"}, "max/avg utilisation", "at most the oracle's + 0.03", balanceLike(oracle)},
	{[]string{"uneven"}, "p99", "at most 1.08 x the oracle's", tailLike(oracle, sameTail)},
	{[]string{"uneven"}, "p99 with tilt 0.25", "below that without", tiltHelps},
	{[]string{"uneven"}, "pushes/min", "at most 15", pushesAtMost(15)},
	{[]string{"even", "even50", "even85"}, "p99", "at most 1.08 x LEAST_REQUEST's", tailLike(plainLeast, sameTail)},
	{faults, "goodput", "not below any alternative's by more than 0.01 points", goodputLikeBest},
	{faults, "p99", "below every alternative's", tailBelowAll},
	{[]string{"sinkhole"}, "errors seen by clients", "at most half of LEAST_REQUEST's", halfTheErrors},
	{[]string{"hidden"}, "time to settle", "at most 20 s", settlesIn(20)},
	{blind, "goodput", "not below LEAST_REQUEST's by more than 0.03 points", goodputLike(plainLeast, safeGoodput)},
	{shapes, "p99", "at most 1.10 x the oracle's", tailLike(oracle, wideTail)},
	{[]string{"chaos"}, "pushes/min", "at most 25", pushesAtMost(25)},
}

// judge holds the studies against the bars.
func judge(of []*study) []judgement {
	var list []judgement
	for _, b := range bars {
		for _, name := range b.scenarios {
			j := judgement{scenario: name, measure: b.measure, bar: b.want, ours: "-", others: "-", verdict: notMeasured}
			for _, s := range of {
				if s.scenario == name && len(s.counted(ours)) > 0 {
					b.judge(s, &j)
				}
			}
			list = append(list, j)
		}
	}
	return list
}

func balanceLike(other string) func(*study, *judgement) {
	return func(s *study, j *judgement) {
		mine, theirs := s.median(ours, imbalance), s.median(other, imbalance)
		if math.IsNaN(theirs) {
			return
		}
		j.ours, j.others = fmt.Sprintf("%.3f", mine), fmt.Sprintf("%s %.3f", other, theirs)
		j.verdict = verdictOf(mine <= theirs+sameBalance)
	}
}

func tailLike(other string, most float64) func(*study, *judgement) {
	return func(s *study, j *judgement) {
		c := s.pairs(ours, other, p99)
		if c.Pairs == 0 {
			return
		}
		j.ours = fmt.Sprintf("%.0f ms, %s", s.median(ours, p99), c)
		j.others = fmt.Sprintf("%s %.0f ms", other, s.median(other, p99))
		j.verdict = verdictOf(c.Mean <= most)
	}
}

func tiltHelps(s *study, j *judgement) {
	c := s.pairs(tilted, ours, p99)
	if c.Pairs == 0 {
		return
	}
	j.ours = fmt.Sprintf("%.0f ms, %s", s.median(tilted, p99), c)
	j.others = fmt.Sprintf("%s %.0f ms", ours, s.median(ours, p99))
	j.verdict = verdictOf(c.Mean < 1)
}

func pushesAtMost(most float64) func(*study, *judgement) {
	return func(s *study, j *judgement) {
		if mine := s.median(ours, pushesPerMinute); !math.IsNaN(mine) {
			j.ours, j.verdict = fmt.Sprintf("%.1f", mine), verdictOf(mine <= most)
		}
	}
}

func goodputLikeBest(s *study, j *judgement) { goodputNotBelow(s, j, s.alternatives(), sameGoodput) }

func goodputLike(other string, less float64) func(*study, *judgement) {
	return func(s *study, j *judgement) { goodputNotBelow(s, j, []string{other}, less) }
}

func goodputNotBelow(s *study, j *judgement, others []string, less float64) {
	mine := s.pool(ours).goodput()
	var texts []string
	worst := math.Inf(1)
	for _, other := range others {
		if theirs := s.pool(other).goodput(); !math.IsNaN(theirs) {
			texts = append(texts, fmt.Sprintf("%s %.3f %%", other, theirs))
			worst = min(worst, mine-theirs)
		}
	}
	if texts == nil {
		return
	}
	j.ours, j.others = fmt.Sprintf("%.3f %%", mine), strings.Join(texts, ", ")
	j.verdict = verdictOf(worst >= -less)
}

func tailBelowAll(s *study, j *judgement) {
	var texts []string
	below := true
	for _, other := range s.alternatives() {
		if c := s.pairs(ours, other, p99); c.Pairs > 0 {
			texts = append(texts, fmt.Sprintf("%s %.0f ms, %s", other, s.median(other, p99), c))
			below = below && c.Mean < 1
		}
	}
	if texts == nil {
		return
	}
	j.ours, j.others, j.verdict = fmt.Sprintf("%.0f ms", s.median(ours, p99)), strings.Join(texts, ", "), verdictOf(below)
}

func halfTheErrors(s *study, j *judgement) {
	mine, theirs := s.pool(ours), s.pool(plainLeast)
	if theirs.requests == 0 {
		return
	}
	j.ours = fmt.Sprintf("%.4f %%", mine.errorShare())
	j.others = fmt.Sprintf("%s %.4f %%", plainLeast, theirs.errorShare())
	j.verdict = verdictOf(mine.errorShare() <= theirs.errorShare()/2)
}

func settlesIn(most float64) func(*study, *judgement) {
	return func(s *study, j *judgement) {
		if mine := s.median(ours, settling); !math.IsNaN(mine) {
			j.ours, j.verdict = seconds(mine), verdictOf(mine <= most)
		}
	}
}

func seconds(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case math.IsInf(v, 0):
		return "never"
	}
	return fmt.Sprintf("%.0f s", v)
}

// String is "x 0.93 (0.90-0.96)".
func (c comparison) String() string {
	switch {
	case c.Pairs == 0:
		return "-"
	case math.IsNaN(c.Low):
		return fmt.Sprintf("x %.2f (one pair)", c.Mean)
	}
	return fmt.Sprintf("x %.2f (%.2f-%.2f)", c.Mean, c.Low, c.High)
}
