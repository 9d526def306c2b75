// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math"
	"strconv"
)

// duration writes ns with three digits, in the unit that suits.
func duration(ns int64) string {
	sign, value := "", float64(ns)
	if ns < 0 {
		sign, value = "-", -value
	}
	units := [...]string{"ns", "µs", "ms", "s"}
	unit := 0
	for unit < len(units)-1 && round3(value) >= 1000 {
		value /= 1000
		unit++
	}
	value = round3(value)
	digits := 0
	switch {
	case unit == 0 || value >= 100:
	case value >= 10:
		digits = 1
	default:
		digits = 2
	}
	return sign + strconv.FormatFloat(value, 'f', digits, 64) + " " + units[unit]
}

// round3 rounds to three digits.
func round3(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(v)))
	return math.Round(v*scale) / scale
}

// difference writes ns with its sign.
func difference(ns int64) string {
	if ns > 0 {
		return "+" + duration(ns)
	}
	return duration(ns)
}

// percent writes a share of 1.
func percent(share float64) string {
	if share > 0 && share < 0.01 {
		return "<1 %"
	}
	return strconv.FormatFloat(100*share, 'f', 0, 64) + " %"
}
