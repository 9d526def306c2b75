// SPDX-License-Identifier: Apache-2.0

package logcost

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/reorder"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

const (
	trace = "0af7651916cd43dd8448eb211c80319c"
	span  = "b7ad6b7169203331"
	w3c   = "traceparent: 00-" + trace + "-" + span + "-"
)

// Both installed forms have a record of a request if any of its formats has the sampled
// flag, and of no other request, and the EnvoyFilter keeps what came.
func TestSampledRequestsHaveRecords(t *testing.T) {
	tests := []struct {
		name, headers string
		sampled       bool
	}{
		{"none", "", false},
		{"w3c-00", w3c + "00\r\n", false},
		{"w3c-01", w3c + "01\r\n", true},
		{"w3c-02", w3c + "02\r\n", false},
		{"w3c-03", w3c + "03\r\n", true},
		{"w3c-0d", w3c + "0d\r\n", true},
		{"b3-0", "b3: 0\r\n", false},
		{"b3-unsampled", "b3: " + trace + "-" + span + "-0\r\n", false},
		{"b3-sampled", "b3: " + trace + "-" + span + "-1\r\n", true},
		{"b3-debug", "b3: " + trace + "-" + span + "-d\r\n", true},
		{"b3-parent", "b3: " + trace + "-" + span + "-1-" + span + "\r\n", true},
		{"x-b3-0", "x-b3-sampled: 0\r\n", false},
		{"x-b3-1", "x-b3-traceid: " + trace + "\r\nx-b3-spanid: " + span + "\r\nx-b3-sampled: 1\r\n", true},
		{"x-b3-true", "x-b3-sampled: true\r\n", true},
		{"w3c-00,x-b3-1", w3c + "00\r\nx-b3-sampled: 1\r\n", true},
		{"w3c-00,b3-1", w3c + "00\r\nb3: " + trace + "-" + span + "-1\r\n", true},
		{"w3c-01,x-b3-0", w3c + "01\r\nx-b3-sampled: 0\r\n", true},
		{"w3c-00,x-b3-0,b3-0", w3c + "00\r\nx-b3-sampled: 0\r\nb3: 0\r\n", false},
		// Records of one log keep their order: with these, all have arrived.
		{"last", w3c + "01\r\n", true},
	}
	envoy, err := provision.Envoy(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	all, err := variants()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Name != EnvoyFilter && v.Name != Telemetry {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			var mu sync.Mutex
			got, incoming := map[string]int{}, map[string]string{}
			b, err := startTestbed(t.Context(), testbedOptions{
				Envoy: envoy, Dir: t.TempDir(), Variants: []Variant{v}, InFlight: 1, Untraced: true,
				Record: func(r *logspb.LogRecord) {
					mu.Lock()
					defer mu.Unlock()
					labels := map[string]string{}
					for _, a := range r.GetAttributes() {
						labels[a.GetKey()] = a.GetValue().GetStringValue()
					}
					name := labels["path"][1:]
					got[name]++
					if r.GetBody().GetStringValue() == "layertrace-server" {
						incoming[name] = headersOf(labels, "incoming-")
					}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := b.stop(); err != nil {
					t.Error(err)
				}
			}()
			address, err := b.client.Address(v.Name)
			if err != nil {
				t.Fatal(err)
			}
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			want, wantIncoming := map[string]int{}, map[string]string{}
			for _, test := range tests {
				request := "GET /" + test.name + " HTTP/1.1\r\nhost: reviews\r\n" + test.headers + "\r\n"
				if err := reorder.Exchange(c, request, responseBody, make([]byte, 4096)); err != nil {
					t.Fatalf("%s: %v", test.name, err)
				}
				if test.sampled {
					want[test.name], wantIncoming[test.name] = 2, test.headers
				}
			}
			err = sandbox.Await(t.Context(), "the last records", 30*time.Second, 20*time.Millisecond, func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				if got["last"] < 2 {
					return fmt.Errorf("%d of 2", got["last"])
				}
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("records: %v; want - got +\n%s", err, diff)
			}
			if v.Name == Telemetry {
				return // it does not keep them
			}
			if diff := cmp.Diff(wantIncoming, incoming); diff != "" {
				t.Errorf("incoming context: want - got +\n%s", diff)
			}
		})
	}
}

// headersOf returns the trace headers in a record, as they stand in a request.
func headersOf(labels map[string]string, prefix string) (text string) {
	for _, name := range []string{"traceparent", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "b3"} {
		if value := labels[prefix+name]; value != "" && value != "-" {
			text += name + ": " + value + "\r\n"
		}
	}
	return text
}
