// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// Messages are encoded as gRPC does it, in memory that had others before: longer and shorter ones.
func TestCodec(t *testing.T) {
	c, other := newCodec(), encoding.GetCodecV2(grpcproto.Name)
	for _, size := range []int{0, 100, 5_000, 100_000, 70_000, 3, 2_000_000, 100_001} {
		message := &coltracepb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{SchemaUrl: string(bytes.Repeat([]byte{'a' + byte(size%26)}, size))}}}
		got, err := c.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		want, err := other.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Materialize(), want.Materialize()) {
			t.Errorf("a message of %d bytes differs", size)
		}
		got.Free()
		want.Free()
	}
	if _, err := c.Marshal(3); err == nil {
		t.Error("no error for what is no message")
	}
}

// A buffer that was given back is used again, as it is, if it is long enough.
func TestBuffers(t *testing.T) {
	var b buffers
	again := 0
	for range 1000 { // the race detector drops some by chance
		first := b.Get(1000)
		(*first)[999] = 7
		b.Put(first)
		second := b.Get(500)
		if len(*second) != 500 {
			t.Fatalf("%d bytes, want 500", len(*second))
		}
		if first == second && (*second)[:1000][999] == 7 {
			again++
		}
		if third := b.Get(2000); len(*third) != 2000 {
			t.Fatalf("%d bytes, want 2000", len(*third))
		}
	}
	if again == 0 {
		t.Error("no buffer was used again")
	}
}
