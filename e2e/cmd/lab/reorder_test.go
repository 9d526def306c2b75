// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/reorder"
)

var reorderExample = reorderReport{
	Wire: []reorder.Result{
		{
			Tracer: lab.Zipkin, Placement: reorder.LuaUpstream, Case: "root", Protocol: reorder.HTTP1,
			Pass: true, Order: []string{"host", "x-b3-traceid"}, Offset: 37,
		},
		{
			Tracer: lab.Zipkin, Placement: reorder.LuaUpstream, Case: "root", Protocol: reorder.HTTP2,
			Order: []string{}, Offset: -1, Err: errors.New("nothing came"),
		},
	},
	Cost: []reorder.Cost{
		{Variant: "stock", CPUMicros: 40, P50Micros: 250, P99Micros: 600, RSSBytes: 64 << 20},
		{Variant: "lua-upstream", CPUMicros: 52.5, P50Micros: 300, P99Micros: 700, RSSBytes: 66 << 20},
	},
	Memory: []reorder.Memory{
		{Variant: "stock", Workers: 2, RSSBytes: 64 << 20, AnonymousBytes: 16 << 20},
		{Variant: "lua-upstream", Workers: 2, RSSBytes: 67 << 20, AnonymousBytes: 18 << 20},
	},
}

func TestReorderJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out", "reorder.json")
	if err := reorderExample.write(path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"wire":[` +
		`{"tracer":"zipkin","placement":"lua-upstream","case":"root","protocol":"http/1.1","pass":true,"order":["host","x-b3-traceid"]},` +
		`{"tracer":"zipkin","placement":"lua-upstream","case":"root","protocol":"http/2","pass":false,"order":[]}],` +
		`"cost":[{"variant":"stock","cpu_us_per_request":40,"p50_us":250,"p99_us":600,"rss_bytes":67108864},` +
		`{"variant":"lua-upstream","cpu_us_per_request":52.5,"p50_us":300,"p99_us":700,"rss_bytes":69206016}],` +
		`"memory":[{"variant":"stock","workers":2,"rss_bytes":67108864,"anonymous_bytes":16777216},` +
		`{"variant":"lua-upstream","workers":2,"rss_bytes":70254592,"anonymous_bytes":18874368}]}`
	if diff := cmp.Diff(want, strings.NewReplacer(" ", "", "\n", "").Replace(string(got))); diff != "" {
		t.Errorf("reorder.json (-want +got):\n%s", diff)
	}
}

func TestReorderFailed(t *testing.T) {
	if err := reorderExample.failed(); err == nil || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("one of two cases failed: %v", err)
	}
	passed := reorderReport{Wire: reorderExample.Wire[:1]}
	if err := passed.failed(); err != nil {
		t.Errorf("no case failed: %v", err)
	}
}

func TestPrintReorder(t *testing.T) {
	var out strings.Builder
	printWire(&out, reorderExample.Wire)
	printOffsets(&out, reorderExample.Wire)
	printCost(&out, reorderExample.Cost)
	printMemory(&out, reorderExample.Memory)
	lines := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		lines[strings.Join(strings.Fields(line), " ")] = true
	}
	for _, want := range []string{
		"zipkin root 0/0 0/0 0/0 1/2 0/0 0/0",
		"FAILED zipkin root lua-upstream http/2: nothing came",
		"zipkin root none none none 37 none none",
		"lua-upstream 52.5 +12.5 300 700 66",
		"2 lua-upstream 67.0 +3.0 18.0 +2.0",
	} {
		if !lines[want] {
			t.Errorf("no line %q in:\n%s", want, out.String())
		}
	}
}
