// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
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

func TestWriteOverheadKeepsOtherKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out", "bench.json")
	results := []measure.OverheadResult{{Case: measure.Case{Name: "50"}, Pairs: []measure.Pair{{
		Off: measure.Sample{Requests: 400, PerSecond: 50, P50: 5 * time.Millisecond, P99: 9 * time.Millisecond},
		On: measure.Sample{Requests: 400, PerSecond: 49, P50: 6 * time.Millisecond, P99: 10 * time.Millisecond,
			Usage: lab.Usage{Agents: 100 * time.Millisecond}, Resident: 1 << 20, Spans: 1000},
	}}}}
	programs := []measure.Program{{Name: "capture_in", Runs: 10.5, Time: 300}}
	if err := writeOverhead(path, "lab", results, programs); err != nil {
		t.Fatal(err)
	}
	packet := []byte(`{"packet": [{"case": "udp"}], "lab": "old"}`)
	if err := os.WriteFile(path, packet, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeOverhead(path, "lab", results, programs); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	err = json.Unmarshal([]byte(`{"packet": [{"case": "udp"}], "lab": [
		{"case": "50", "agent": "off", "requests_per_second": 50, "p50_us": 5000, "p99_us": 9000,
			"agent_cpu_s_per_1000": 0, "agent_rss_bytes": 0, "spans_per_request": 0},
		{"case": "50", "agent": "on", "requests_per_second": 49, "p50_us": 6000, "p99_us": 10000,
			"agent_cpu_s_per_1000": 0.25, "agent_rss_bytes": 1048576, "spans_per_request": 2.5}],
		"lab-programs": [{"program": "capture_in", "runs_per_request": 10.5, "ns": 300}]}`), &want)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("wrote %s", text)
	}
}

func TestWriteOverheadRefusesABrokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeOverhead(path, "lab", nil, nil); err == nil {
		t.Error("no error for a file that is not JSON")
	}
}
