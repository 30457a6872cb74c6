package demo

import (
	"math"
	"slices"
	"time"
)

// Spearman returns the rank correlation of two equally long series, -1 to 1: 1 if one rises wherever
// the other does. Ties share their mean rank. 0 if either series is constant or shorter than two, for
// then there is no order to agree with.
func Spearman(a, b []float64) float64 {
	if len(a) != len(b) {
		panic("demo: Spearman of series of different length")
	}
	ranksA, ranksB := ranks(a), ranks(b)
	mean := float64(len(a)+1) / 2
	var covariance, varianceA, varianceB float64
	for i := range a {
		dA, dB := ranksA[i]-mean, ranksB[i]-mean
		covariance += dA * dB
		varianceA += dA * dA
		varianceB += dB * dB
	}
	if varianceA == 0 || varianceB == 0 {
		return 0
	}
	return covariance / math.Sqrt(varianceA*varianceB)
}

func ranks(values []float64) []float64 {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case values[i] < values[j]:
			return -1
		case values[i] > values[j]:
			return 1
		}
		return 0
	})
	result := make([]float64, len(values))
	for from := 0; from < len(order); {
		to := from + 1
		for to < len(order) && values[order[to]] == values[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			result[i] = float64(from+1+to) / 2
		}
		from = to
	}
	return result
}

// MaxOverMean is the largest value divided by the mean, the usual measure of imbalance: 1 is perfect.
// 0 if there is nothing, or the mean is 0.
func MaxOverMean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	if sum == 0 {
		return 0
	}
	return slices.Max(values) * float64(len(values)) / sum
}

// Median returns the middle value, or the mean of the two middle ones; NaN of nothing.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// quantile returns the value at the nearest rank of ascending values, 0 of nothing. 0 < q <= 1.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}
