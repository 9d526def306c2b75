// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

type discard struct{}

func (discard) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (discard) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error                  { return nil }
func (discard) ForceFlush(context.Context) error                { return nil }

// BenchmarkEmit is the agent's work for one exchange, without the delivery.
func BenchmarkEmit(b *testing.B) {
	e := NewEmitter(Options{Processor: discard{}, Offset: fixedOffset})
	x := sample()
	b.ReportAllocs()
	for b.Loop() {
		e.Emit(&x)
	}
}
