// SPDX-License-Identifier: Apache-2.0

package span

import (
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// attacher is the span processor of an emitter's providers: it gives a span
// its attributes when it ends, and passes it on. Attributes that are set on a
// span the SDK copies and searches for duplicates, which takes half of the
// time that making a span does; ours have none (TestKeysAreComplete).
type attacher struct {
	sdktrace.SpanProcessor // takes the spans
	// attributes of the span that ends next.
	attributes []attribute.KeyValue
}

// OnEnd passes a span on.
func (a *attacher) OnEnd(s sdktrace.ReadOnlySpan) {
	a.SpanProcessor.OnEnd(finished{s, a.attributes})
}

// finished is a span with its attributes.
type finished struct {
	sdktrace.ReadOnlySpan
	attributes []attribute.KeyValue
}

// Attributes returns what every other method leaves to the SDK.
func (f finished) Attributes() []attribute.KeyValue { return f.attributes }
