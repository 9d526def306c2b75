// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

type wireMessage struct {
	FirstNS uint64 `json:"first_ns"`
	LastNS  uint64 `json:"last_ns"`
	Bytes   uint64 `json:"bytes"`
	Status  *int   `json:"status,omitempty"`
}

type wireExchange struct {
	TraceID      string         `json:"trace_id"`
	SpanID       string         `json:"span_id"`
	Sampled      bool           `json:"sampled"`
	Format       string         `json:"format"`
	Client       netip.AddrPort `json:"client"`
	Server       netip.AddrPort `json:"server"`
	Request      wireMessage    `json:"request"`
	Response     wireMessage    `json:"response"`
	ConnectionID string         `json:"connection_id"`
	HeaderOffset uint32         `json:"header_offset"`
	Retransmits  uint32         `json:"retransmits"`
	Flags        []string       `json:"flags"`
	Direction    string         `json:"direction,omitempty"`
	Interface    int            `json:"interface,omitempty"`
}

// MarshalJSON encodes the exchange as one JSON object, with IDs in lower-case hex, trace
// IDs padded to 32 digits, times in ns, and sizes in bytes.
func (o Observation) MarshalJSON() ([]byte, error) {
	w := wireExchange{
		TraceID:      o.Context.TraceID.String(),
		SpanID:       o.Context.SpanID.String(),
		Sampled:      o.Context.Sampling != tracecontext.Denied,
		Format:       o.Context.Format.String(),
		Client:       o.Client,
		Server:       o.Server,
		Request:      wireMessage{o.Request.First, o.Request.Last, o.Request.Bytes, nil},
		Response:     wireMessage{o.Response.First, o.Response.Last, o.Response.Bytes, &o.Status},
		ConnectionID: o.ConnectionIDHex(),
		HeaderOffset: o.Context.HeaderOffset,
		Retransmits:  o.Retransmits,
		Flags:        o.Flags.Names(),
		Interface:    o.Interface,
	}
	if o.Direction != DirectionUnknown {
		w.Direction = o.Direction.String()
	}
	return json.Marshal(w)
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
		Retransmits: w.Retransmits,
		Flags:       FlagsOf(w.Flags),
	}
	if w.Response.Status != nil {
		o.Status = *w.Response.Status
	}
	for _, d := range []Direction{DirectionIngress, DirectionEgress} {
		if w.Direction == d.String() {
			o.Direction = d
		}
	}
	return o.readIDs(&w)
}

func (o *Observation) readIDs(w *wireExchange) error {
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
	if o.ConnectionID, err = hex.DecodeString(w.ConnectionID); err != nil {
		return fmt.Errorf("read exchange: connection_id: %w", err)
	}
	if len(o.ConnectionID) == 0 {
		o.ConnectionID = nil
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
