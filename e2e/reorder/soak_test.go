// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"flag"
	"strings"
	"testing"
	"time"
)

var (
	soakDuration = flag.Duration("soak", 0, "how long TestSoak keeps the filter busy; 0: for a moment, without checking memory")
	soakRequired = flag.Uint64("soak-requests", 0, "minimum of requests that TestSoak sends in each placement")
)

// TestSoak checks that no VM fails and that the filter handles every request. For a
// long run:
//
//	go test ./e2e/reorder -run TestSoak -v -timeout 1h -soak 10m -soak-requests 1000000
func TestSoak(t *testing.T) { eachModule(t, checkSoak) }

func checkSoak(t *testing.T, program, module string) {
	t.Helper()
	o := SoakOptions{
		CostOptions: CostOptions{Envoy: program, Module: module, Dir: t.TempDir(), Progress: t.Logf},
		Duration:    *soakDuration, Requests: max(500, *soakRequired),
	}
	if o.Duration == 0 {
		o.Duration = 100 * time.Millisecond
	}
	results, err := Soak(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 {
		t.Fatalf("%d results, want those of two placements", len(results))
	}
	for _, r := range results {
		t.Logf("%+v", r)
		if r.Requests < o.Requests {
			t.Errorf("%s: %d requests, want %d or more", r.Variant, r.Requests, o.Requests)
		}
		if *soakDuration == 0 {
			r.RSS = []uint64{1} // too short
		}
		if err := r.Lasted(); err != nil {
			t.Errorf("%s: %v", r.Variant, err)
		}
	}
}

func TestLasted(t *testing.T) {
	good := SoakResult{Requests: 10, Counted: 10, RSS: []uint64{50, 90, 100, 100, 101}}
	if err := good.Lasted(); err != nil {
		t.Errorf("%+v: %v", good, err)
	}
	for want, r := range map[string]SoakResult{
		"log":     {Requests: 10, Counted: 10, RSS: []uint64{1}, Failures: []string{"VM"}},
		"counted": {Requests: 10, Counted: 9, RSS: []uint64{1}},
		"errors":  {Requests: 10, Counted: 10, Errors: 1, RSS: []uint64{1}},
		"memory":  {Requests: 10, Counted: 10, RSS: []uint64{50, 90, 100, 100, 103}},
	} {
		if err := r.Lasted(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one about %q", r, err, want)
		}
	}
}
