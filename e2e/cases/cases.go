// SPDX-License-Identifier: Apache-2.0

// Package cases runs packet captures whose truth is known through both readers of the
// project: `layertrace decode`, and the BPF programs of a real agent, to which the
// packets are sent at the pace of their timestamps. It compares what both report with
// what was written into the packets.
package cases

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Reader names one of the two readers.
type Reader string

// The readers.
const (
	Decode Reader = "decode"
	BPF    Reader = "bpf"
)

// Tolerances of a time after the first byte of the first request. The agent's packets
// are sent by a process that sleeps between them.
const (
	decodeTolerance = 100 * time.Microsecond
	bpfTolerance    = 3 * time.Millisecond
)

// Expected is one exchange with a sampled trace context, as it was written.
type Expected struct {
	// Trace is the number in the last digits of the trace ID.
	Trace  int `json:"trace"`
	Status int `json:"status"`
	// FirstMS and LastMS are the times of the response's first and last byte, in ms
	// after the first byte of the capture's first request; nil: not compared.
	FirstMS *float64 `json:"first_ms"`
	LastMS  *float64 `json:"last_ms"`
	// ResponseBytes is the length of the response; nil: not compared.
	ResponseBytes *uint64 `json:"response_bytes"`
	// Flags must be set; others may be.
	Flags []string `json:"flags"`
}

// Truth is what is in a capture.
type Truth struct {
	Expected []Expected `json:"expected"`
	// Encapsulated is the kind of encapsulation that the agent has to count instead of
	// reading the packets, "" if there is none.
	Encapsulated string `json:"encapsulated"`
}

// Case is a capture with its truth.
type Case struct {
	Name, Path string
	Truth
}

// Result is whether a reader was right about a case, and if not, why.
type Result struct {
	File   string `json:"file"`
	Reader Reader `json:"reader"`
	Pass   bool   `json:"pass"`
	Why    string `json:"why"`
}

// Load reads truth.json of a directory and returns its cases by name.
func Load(dir string) ([]Case, error) {
	content, err := os.ReadFile(filepath.Join(dir, "truth.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the truth of the cases: %w", err)
	}
	var file struct {
		Files map[string]Truth `json:"files"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("read the truth of the cases in %s: %w", dir, err)
	}
	var cases []Case
	for name, truth := range file.Files {
		if truth.Encapsulated == "" {
			truth.Encapsulated = encapsulationOf(name)
		}
		cases = append(cases, Case{Name: name, Path: filepath.Join(dir, name), Truth: truth})
	}
	slices.SortFunc(cases, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return cases, nil
}

// encapsulationOf returns the kind of encapsulation that a file is named after.
func encapsulationOf(name string) string {
	for _, kind := range []string{"vxlan", "geneve", "ipip", "gre"} {
		if strings.HasPrefix(name, kind) {
			return kind
		}
	}
	return ""
}

// asPlanned is the schedule of packets that were not sent.
func asPlanned(ms float64) float64 { return ms }

// compare returns what is wrong about a reader's exchanges, "" if nothing is. played
// returns when, in ms after the first request, the bytes of a planned time passed.
func compare(expected []Expected, got []observe.Observation, tolerance time.Duration, played func(float64) float64) string {
	var wrong []string
	if len(got) != len(expected) {
		wrong = append(wrong, fmt.Sprintf("%d exchanges, want %d", len(got), len(expected)))
	}
	var start uint64
	for i := range got {
		if first := got[i].Request.First; start == 0 || first < start {
			start = first
		}
	}
	for _, want := range expected {
		at := slices.IndexFunc(got, func(o observe.Observation) bool {
			return o.Context.TraceID.String() == fmt.Sprintf("%032x", want.Trace)
		})
		if at < 0 {
			wrong = append(wrong, fmt.Sprintf("no exchange of trace %d", want.Trace))
			continue
		}
		for _, problem := range want.check(&got[at], start, tolerance, played) {
			wrong = append(wrong, fmt.Sprintf("trace %d: %s", want.Trace, problem))
		}
	}
	return strings.Join(wrong, "; ")
}

// check compares one exchange; start is the time of the first request.
func (e *Expected) check(o *observe.Observation, start uint64, tolerance time.Duration, played func(float64) float64) (wrong []string) {
	if o.Status != e.Status {
		wrong = append(wrong, fmt.Sprintf("status %d, want %d", o.Status, e.Status))
	}
	for _, t := range []struct {
		name string
		got  uint64
		want *float64
	}{{"first", o.Response.First, e.FirstMS}, {"last", o.Response.Last, e.LastMS}} {
		if t.want == nil {
			continue
		}
		if t.got == 0 {
			wrong = append(wrong, "no "+t.name+" byte")
			continue
		}
		ms := float64(int64(t.got-start)) / 1e6
		if want := played(*t.want); math.Abs(ms-want) > float64(tolerance)/1e6 {
			wrong = append(wrong, fmt.Sprintf("%s byte after %.1f ms, want %.1f", t.name, ms, want))
		}
	}
	if e.ResponseBytes != nil && o.Response.Bytes != *e.ResponseBytes {
		wrong = append(wrong, fmt.Sprintf("%d bytes, want %d", o.Response.Bytes, *e.ResponseBytes))
	}
	for _, flag := range e.Flags {
		if !slices.Contains(o.Flags.Names(), flag) {
			wrong = append(wrong, fmt.Sprintf("flag %s missing in %v", flag, o.Flags.Names()))
		}
	}
	return wrong
}

// readLines reads JSON lines of exchanges. A preliminary report (still_open) is left
// out; so is the rest of a line that is still being written.
func readLines(text string) (all []Line, err error) {
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var l Line
		if err := errors.Join(json.Unmarshal([]byte(line), &l.Observation), json.Unmarshal([]byte(line), &l.place)); err != nil {
			return nil, fmt.Errorf("read the line %q: %w", line, err)
		}
		if l.Flags&observe.FlagStillOpen == 0 {
			all = append(all, l)
		}
	}
	return all, nil
}

// Line is one line of a reader's output.
type Line struct {
	observe.Observation
	place
}

// place is what an agent adds to an exchange.
type place struct {
	InterfaceName string `json:"interface_name"`
}

func (l *Line) ids() string {
	return l.Context.TraceID.String() + " " + l.Context.SpanID.String()
}

func (l *Line) sampled() bool {
	return l.Context.Sampling != tracecontext.Denied && !l.Context.TraceID.IsZero()
}
