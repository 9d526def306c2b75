// SPDX-License-Identifier: Apache-2.0

// Package stats has the few statistics that the project's measurements share,
// so that "median" means the same everywhere.
package stats

import (
	"math"
	"slices"
)

// Number is what can be measured: counts, durations, ratios.
type Number interface {
	~int | ~int64 | ~uint64 | ~float64
}

// Median returns the middle value, or the mean of the two middle values of an
// even number; 0 without values. It leaves values in their order.
func Median[T Number](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	// The sum of the two may not fit T.
	return sorted[middle-1] + (sorted[middle]-sorted[middle-1])/2
}

// MedianOf returns the median of one figure of each item.
func MedianOf[E any, T Number](items []E, figure func(E) T) T {
	values := make([]T, len(items))
	for i, item := range items {
		values[i] = figure(item)
	}
	return Median(values)
}

// Quantile returns the value that a share q (0 to 1) of the values stays
// below; the largest for 1, and 0 without values. The values must be sorted.
func Quantile[T Number](sorted []T, q float64) T {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// slopeBlocks is the number of means that Slope uses, and slopeQuantile the 97.5 % quantile of
// Student's t distribution with two degrees of freedom less.
const (
	slopeBlocks   = 12
	slopeQuantile = 2.228
)

// Slope returns how much y grows per unit of x, and half of the 95 % confidence interval of
// that, by least squares over the means of 12 blocks of neighbours: successive samples of a
// process depend on each other, means of many less so. x must ascend. With fewer than 24 values,
// or without a difference in x, it returns false.
func Slope(x, y []float64) (slope, margin float64, ok bool) {
	n := len(x)
	if n != len(y) || n < 2*slopeBlocks {
		return 0, 0, false
	}
	var bx, by [slopeBlocks]float64
	for i := range slopeBlocks {
		from, to := i*n/slopeBlocks, (i+1)*n/slopeBlocks
		bx[i], by[i] = mean(x[from:to]), mean(y[from:to])
	}
	mx, my := mean(bx[:]), mean(by[:])
	var sxx, sxy float64
	for i := range bx {
		sxx += (bx[i] - mx) * (bx[i] - mx)
		sxy += (bx[i] - mx) * (by[i] - my)
	}
	if sxx == 0 {
		return 0, 0, false
	}
	slope = sxy / sxx
	var rest float64
	for i := range bx {
		e := by[i] - my - slope*(bx[i]-mx)
		rest += e * e
	}
	return slope, slopeQuantile * math.Sqrt(rest/(slopeBlocks-2)/sxx), true
}

func mean(values []float64) (sum float64) {
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
