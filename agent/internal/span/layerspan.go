// SPDX-License-Identifier: Apache-2.0

package span

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/recent"
)

// LayerSpan is a segment of a request's time on this node's clock.
type LayerSpan struct {
	TraceID trace.TraceID
	// SpanID is the parent, the span in the request's header.
	SpanID  trace.SpanID
	Segment *breakdown.Segment
	// Node is this node. Workload spent the time; it is empty if the node did.
	Node     string
	Workload observe.Workload
	// Flags are those of observe.Cut that the hop has, and observe.FlagTraceLimited if
	// observations of the trace were left out.
	Flags observe.Flags
}

// keyLayer marks spans that are derived from others.
const keyLayer = attribute.Key("layertrace.layer")

// layerField is one attribute of a layer's span.
type layerField struct {
	key          attribute.Key
	typ, meaning string
	get          func(*LayerSpan) (attribute.Value, bool)
}

var layerFields = []layerField{
	{keyLayer, "string", "`application`, `protocol-stack`, `virtual-network`, `node-driver`, `relay-network`",
		func(s *LayerSpan) (attribute.Value, bool) {
			return attribute.StringValue(string(s.Segment.Layer)), true
		}},
	{"layertrace.location", "string", "the service (application, protocol stack), the node, or two nodes; `?` where nothing is captured",
		func(s *LayerSpan) (attribute.Value, bool) { return attribute.StringValue(s.Segment.Location), true }},
	{"layertrace.phase", "string", "`request`, `response`, or `both`: the time between them",
		func(s *LayerSpan) (attribute.Value, bool) {
			return attribute.StringValue(string(s.Segment.Phase)), true
		}},
	{"layertrace.between", "string", "the two waypoints around it",
		func(s *LayerSpan) (attribute.Value, bool) { return attribute.StringValue(s.Segment.Between), true }},
	{"layertrace.merged_layers", "string[]", "the layers, when a missing capture point leaves several together; absent: one",
		func(s *LayerSpan) (attribute.Value, bool) {
			if len(s.Segment.MergedLayers) == 0 {
				return attribute.Value{}, false
			}
			names := make([]string, len(s.Segment.MergedLayers))
			for i, l := range s.Segment.MergedLayers {
				names[i] = string(l)
			}
			return attribute.StringSliceValue(names), true
		}},
	{"layertrace.queue", "string", "the queue of the protocol stack: `send` (written, not yet sent), `pod` (sent, not yet at the host end of the pod's interface) or `receive` (received, not yet read); absent: several, or not in the protocol stack",
		func(s *LayerSpan) (attribute.Value, bool) {
			return attribute.StringValue(string(s.Segment.Queue)), s.Segment.Queue != ""
		}},
	{keyFlags, "string[]", "what was cut: an exchange of the hop was reported before its end, or its end is not known, so the time is not that of the whole; `trace_limited`: the trace had too many exchanges, and other hops may have had the time; absent: nothing",
		func(s *LayerSpan) (attribute.Value, bool) {
			return attribute.StringSliceValue(s.Flags.Names()), s.Flags != 0
		}},
}

// EmitLayer makes the span of a segment and passes it to the sink. For a segment
// that this node's clock did not measure it makes no span and returns false.
func (e *Emitter) EmitLayer(s *LayerSpan) bool {
	if !s.TraceID.IsValid() || !s.SpanID.IsValid() || s.Segment.At == 0 || s.Segment.Node != s.Node {
		return false
	}
	offset := e.opts.Offset()
	p := observe.Point{
		ID:   layerPoints.Get([3]string{s.Workload.Namespace, s.Workload.Pod, s.Workload.Service}),
		Node: s.Node, Workload: s.Workload,
	}
	made := &e.span
	made.Origin, made.Name = e.point(&p, layerResource).exchanges, layerName(s.Segment)
	made.TraceID, made.ID, made.Parent = s.TraceID, layerID(s), s.SpanID
	made.Start, made.End = offset.unixNano(s.Segment.At), offset.unixNano(s.Segment.At+uint64(s.Segment.Time))
	made.Attributes = appendLayer(made.Attributes[:0], s)
	e.opts.Sink.Take(made)
	return true
}

// maxLayerTexts is the number of names, and of IDs of points, that are kept, some 150 bytes each.
const maxLayerTexts = 1024

// layerPoints are the IDs of points of a namespace, pod and service.
var layerPoints = recent.New(maxLayerTexts, func(of [3]string) string { return "layers/" + of[0] + "/" + of[1] + "/" + of[2] })

// namedSegment is what the name of a segment of one layer is made of.
type namedSegment struct {
	layer    observe.Layer
	queue    breakdown.Queue
	location string
	phase    breakdown.Phase
}

var layerNames = recent.New(maxLayerTexts, func(n namedSegment) string {
	return makeLayerName(&breakdown.Segment{Layer: n.layer, Queue: n.queue, Location: n.location, Phase: n.phase})
})

// layerName names the span of a segment for lists of spans: all of its layers, the queue
// of which service, and the message. There are few names: none has an ID.
func layerName(s *breakdown.Segment) string {
	if len(s.MergedLayers) > 0 {
		return makeLayerName(s)
	}
	n := namedSegment{layer: s.Layer, queue: s.Queue, phase: s.Phase}
	if n.queue != "" {
		n.location = s.Location
	}
	return layerNames.Get(n)
}

func makeLayerName(s *breakdown.Segment) string {
	name := s.Layer.Title()
	if len(s.MergedLayers) > 0 {
		titles := make([]string, len(s.MergedLayers))
		for i, l := range s.MergedLayers {
			titles[i] = l.Title()
		}
		name = strings.Join(titles, " + ")
	}
	if s.Queue != "" {
		name += ": " + string(s.Queue) + " queue of " + s.Location
	}
	if s.Phase != breakdown.Both {
		name += ", " + string(s.Phase)
	}
	return name
}

func appendLayer(kv []attribute.KeyValue, s *LayerSpan) []attribute.KeyValue {
	for i := range layerFields {
		if v, ok := layerFields[i].get(s); ok {
			kv = append(kv, attribute.KeyValue{Key: layerFields[i].key, Value: v})
		}
	}
	return kv
}

// layerID returns the same ID for a segment that is reported again.
func layerID(s *LayerSpan) trace.SpanID {
	b := make([]byte, 0, 256) // not of the heap
	b = append(append(b, s.TraceID[:]...), s.SpanID[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Segment.At)
	for _, text := range [...]string{s.Node, string(s.Segment.Layer), string(s.Segment.Phase), s.Segment.Between} {
		b = append(append(b, 0), text...)
	}
	return spanIDOf(sha256.Sum256(b))
}

// layerResource describes the owner of the time, without a capture point.
func layerResource(p *observe.Point) *resource.Resource {
	return resourceWith(p, func(f *resourceField) bool { return !f.ofPoint })
}
