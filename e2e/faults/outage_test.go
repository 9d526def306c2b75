// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"testing"
	"time"
)

// An outage begins with the first packet of the target, and loses everything until its
// end, also what is not data and what goes the other way.
func TestOutage(t *testing.T) {
	plan := &outagePlan{target: func(s segment) bool { return s.Seq >= 100 }, length: 6 * time.Second}
	start := time.UnixMilli(0)
	for i, step := range []struct {
		packet packet
		after  time.Duration
		lost   bool
	}{
		{data(1, true), 0, false}, {packet{}, 0, false},
		{data(100, true), time.Second, true}, {packet{}, time.Second, true}, {data(1, true), 2 * time.Second, true},
		{data(100, true), 7*time.Second - 1, true},
		{data(100, true), 7 * time.Second, false}, {packet{}, 8 * time.Second, false},
	} {
		if _, lost := plan.Decide(step.packet, start.Add(step.after)); lost != step.lost {
			t.Errorf("step %d: lost %v", i, lost)
		}
		if begun := i >= 2; plan.Met() != begun {
			t.Errorf("step %d: begun %v", i, plan.Met())
		}
	}
}

// A storm loses three of four packets of the target, until its number is lost.
func TestStorm(t *testing.T) {
	plan := &stormPlan{target: func(s segment) bool { return s.Seq >= 100 }, left: 5}
	for i, step := range []struct {
		packet packet
		lost   bool
	}{
		{data(1, true), false}, {packet{}, false},
		{data(100, false), true}, {data(110, false), true}, {data(120, true), true}, {data(100, true), false},
		{data(110, true), true}, {data(120, true), true}, {data(110, true), false}, {data(120, true), false},
	} {
		if _, lost := plan.Decide(step.packet, time.Now()); lost != step.lost {
			t.Errorf("step %d: lost %v", i, lost)
		}
	}
	if !plan.Met() {
		t.Error("no packet was lost")
	}
}
