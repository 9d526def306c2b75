// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

type wireMessage struct {
	First      string `json:"first,omitempty"`
	Last       string `json:"last,omitempty"`
	DurationNS uint64 `json:"duration_ns"`
	FirstNS    uint64 `json:"first_ns"`
	LastNS     uint64 `json:"last_ns"`
	Bytes      uint64 `json:"bytes"`
	Status     *int   `json:"status,omitempty"`
}

type wireExchange struct {
	Time          string         `json:"time,omitempty"`
	Method        string         `json:"method"`
	Path          string         `json:"path"`
	TraceID       string         `json:"trace_id"`
	SpanID        string         `json:"span_id"`
	Sampled       bool           `json:"sampled"`
	Format        string         `json:"format"`
	Client        netip.AddrPort `json:"client"`
	Server        netip.AddrPort `json:"server"`
	Request       wireMessage    `json:"request"`
	Response      wireMessage    `json:"response"`
	ToFirstByteNS *uint64        `json:"to_first_byte_ns,omitempty"`
	DurationNS    uint64         `json:"duration_ns"`
	ConnectionID  string         `json:"connection_id"`
	HeaderOffset  uint32         `json:"header_offset"`
	Retransmits   uint32         `json:"retransmits"`
	Flags         []string       `json:"flags"`
	Join          Join           `json:"join,omitempty"`
	Direction     string         `json:"direction,omitempty"`
	Interface     int            `json:"interface,omitempty"`
}

// wallFormat is RFC 3339 with all nanoseconds, so that times sort as text.
const wallFormat = "2006-01-02T15:04:05.000000000Z07:00"

// MarshalJSON encodes the exchange as one JSON object. docs/decode.md describes the
// fields. The wall-clock times are there only if Wall is set.
func (o Observation) MarshalJSON() ([]byte, error) {
	wall := func(uint64) string { return "" }
	if start, _ := o.Extent(); o.Wall != 0 && start != 0 {
		wall = func(at uint64) string {
			if at == 0 {
				return ""
			}
			return time.Unix(0, o.Wall+int64(at-start)).UTC().Format(wallFormat)
		}
	}
	message := func(m *Message) wireMessage {
		return wireMessage{
			First: wall(m.First), Last: wall(m.Last), DurationNS: since(m.First, m.Last),
			FirstNS: m.First, LastNS: m.Last, Bytes: m.Bytes,
		}
	}
	start, end := o.Extent()
	w := wireExchange{
		Time:         wall(start),
		Method:       o.Method,
		Path:         o.Path,
		Client:       o.Client,
		Server:       o.Server,
		Request:      message(&o.Request),
		Response:     message(&o.Response),
		DurationNS:   since(start, end),
		ConnectionID: o.ConnectionIDHex(),
		HeaderOffset: o.Context.HeaderOffset,
		Retransmits:  o.Retransmits,
		Flags:        o.Flags.Names(),
		Join:         o.Join,
		Interface:    o.Interface,
	}
	if o.HasContext() {
		w.TraceID, w.SpanID = o.Context.TraceID.String(), o.Context.SpanID.String()
		w.Sampled, w.Format = o.Context.Sampling != tracecontext.Denied, o.Context.Format.String()
	}
	if o.Request.First != 0 && o.Response.First != 0 {
		first := since(o.Request.First, o.Response.First)
		w.ToFirstByteNS = &first
	}
	w.Response.Status = &o.Status
	if o.Direction != DirectionUnknown {
		w.Direction = o.Direction.String()
	}
	return json.Marshal(w)
}

// HasContext reports whether the request has a trace context, sampled or not.
func (o *Observation) HasContext() bool { return o.Context.Format != tracecontext.FormatNone }

// since returns the time between two times, 0 if one is unknown or they are not in order.
func since(from, to uint64) uint64 {
	if from == 0 || to < from {
		return 0
	}
	return to - from
}

// UnmarshalJSON is the inverse of MarshalJSON. The JSON form has no Packets and no
// OptionTime.
func (o *Observation) UnmarshalJSON(data []byte) error {
	var w wireExchange
	if err := json.Unmarshal(data, &w); err != nil {
		return fmt.Errorf("read exchange: %w", err)
	}
	*o = Observation{
		Interface:   w.Interface,
		Key:         Key{Client: w.Client, Server: w.Server},
		Context:     Context{HeaderOffset: w.HeaderOffset},
		Request:     Message{First: w.Request.FirstNS, Last: w.Request.LastNS, Bytes: w.Request.Bytes},
		Response:    Message{First: w.Response.FirstNS, Last: w.Response.LastNS, Bytes: w.Response.Bytes},
		Method:      w.Method,
		Path:        w.Path,
		Join:        w.Join,
		Retransmits: w.Retransmits,
		Flags:       FlagsOf(w.Flags),
	}
	if w.Response.Status != nil {
		o.Status = *w.Response.Status
	}
	if w.Time != "" {
		at, err := time.Parse(time.RFC3339Nano, w.Time)
		if err != nil {
			return fmt.Errorf("read exchange: time: %w", err)
		}
		o.Wall = at.UnixNano()
	}
	for _, d := range []Direction{DirectionIngress, DirectionEgress} {
		if w.Direction == d.String() {
			o.Direction = d
		}
	}
	return o.readIDs(&w)
}

func (o *Observation) readIDs(w *wireExchange) error {
	if w.Format != "" {
		if err := o.readContext(w); err != nil {
			return err
		}
	}
	var err error
	if o.ConnectionID, err = hex.DecodeString(w.ConnectionID); err != nil {
		return fmt.Errorf("read exchange: connection_id: %w", err)
	}
	if len(o.ConnectionID) == 0 {
		o.ConnectionID = nil
	}
	return nil
}

func (o *Observation) readContext(w *wireExchange) error {
	format, err := tracecontext.ParseFormat(w.Format)
	if err != nil {
		return fmt.Errorf("read exchange: %w", err)
	}
	o.Context.Format = format
	o.Context.Sampling = tracecontext.Accepted
	if !w.Sampled {
		o.Context.Sampling = tracecontext.Denied
	}
	if err := readHex(o.Context.TraceID[:], w.TraceID); err != nil {
		return fmt.Errorf("read exchange: trace_id: %w", err)
	}
	if err := readHex(o.Context.SpanID[:], w.SpanID); err != nil {
		return fmt.Errorf("read exchange: span_id: %w", err)
	}
	return nil
}

func readHex(dst []byte, s string) error {
	if len(s) != 2*len(dst) {
		return fmt.Errorf("%d hex digits, want %d", len(s), 2*len(dst))
	}
	_, err := hex.Decode(dst, []byte(s))
	return err
}
