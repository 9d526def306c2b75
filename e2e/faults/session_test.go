// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"testing"
	"time"
)

func TestSound(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		injected, client time.Duration // the baseline is 5 ms
		sound            bool
	}{
		{0, 5 * ms, true},
		{0, 3 * ms, true},
		{0, 7 * ms, false},
		{20 * ms, 29 * ms, true},
		{20 * ms, 31 * ms, false},
		{20 * ms, 21 * ms, true},
		{20 * ms, 19 * ms, false}, // less than the fault
	} {
		m := Injection{Injected: test.injected, Client: test.client, Baseline: 5 * ms}
		if m.Sound() != test.sound {
			t.Errorf("%v of %v: %v", test.injected, test.client, m.Sound())
		}
	}
}

func TestBaselineIsTheMedianOfTheLatest(t *testing.T) {
	var latest baseline
	if got := latest.median("a"); got != 0 {
		t.Errorf("%v of nothing", got)
	}
	for range 100 {
		latest.add("a", time.Hour)
	}
	latest.add("b", time.Minute)
	for i := range baselineSize {
		latest.add("a", time.Duration(i)*time.Second)
	}
	if got := latest.median("a"); got != baselineSize/2*time.Second {
		t.Errorf("%v", got)
	}
}
