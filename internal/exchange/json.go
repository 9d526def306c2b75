// SPDX-License-Identifier: Apache-2.0

package exchange

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

// MarshalJSON writes the exchange as one JSON object: IDs in lower-case hex,
// trace IDs padded to 32 digits, times in ns, sizes in bytes.
func (x Exchange) MarshalJSON() ([]byte, error) {
	w := wireExchange{
		TraceID:      x.Context.TraceID.String(),
		SpanID:       x.Context.SpanID.String(),
		Sampled:      x.Context.Sampling != tracecontext.Denied,
		Format:       x.Context.Format.String(),
		Client:       x.Client,
		Server:       x.Server,
		Request:      wireMessage{x.Request.First, x.Request.Last, x.Request.Bytes, nil},
		Response:     wireMessage{x.Response.First, x.Response.Last, x.Response.Bytes, &x.Status},
		ConnectionID: x.ConnectionIDHex(),
		HeaderOffset: x.HeaderOffset,
		Retransmits:  x.Retransmits,
		Flags:        x.Flags.Names(),
		Interface:    x.Interface,
	}
	if x.Direction != DirectionUnknown {
		w.Direction = x.Direction.String()
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON wrote. Packets and OptionTime are not
// part of the JSON form and stay 0.
func (x *Exchange) UnmarshalJSON(data []byte) error {
	var w wireExchange
	if err := json.Unmarshal(data, &w); err != nil {
		return fmt.Errorf("read exchange: %w", err)
	}
	*x = Exchange{
		Interface:    w.Interface,
		Client:       w.Client,
		Server:       w.Server,
		Request:      Message{First: w.Request.FirstNS, Last: w.Request.LastNS, Bytes: w.Request.Bytes},
		Response:     Message{First: w.Response.FirstNS, Last: w.Response.LastNS, Bytes: w.Response.Bytes},
		HeaderOffset: w.HeaderOffset,
		Retransmits:  w.Retransmits,
		Flags:        FlagsOf(w.Flags),
	}
	if w.Response.Status != nil {
		x.Status = *w.Response.Status
	}
	for _, d := range []Direction{DirectionIngress, DirectionEgress} {
		if w.Direction == d.String() {
			x.Direction = d
		}
	}
	return x.readIDs(&w)
}

func (x *Exchange) readIDs(w *wireExchange) error {
	format, err := tracecontext.ParseFormat(w.Format)
	if err != nil {
		return fmt.Errorf("read exchange: %w", err)
	}
	x.Context.Format = format
	x.Context.Sampling = tracecontext.Accepted
	if !w.Sampled {
		x.Context.Sampling = tracecontext.Denied
	}
	if err := readHex(x.Context.TraceID[:], w.TraceID); err != nil {
		return fmt.Errorf("read exchange: trace_id: %w", err)
	}
	if err := readHex(x.Context.SpanID[:], w.SpanID); err != nil {
		return fmt.Errorf("read exchange: span_id: %w", err)
	}
	if x.ConnectionID, err = hex.DecodeString(w.ConnectionID); err != nil {
		return fmt.Errorf("read exchange: connection_id: %w", err)
	}
	if len(x.ConnectionID) == 0 {
		x.ConnectionID = nil
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
