// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"reflect"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
)

func TestSummarize(t *testing.T) {
	row := func(kind faults.Kind, off time.Duration) Verification {
		return Verification{Injection: faults.Injection{Injected: 5 * time.Millisecond, Baseline: time.Second, Client: time.Second + 5*time.Millisecond + off}, Case: faults.Case{Kind: kind}}
	}
	missed := row(faults.AppSleep, time.Hour)
	missed.Err = faults.ErrMissed
	got := Summarize([]Verification{
		row(faults.NoFault, 1), row(faults.AppSleep, 30*time.Millisecond), missed,
		row(faults.AppSleep, 2), row(faults.AppSleep, -3),
	})
	want := []VerifySummary{
		{Kind: faults.AppSleep, Median: 2, Rows: 4, Missed: 1, Unsound: 1},
		{Kind: faults.NoFault, Median: 1, Rows: 1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}
