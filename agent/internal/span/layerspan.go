// SPDX-License-Identifier: Apache-2.0

package span

import (
	"crypto/sha256"
	"encoding/binary"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
)

// LayerSpan is a segment of a request's time on this node's clock.
type LayerSpan struct {
	TraceID trace.TraceID
	// SpanID is the parent, the span in the request's header.
	SpanID  trace.SpanID
	Segment breakdown.Segment
	// Node is this node. Workload spent the time; it is empty if the node did.
	Node     string
	Workload observe.Workload
}

// keyLayer marks spans that are derived from others.
const keyLayer = attribute.Key("layertrace.layer")

// layerField is one attribute of a layer's span.
type layerField struct {
	key          attribute.Key
	typ, meaning string
	get          func(*breakdown.Segment) (attribute.Value, bool)
}

var layerFields = []layerField{
	{keyLayer, "string", "`application`, `protocol-stack`, `virtual-network`, `node-driver`, `relay-network`",
		func(s *breakdown.Segment) (attribute.Value, bool) {
			return attribute.StringValue(string(s.Layer)), true
		}},
	{"layertrace.location", "string", "the service (application, protocol stack), the node, or two nodes; `?` where nothing is captured",
		func(s *breakdown.Segment) (attribute.Value, bool) { return attribute.StringValue(s.Location), true }},
	{"layertrace.phase", "string", "`request`, `response`, or `both`: the time between them",
		func(s *breakdown.Segment) (attribute.Value, bool) {
			return attribute.StringValue(string(s.Phase)), true
		}},
	{"layertrace.between", "string", "the two waypoints around it",
		func(s *breakdown.Segment) (attribute.Value, bool) { return attribute.StringValue(s.Between), true }},
	{"layertrace.merged_layers", "string[]", "the layers, when a missing capture point leaves several together; absent: one",
		func(s *breakdown.Segment) (attribute.Value, bool) {
			if len(s.MergedLayers) == 0 {
				return attribute.Value{}, false
			}
			names := make([]string, len(s.MergedLayers))
			for i, l := range s.MergedLayers {
				names[i] = string(l)
			}
			return attribute.StringSliceValue(names), true
		}},
}

// EmitLayer makes the span of a segment and passes it to the processor. For a segment
// that this node's clock did not measure it makes no span and returns false.
func (e *Emitter) EmitLayer(s *LayerSpan) bool {
	ctx, ok := withParent(s.TraceID, s.SpanID)
	if !ok || s.Segment.At == 0 || s.Segment.Node != s.Node {
		return false
	}
	offset := e.opts.Offset()
	p := observe.Point{
		ID:   "layers/" + s.Workload.Namespace + "/" + s.Workload.Pod + "/" + s.Workload.Service,
		Node: s.Node, Workload: s.Workload,
	}
	_, span := e.tracer(&p, layerResource).tracer.Start(withID(ctx, layerID(s)), s.Segment.Layer.Title(),
		trace.WithSpanKind(trace.SpanKindInternal), trace.WithTimestamp(offset.Wall(s.Segment.At)))
	e.attach.attributes = encodeLayer(s)
	span.End(trace.WithTimestamp(offset.Wall(s.Segment.At + uint64(s.Segment.Time))))
	return true
}

func encodeLayer(s *LayerSpan) []attribute.KeyValue {
	kv := make([]attribute.KeyValue, 0, len(layerFields))
	for i := range layerFields {
		if v, ok := layerFields[i].get(&s.Segment); ok {
			kv = append(kv, attribute.KeyValue{Key: layerFields[i].key, Value: v})
		}
	}
	return kv
}

// layerID returns the same ID for a segment that is reported again.
func layerID(s *LayerSpan) trace.SpanID {
	b := append(s.TraceID[:], s.SpanID[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Segment.At)
	for _, text := range []string{s.Node, string(s.Segment.Layer), string(s.Segment.Phase), s.Segment.Between} {
		b = append(append(b, 0), text...)
	}
	return spanIDOf(sha256.Sum256(b))
}

// layerResource describes the owner of the time, without a capture point.
func layerResource(p *observe.Point) *resource.Resource {
	return resourceWith(p, func(f *resourceField) bool { return !f.ofPoint })
}
