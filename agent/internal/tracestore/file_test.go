// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// One object per line, one object over several lines, and a file saved by Jaeger's UI.
func TestFiles(t *testing.T) {
	lines, err := os.ReadFile("testdata/otlp.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	one := strings.ReplaceAll(string(lines), "]}\n{\"resourceSpans\": [", ",\n")
	if strings.Count(one, "resourceSpans") != 1 {
		t.Fatalf("not one object: %s", one)
	}
	for name, source := range map[string]Store{
		"lines": NewFile("testdata/otlp.jsonl"), "object": NewReader("object", strings.NewReader(one)), "jaeger": NewFile("testdata/jaeger.json"),
	} {
		t.Run(name, func(t *testing.T) {
			id, _ := ParseTraceID(stored)
			got, err := source.Trace(context.Background(), id)
			if err != nil {
				t.Fatal(err)
			}
			checkStored(t, got)
			if _, err := source.Trace(context.Background(), trace.TraceID{1}); !errors.Is(err, ErrNotFound) {
				t.Errorf("a trace that is not there: %v", err)
			}
		})
	}
}

func TestFileSearch(t *testing.T) {
	const span = `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"SERVICE"}}]},
		"scopeSpans":[{"spans":[{"traceId":"ID","spanId":"00f067aa0ba902b7","name":"NAME","startTimeUnixNano":"START","endTimeUnixNano":"9"}]}]}]}`
	var text strings.Builder
	for _, each := range [][]string{{"front", "GET /", "1", "5"}, {"front", "GET /", "2", "8"}, {"front", "POST /", "3", "6"}, {"back", "GET /", "4", "7"}} {
		id := strings.Repeat("0", 31) + each[2]
		text.WriteString(strings.NewReplacer("SERVICE", each[0], "NAME", each[1], "ID", id, "START", each[3]).Replace(span))
	}
	source := NewReader("-", strings.NewReader(text.String()))
	for _, test := range []struct {
		query Query
		want  string // last digits of the IDs
	}{
		{Query{Service: "front"}, "231"}, {Query{Service: "front", Operation: "GET /"}, "21"}, {Query{Service: "front", Limit: 2}, "23"},
		{Query{Service: "back", Operation: "POST /"}, ""}, {Query{Service: "front", From: time.Unix(0, 6)}, "23"}, {Query{Service: "front", To: time.Unix(0, 6)}, "31"},
	} {
		traces, err := source.Search(context.Background(), test.query)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, each := range traces {
			got += each.ID.String()[31:]
		}
		if got != test.want {
			t.Errorf("%+v: traces %s, want %s", test.query, got, test.want)
		}
	}
}

func TestFileErrors(t *testing.T) {
	const id = `"traceId":"4bf92f3577b34da6a3ce929d0e0e4736"`
	span := func(fields string) string { return `{"resourceSpans":[{"scopeSpans":[{"spans":[{` + fields + `}]}]}]}` }
	for text, want := range map[string]string{
		"":                   "is empty",
		"\x28\xb5\x2f\xfd":   "without compression",
		`{"resourceSpans":[`: "truncated",
		`{"a":1}`:            "no resourceSpans",
		`[]`:                 "object 1",
		span(``) + `7`:       "traceId is not 32",
		span(id):             "spanId is not 16",
		span(id + `,"spanId":"00f067aa0ba902b7","parentSpanId":"zz"`): "parentSpanId",
		span(`"traceId":7`):   "not OTLP JSON",
		`{"data":[{"a":1}]}`:  "not a trace ID",
		`{"data":{"a":1}}`:    "Jaeger's JSON",
		`{"resourceSpans":7}`: "not OTLP JSON",
	} {
		_, err := NewReader("NAME", strings.NewReader(text)).Search(context.Background(), Query{})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "NAME") {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, err := NewFile("testdata/nosuch").Search(context.Background(), Query{}); err == nil || !strings.Contains(err.Error(), "--file") {
		t.Errorf("no file: %v", err)
	}
}

func TestParseTraceID(t *testing.T) {
	for text, want := range map[string]string{
		stored: stored, " 4BF92F3577B34DA6A3CE929D0E0E4736\n": stored, "a3ce929d0e0e4736": "0000000000000000a3ce929d0e0e4736",
		"": "", "4bf9": "", stored + "0": "", strings.Repeat("0", 32): "", strings.Repeat("x", 32): "",
	} {
		id, err := ParseTraceID(text)
		if want == "" && (err == nil || !strings.Contains(err.Error(), "32 hex digits")) || want != "" && id.String() != want {
			t.Errorf("%q: %s, %v", text, id, err)
		}
	}
}

// FuzzFile: any file has traces or is an error. (Run it with -fuzzminimizetime=10x:
// minimizing a found file takes a minute otherwise.)
func FuzzFile(f *testing.F) {
	for _, name := range []string{"testdata/otlp.jsonl", "testdata/jaeger.json", "testdata/zipkin.json", "testdata/tempo.json"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		traces, err := NewReader("-", bytes.NewReader(text)).Search(context.Background(), Query{})
		if err != nil {
			return
		}
		for _, each := range traces {
			if each.ID == (trace.TraceID{}) && len(each.Observations) > 0 {
				t.Error("a trace without an ID")
			}
		}
	})
}
