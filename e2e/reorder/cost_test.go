// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"testing"

	"github.com/layertrace/layertrace/e2e/provision"
	luafilter "github.com/layertrace/layertrace/lua-filter"
)

// TestMeasure measures two variants that start fast, and only checks that there are
// results.
func TestMeasure(t *testing.T) {
	program, err := provision.Envoy(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	lua, err := luafilter.Source(luafilter.Config{})
	if err != nil {
		t.Fatal(err)
	}
	results, err := MeasureCost(t.Context(), CostOptions{
		Envoy: program, Dir: t.TempDir(), Progress: t.Logf, Rounds: 2, Requests: 40,
		Variants: []Variant{{Name: "stock"}, {Name: "lua-upstream", Upstream: &Filter{Lua: lua}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 || results[0].Variant != "stock" || results[1].Variant != "lua-upstream" {
		t.Fatalf("results %+v, want those of stock and lua-upstream", results)
	}
	for _, r := range results {
		if r.CPUMicros <= 0 || r.P50Micros <= 0 || r.P99Micros < r.P50Micros || r.RSSBytes < 10<<20 {
			t.Errorf("%+v is not a measurement", r)
		}
	}
}
