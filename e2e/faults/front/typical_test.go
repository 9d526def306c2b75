// SPDX-License-Identifier: Apache-2.0

package front

import (
	"testing"
	"time"
)

func TestTypicalIsTheMedianOfTheLatest(t *testing.T) {
	var typical Typical
	if got := typical.Median("a"); got != 0 {
		t.Errorf("%v of nothing", got)
	}
	for range 100 {
		typical.Add("a", time.Hour)
	}
	typical.Add("b", time.Minute)
	for i := range recently {
		typical.Add("a", time.Duration(i)*time.Second)
	}
	if got := typical.Median("a"); got != recently/2*time.Second {
		t.Errorf("%v", got)
	}
}
