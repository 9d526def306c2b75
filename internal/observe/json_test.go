// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

func sample() Observation {
	return Observation{
		Interface: 7,
		Direction: DirectionEgress,
		Context: Context{
			Context: tracecontext.Context{
				TraceID:  tracecontext.TraceID{8: 0x84, 9: 0x48, 15: 0x9c}, // 64 bits
				SpanID:   tracecontext.SpanID{0: 0xb7, 7: 0x31},
				Sampling: tracecontext.Accepted,
				Format:   tracecontext.FormatB3Multi,
			},
			HeaderOffset: 50,
		},
		Key: Key{
			Client: netip.MustParseAddrPort("10.0.0.1:40000"),
			Server: netip.MustParseAddrPort("[fd00::2]:9080"),
		},
		Request:      Message{First: 1000, Last: 2000, Bytes: 300},
		Response:     Message{First: 5000, Last: 6000, Bytes: 4000},
		Method:       "GET",
		Path:         "/a",
		Wall:         1700000000_000000007,
		Status:       200,
		ConnectionID: []byte{0xde, 0xad, 0xbe, 0xef},
		Retransmits:  1,
		Flags:        FlagPipelined | FlagUpgraded,
	}
}

// The JSON form is stable: other programs read it.
func TestJSONForm(t *testing.T) {
	const want = `{"time":"2023-11-14T22:13:20.000000007Z","method":"GET","path":"/a","trace_id":"0000000000000000844800000000009c","span_id":"b700000000000031","sampled":true,` +
		`"format":"b3multi","client":"10.0.0.1:40000","server":"[fd00::2]:9080",` +
		`"request":{"first":"2023-11-14T22:13:20.000000007Z","last":"2023-11-14T22:13:20.000001007Z","duration_ns":1000,` +
		`"first_ns":1000,"last_ns":2000,"bytes":300},` +
		`"response":{"first":"2023-11-14T22:13:20.000004007Z","last":"2023-11-14T22:13:20.000005007Z","duration_ns":1000,` +
		`"first_ns":5000,"last_ns":6000,"bytes":4000,"status":200},` +
		`"to_first_byte_ns":4000,"duration_ns":5000,` +
		`"connection_id":"deadbeef","header_offset":50,"retransmits":1,"flags":["pipelined","upgraded"],` +
		`"direction":"egress","interface":7}`
	got, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	bare := Observation{Context: Context{Context: tracecontext.Context{Format: tracecontext.FormatW3C, Sampling: tracecontext.Denied}}}
	none := Observation{Method: "PURGE", Path: "/", Status: 204, Request: Message{First: 5}} // no context, no wall clock
	for _, want := range []Observation{sample(), bare, none} {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Observation
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

func TestJSONRefuses(t *testing.T) {
	good, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	for old, bad := range map[string]string{
		"0000000000000000844800000000009c": "844800000000009c",
		"b700000000000031":                 "b70000000000003g",
		`"b3multi"`:                        `"b4"`,
		"deadbeef":                         "deadbee",
	} {
		var x Observation
		if err := json.Unmarshal([]byte(strings.Replace(string(good), old, bad, 1)), &x); err == nil {
			t.Errorf("%s instead of %s was accepted", bad, old)
		}
	}
}
