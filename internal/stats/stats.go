// SPDX-License-Identifier: Apache-2.0

// Package stats has the few statistics that the project's measurements share,
// so that "median" means the same everywhere.
package stats

import "slices"

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
