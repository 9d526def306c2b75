// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"slices"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for want, values := range map[float64][]float64{0: nil, 3: {9, 3, 1}, 2: {9, 1, 2, 2}, 2.5: {4, 1, 9, 1}, 7: {7}} {
		before := slices.Clone(values)
		if got := Median(values); got != want {
			t.Errorf("median of %v is %v, want %v", values, got, want)
		}
		if !slices.Equal(values, before) {
			t.Errorf("%v became %v", before, values)
		}
	}
	if got := Median([]uint64{10, 4}); got != 7 {
		t.Errorf("median of unsigned values is %v, want 7", got)
	}
}

func TestMedianOf(t *testing.T) {
	texts := []string{"a", "four", "as"}
	if got := MedianOf(texts, func(s string) time.Duration { return time.Duration(len(s)) }); got != 2 {
		t.Errorf("median length %v, want 2", got)
	}
}

func TestQuantile(t *testing.T) {
	for q, want := range map[float64]int{0: 1, 0.5: 3, 0.75: 4, 0.99: 4, 1: 4} {
		if got := Quantile([]int{1, 2, 3, 4}, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := Quantile([]int{}, 0.5); got != 0 {
		t.Errorf("without values: %v, want 0", got)
	}
}

// A slope is found in noise, and its interval has the true one in it and tells noise from growth.
func TestSlope(t *testing.T) {
	noise := func(i int) float64 { return float64(i*7919%101)/50 - 1 } // -1 to 1
	for _, want := range []float64{0, 3, -3} {
		var x, y []float64
		for i := range 240 {
			x, y = append(x, float64(i)/240), append(y, 100+want*float64(i)/240+noise(i))
		}
		slope, margin, ok := Slope(x, y)
		if !ok || slope-margin > want || slope+margin < want || margin <= 0 || margin > 1 {
			t.Errorf("%v ± %v, %t; want %v", slope, margin, ok, want)
		}
	}
	for _, short := range [][]float64{nil, make([]float64, 23), make([]float64, 24)} { // the last without a difference in x
		if _, _, ok := Slope(short, short); ok {
			t.Errorf("a slope of %d equal values", len(short))
		}
	}
}
