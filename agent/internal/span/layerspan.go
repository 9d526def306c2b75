// SPDX-License-Identifier: Apache-2.0

package span

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/layer"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"
)

// LayerSpan is a part of a request's time, on this node's clock.
type LayerSpan struct {
	TraceID trace.TraceID
	// SpanID is the one in the request's header, the parent.
	SpanID trace.SpanID
	Part   layer.Part
	// Node is this one; Workload has the time, empty where the node has.
	Node     string
	Workload identity.Workload
}

// layerNames are the names of the spans: the paper's words.
var layerNames = map[layer.Layer]string{
	layer.Application: "application", layer.ProtocolStack: "protocol stack queue", layer.NodeDriver: "node driver",
	layer.VirtualNetwork: "virtual network", layer.RelayNetwork: "relay network",
}

// EmitLayer makes the span of a part and hands it to the processor. It reports
// false, and makes none, for one that no clock of this node has seen.
func (e *Emitter) EmitLayer(s *LayerSpan) bool {
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: s.TraceID, SpanID: s.SpanID, TraceFlags: trace.FlagsSampled, Remote: true,
	})
	if !parent.IsValid() || s.Part.At == 0 || s.Part.Node != s.Node {
		return false
	}
	offset := e.opts.Clock.Offset()
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), parent)
	_, span := e.layerTracer(s).Start(withID(ctx, layerID(s)), layerNames[s.Part.Layer],
		trace.WithSpanKind(trace.SpanKindInternal), trace.WithTimestamp(offset.Wall(s.Part.At)))
	e.attach.attributes = layerAttributes(s)
	span.End(trace.WithTimestamp(offset.Wall(s.Part.At + uint64(s.Part.Time))))
	return true
}

func layerAttributes(s *LayerSpan) []attribute.KeyValue {
	kv := []attribute.KeyValue{
		keyLayer.String(string(s.Part.Layer)), keyPlace.String(s.Part.Place), keyWay.String(string(s.Part.Way)),
		keyWhere.String(s.Part.Where),
	}
	if len(s.Part.Covers) > 0 {
		names := make([]string, len(s.Part.Covers))
		for i, l := range s.Part.Covers {
			names[i] = string(l)
		}
		kv = append(kv, keyCovers.StringSlice(names))
	}
	return kv
}

// layerID is the same for a part that is reported again.
func layerID(s *LayerSpan) trace.SpanID {
	b := append(s.TraceID[:], s.SpanID[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Part.At)
	for _, text := range []string{s.Node, string(s.Part.Layer), string(s.Part.Way), s.Part.Where} {
		b = append(append(b, 0), text...)
	}
	sum := sha256.Sum256(b)
	var id trace.SpanID
	copy(id[:], sum[:])
	if !id.IsValid() {
		id[len(id)-1] = 1
	}
	return id
}

// layerTracer is the tracer of a workload, or of the node.
func (e *Emitter) layerTracer(s *LayerSpan) trace.Tracer {
	p := Point{ID: "layers/" + s.Workload.Namespace + "/" + s.Workload.Pod + "/" + s.Workload.Service, Node: s.Node, Workload: s.Workload}
	return e.tracer(&p, layerResource).tracer
}

// layerResource says who spent the time; the point is none.
func layerResource(p *Point) *resource.Resource { return resourceWith(p, nil) }
