// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

func lineObservation() *observe.Observation {
	o := &observe.Observation{
		Key:       observe.Key{Client: netip.MustParseAddrPort("10.0.0.1:1"), Server: netip.MustParseAddrPort("10.0.0.2:2")},
		Point:     &observe.Point{ID: "node2/7", Node: "node2", Interface: `a"b`},
		Interface: 7,
		Request:   observe.Message{First: 1, Last: 2, Bytes: 3}, Status: 200,
	}
	o.Context.Context = tracecontext.Context{TraceID: [16]byte{1}, SpanID: [8]byte{2}, Format: tracecontext.FormatW3C, Sampling: tracecontext.Accepted}
	return o
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	x := lineObservation()
	l := NewLines(&out)
	for range 2 {
		if err := l.Write(x); err != nil {
			t.Fatal(err)
		}
	}
	lines := bytes.Split(bytes.TrimSuffix(out.Bytes(), []byte("\n")), []byte("\n"))
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	var where struct {
		Point, Node   string
		InterfaceName string `json:"interface_name"`
	}
	var back observe.Observation
	if err := errors.Join(json.Unmarshal(lines[1], &where), json.Unmarshal(lines[1], &back)); err != nil {
		t.Fatal(err)
	}
	if where.Point != "node2/7" || where.Node != "node2" || where.InterfaceName != `a"b` {
		t.Errorf("read back %+v", where)
	}
	if back.Context != x.Context || back.Client != x.Client || back.Request != x.Request || back.Status != 200 {
		t.Errorf("read back %+v", back)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestLostLinesAreCounted(t *testing.T) {
	x := lineObservation()
	l := NewLines(broken{})
	if err := l.Write(x); err == nil {
		t.Error("no error")
	}
	if written, failed := testutil.ToFloat64(l.written), testutil.ToFloat64(l.failed); written != 0 || failed != 1 {
		t.Errorf("%v written, %v failed", written, failed)
	}
}
