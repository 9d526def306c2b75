// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/layertrace/layertrace/e2e/measure"
)

func TestChosenCases(t *testing.T) {
	all, err := chosenCases(nil)
	if err != nil || len(all) != len(measure.Cases) {
		t.Errorf("without names %d cases (%v), want all %d", len(all), err, len(measure.Cases))
	}
	some, err := chosenCases([]string{"saturation", "50"})
	if err != nil || len(some) != 2 || some[0].Name != "saturation" || some[1].Name != "50" {
		t.Errorf("chose %v (%v), want saturation and 50", some, err)
	}
	if _, err := chosenCases([]string{"fast"}); err == nil || !strings.Contains(err.Error(), "saturation") {
		t.Errorf("case fast: %v, want an error that names the cases", err)
	}
}
