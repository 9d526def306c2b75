// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// observed is what a reader should report of exchange(1, 200, 5, 7, 40).
func observed() observe.Observation {
	o := observe.Observation{
		Key:      observe.Key{Client: netip.MustParseAddrPort("10.0.0.1:40000"), Server: netip.MustParseAddrPort("10.0.0.2:80")},
		Request:  observe.Message{First: 1_000_000_000, Last: 1_000_000_000},
		Response: observe.Message{First: 1_005_000_000, Last: 1_007_000_000, Bytes: 40},
		Status:   200,
	}
	o.Context.Context = tracecontext.Context{TraceID: tracecontext.TraceID{15: 1}, SpanID: tracecontext.SpanID{7: 1}, Format: tracecontext.FormatW3C, Sampling: tracecontext.Accepted}
	return o
}

// TestCompare: each kind of error is found, and nothing else is one.
func TestCompare(t *testing.T) {
	expected := []Expected{exchange(1, 200, 5, 7, 40, "reset")}
	for name, c := range map[string]struct {
		change func(*observe.Observation)
		why    string
	}{
		"right":        {func(*observe.Observation) {}, ""},
		"within":       {func(o *observe.Observation) { o.Response.Last += 90_000 }, ""},
		"another flag": {func(o *observe.Observation) { o.Flags |= observe.FlagIncomplete }, ""},
		"last byte":    {func(o *observe.Observation) { o.Response.Last += 110_000 }, "trace 1: last byte after 7.1 ms, want 7.0"},
		"first byte":   {func(o *observe.Observation) { o.Response.First = 999_000_000 }, "trace 1: first byte after -1.0 ms, want 5.0"},
		"no response":  {func(o *observe.Observation) { o.Response.First, o.Response.Last = 0, 0 }, "trace 1: no first byte; trace 1: no last byte"},
		"status":       {func(o *observe.Observation) { o.Status = 0 }, "trace 1: status 0, want 200"},
		"bytes":        {func(o *observe.Observation) { o.Response.Bytes++ }, "trace 1: 41 bytes, want 40"},
		"flag":         {func(o *observe.Observation) { o.Flags = 0 }, "trace 1: flag reset missing in []"},
		"trace":        {func(o *observe.Observation) { o.Context.TraceID[15] = 2 }, "no exchange of trace 1"},
	} {
		o := observed()
		o.Flags = observe.FlagReset
		c.change(&o)
		if why := compare(expected, []observe.Observation{o}, decodeTolerance, asPlanned); why != c.why {
			t.Errorf("%s: %q, want %q", name, why, c.why)
		}
	}
	if why := compare(nil, []observe.Observation{observed()}, decodeTolerance, asPlanned); why != "1 exchanges, want 0" {
		t.Errorf("one too many: %q", why)
	}
}

// TestSchedule: a sender that was late moves the times that are expected.
func TestSchedule(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	packets := []packet{{at: 0}, {at: ms(1), toServer: true, data: []byte("GET / HTTP/1.1")}, {at: ms(6)}, {at: ms(106)}}
	played := schedule(packets, []time.Duration{0, ms(3), ms(8), ms(128)})
	for planned, want := range map[float64]float64{0: 0, 5: 5, 105: 125} {
		if got := played(planned); got != want {
			t.Errorf("%v ms became %v ms, want %v", planned, got, want)
		}
	}
}

// TestRenumber: all but the numbers stays, and they stay consistent.
func TestRenumber(t *testing.T) {
	c := newConversation(40000)
	c.handshake()
	c.client("question")
	c.server("answer")
	before := make([]packet, len(c.packets))
	for i, p := range c.packets {
		before[i] = packet{data: bytes.Clone(p.data)}
	}
	renumber(c.packets, 2)
	const client, server = 3 * 0x01234567, uint32(3 * 0x0765432b & 0xffffffff)
	for i, p := range c.packets {
		seq, ack := uint32(client), server
		if !p.toServer {
			seq, ack = ack, seq
		}
		if i == 0 { // the SYN acknowledges nothing
			ack = 0
		}
		for at, moved := range map[int]uint32{38: seq, 42: ack} {
			was, is := binary.BigEndian.Uint32(before[i].data[at:]), binary.BigEndian.Uint32(p.data[at:])
			if is-was != moved {
				t.Errorf("packet %d: the number at %d moved by %#x, want %#x", i, at, is-was, moved)
			}
		}
		if !bytes.Equal(p.data[:38], before[i].data[:38]) || !bytes.Equal(p.data[46:], before[i].data[46:]) {
			t.Errorf("packet %d: other bytes changed", i)
		}
	}
}

func TestVectors(t *testing.T) {
	dir := t.TempDir()
	text := "# a comment\n\none|accept 0123 45 1|a: b\\r\\n\\tc\nnone|restart|x\n"
	if err := os.WriteFile(filepath.Join(dir, vectorsFile), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	vectors, err := loadVectors(dir)
	if err != nil || len(vectors) != 2 || vectors[0].headers != "a: b\r\n\tc" {
		t.Fatalf("%+v, %v", vectors, err)
	}
	line := &Line{Observation: observed()}
	sampled, unsampled, nothing := found{sampled: line}, found{unsampled: line}, found{}
	const trace, span = "00000000000000000000000000000001", "0000000000000001"
	for _, c := range []struct {
		expected string
		got      found
		all      bool
		right    bool
	}{
		{"accept", sampled, true, true}, {"accept", unsampled, true, true}, {"accept", nothing, true, false}, {"accept", nothing, false, true},
		{"accept " + trace, sampled, true, true}, {"accept " + span, sampled, true, false},
		{"accept " + trace + " " + span + " 1", sampled, false, true}, {"accept " + trace + " " + span + " 1", unsampled, true, false},
		{"accept " + trace + " " + span + " 1", nothing, false, false},
		{"accept " + trace + " " + span + " 0", unsampled, true, true}, {"accept " + trace + " " + span + " 0", sampled, true, false},
		{"accept " + trace + " " + span + " 0", nothing, false, true}, {"accept " + trace + " " + span + " 0", nothing, true, false},
		{"restart", nothing, true, true}, {"restart", sampled, true, false}, {"restart", unsampled, true, true},
		{"denied (a note)", nothing, true, true}, {"denied", sampled, false, false}, {"note", sampled, true, true}, {"note", nothing, true, true},
	} {
		v := vector{expected: c.expected}
		if why := v.check(c.got, c.all); (why == "") != c.right {
			t.Errorf("%s, all %v, found %+v: %q", c.expected, c.all, c.got, why)
		}
	}
	if agree(sampled, sampled) != "" || agree(nothing, unsampled) != "" || agree(sampled, nothing) == "" {
		t.Error("agreement")
	}
}

// TestOwnCases: the truth of our own captures is that of the packets: the times and sizes
// of the responses are those of the bytes that the server sends.
func TestOwnCases(t *testing.T) {
	cases, err := ownCases(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range cases {
		packets, err := readPackets(c.Path)
		if err != nil {
			t.Fatal(err)
		}
		if names[c.Name] || len(packets) == 0 || len(c.Expected) == 0 {
			t.Errorf("%s: %d packets, %d exchanges expected", c.Name, len(packets), len(c.Expected))
		}
		names[c.Name] = true
		for _, e := range c.Expected {
			if e.FirstMS == nil {
				continue
			}
			for _, ms := range []float64{*e.FirstMS, *e.LastMS} {
				passes := false
				for _, p := range packets {
					at := float64(p.at-requestAt) / 1e6
					passes = passes || !p.toServer && at > ms-0.06 && at < ms+0.06 || strings.Contains(c.Name, "middle")
				}
				if !passes {
					t.Errorf("%s: no packet of the server %v ms after the request", c.Name, ms)
				}
			}
		}
	}
}

func TestReadLines(t *testing.T) {
	const line = `{"trace_id":"","client":"10.0.0.1:1","server":"10.0.0.2:80","flags":[],"interface_name":"case3"}` + "\n"
	lines, err := readLines(line + strings.Replace(line, `[]`, `["still_open"]`, 1) + line[:30])
	if err != nil || len(lines) != 1 || lines[0].InterfaceName != "case3" || lines[0].Client.Port() != 1 {
		t.Errorf("%+v, %v", lines, err)
	}
}
