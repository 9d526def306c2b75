// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"testing"

	"github.com/layertrace/layertrace/e2e/provision"
)

// TestMeasureMemory measures one variant that starts fast, and only checks that there are
// results for each number of workers.
func TestMeasureMemory(t *testing.T) {
	needsEnvoy(t)
	program, err := provision.Envoy(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	results, err := MeasureMemory(t.Context(), CostOptions{
		Envoy: program, Dir: t.TempDir(), Progress: t.Logf, Variants: []Variant{{Name: "stock"}}, Rounds: 1, Requests: 64,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(memoryWorkers) {
		t.Fatalf("results %+v, want one for each of %v workers", results, memoryWorkers)
	}
	for i, r := range results {
		if r.Workers != memoryWorkers[i] || r.AnonymousBytes < 1<<20 || r.RSSBytes < r.AnonymousBytes {
			t.Errorf("%+v is not a measurement with %d workers", r, memoryWorkers[i])
		}
	}
}
