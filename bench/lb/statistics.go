package main

import (
	"math"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// comparison is a ratio of ours to another arm's, with the interval that covers it in nine of ten such
// measurements. Low and High are NaN of a single pair.
type comparison struct {
	Mean, Low, High float64
	Pairs           int
}

// compare returns the geometric mean of ours[i]/theirs[i] and its 90 % interval: that of the mean of their
// logarithms under Student's t distribution. NaN of no pairs.
func compare(ours, theirs []float64) comparison {
	n := float64(len(ours))
	logs := make([]float64, len(ours))
	mean := 0.0
	for i := range ours {
		logs[i] = math.Log(ours[i] / theirs[i])
		mean += logs[i] / n
	}
	if len(ours) == 0 {
		mean = math.NaN()
	}
	c := comparison{Mean: math.Exp(mean), Low: math.NaN(), High: math.NaN(), Pairs: len(ours)}
	if len(ours) < 2 {
		return c
	}
	squares := 0.0
	for _, l := range logs {
		squares += (l - mean) * (l - mean)
	}
	half := studentT95(len(ours)-1) * math.Sqrt(squares/(n-1)/n)
	c.Low, c.High = math.Exp(mean-half), math.Exp(mean+half)
	return c
}

// studentT95 is the value that Student's t with so many degrees of freedom, at least 1, is below of with
// probability 0.95.
func studentT95(freedom int) float64 {
	table := []float64{
		6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812,
		1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725,
		1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
	}
	return table[min(freedom, len(table))-1]
}

// imbalance is the utilisation of the busiest server over the mean, of the whole window.
func (r *record) imbalance() float64 {
	return demo.MaxOverMean(means(r.Utilisation))
}

// imbalance5s is the median of the same over slices of five seconds.
func (r *record) imbalance5s() float64 {
	const seconds = 5
	var slices []float64
	for from := 0; from+seconds <= len(r.Utilisation); from += seconds {
		slices = append(slices, demo.MaxOverMean(means(r.Utilisation[from:from+seconds])))
	}
	return demo.Median(slices)
}

// means of each server over the seconds.
func means[T ratio | uint64 | float64](seconds [][]T) []float64 {
	if len(seconds) == 0 {
		return nil
	}
	sums := make([]float64, len(seconds[0]))
	for _, second := range seconds {
		for i, v := range second {
			sums[i] += float64(v) / float64(len(seconds))
		}
	}
	return sums
}

// settled is how many seconds after the fault the servers that lose traffic by it together have what they
// have in the end, the mean of the last fifteen seconds, to 15 % and for good. It is infinite if they do not
// before those begin, and NaN where there is no fault or no server loses a sixth of its share.
//
// It goes by the shares of published weights where they are known. Of arms whose weights cannot be seen it
// goes by the shares of the requests that arrive at servers, each the mean over three seconds; three
// servers of twelve get some 300 of them in that time, which alone makes it vary by 6 %.
func (r *record) settled() float64 {
	const (
		final     = 15
		tolerance = 0.15
		lost      = 5.0 / 6
		// Less than a tenth of what it was is nothing, to which no deviation can be compared.
		nothing = 0.1
	)
	seconds := r.sharesBySecond()
	fault, end := int(r.FaultAt/time.Second), len(seconds)-final
	if fault < 1 || fault > end {
		return math.NaN()
	}
	before, after := columns(seconds[:fault]), columns(seconds[end:])
	affected := make([]bool, len(after))
	was, target := 0.0, 0.0
	for i := range after {
		if after[i] < lost*before[i] {
			affected[i] = true
			was, target = was+before[i], target+after[i]
		}
	}
	if was == 0 {
		return math.NaN()
	}
	for at := len(seconds) - 1; at >= fault; at-- {
		now := seconds[at : at+1]
		if r.Weights == nil {
			now = seconds[max(fault, at-1):min(len(seconds), at+2)]
		}
		share := 0.0
		for i, s := range columns(now) {
			if affected[i] {
				share += s
			}
		}
		if math.Abs(share-target) > tolerance*max(target, nothing*was) {
			if at >= end {
				return math.Inf(1)
			}
			return float64(at + 1 - fault)
		}
	}
	return 0
}

// sharesBySecond are the servers' shares in each second: of the weights, or of the requests.
func (r *record) sharesBySecond() [][]float64 {
	var all [][]float64
	if r.Weights != nil {
		for _, second := range r.Weights {
			all = append(all, means([][]ratio{second}))
		}
		return all
	}
	for _, second := range r.Arrivals {
		all = append(all, means([][]uint64{second}))
	}
	return all
}

// columns are the servers' shares of all in some seconds.
func columns(seconds [][]float64) []float64 {
	counts := means(seconds)
	sum := 0.0
	for _, n := range counts {
		sum += n
	}
	for i := range counts {
		if sum > 0 {
			counts[i] /= sum
		}
	}
	return counts
}
