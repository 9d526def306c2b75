// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
)

// One hop between nodes: the interface spans nest from the client's side to the
// server's, and the server's span is below them.
func TestTreeNestsInterfaceSpansOfAHop(t *testing.T) {
	t0 := time.UnixMicro(1_000_000)
	span := func(id, parent, service, name string, start, duration int) lab.Span {
		return lab.Span{ID: id, Parent: parent, Service: service, Name: name,
			Start: t0.Add(time.Duration(start) * time.Microsecond), Duration: time.Duration(duration) * time.Microsecond}
	}
	trace := lab.Trace{ID: "t", Spans: []lab.Span{
		span("s", "c", "details", "serve", 400, 200),
		span("4", "c", "details", "details_vethdetails", 300, 400),
		span("2", "c", "node4", "node4_eth0", 150, 700),
		span("c", "", "productpage", "call", 0, 1000),
		span("3", "c", "node3", "node3_eth0", 200, 600),
		span("1", "c", "productpage", "productpage_vethproductpage", 100, 800),
	}}
	var out strings.Builder
	printTree(&out, trace)
	want := []string{
		"  productpage call",
		"  | productpage_vethproductpage",
		"    | node4_eth0",
		"      | node3_eth0",
		"        | details_vethdetails",
		"            details serve",
	}
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), out.String())
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, want[i]+" ") {
			t.Errorf("line %d is %q, want %q", i, line, want[i])
		}
	}
	if !strings.Contains(lines[4], "0.400 ms  at    0.300 ms") {
		t.Errorf("times of the innermost interface: %q", lines[4])
	}
}

// Where an encrypted exchange is missing, the demo has the reason that the agents counted.
func TestDemoReportsWhyExchangesAreMissing(t *testing.T) {
	r := newReport()
	results := make([]measure.Acquired, len(lab.Points()))
	for i, point := range lab.Points() {
		results[i] = measure.Acquired{Point: point, Passed: 200, Acquired: 200}
	}
	r.add("encrypted", results)
	r.records["encrypted"] = lab.Records{Outcomes: map[string]int{
		"attempt exact": 1470, "attempt exact early": 1, "server time cut": 2, "attempt unmatched no_exchange": 3, "server ambiguous sizes": 1,
	}}
	if err := r.missed(); err != nil {
		t.Errorf("all were acquired: %v", err)
	}
	results[1].Acquired = 199
	err := r.missed()
	for _, want := range []string{results[1].Name + ": 199 of 200 acquired", "1 server ambiguous sizes, 3 attempt unmatched no_exchange"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to have %q", err, want)
		}
	}
	if err != nil && (strings.Contains(err.Error(), "exact") || strings.Contains(err.Error(), "cut")) {
		t.Errorf("it has records with an exchange: %v", err)
	}
}
