// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
)

// The spans of encrypted hops in Jaeger have what those of plain text have, at all ten
// capture points. The Envoys' access logs and the topology say what that is.
func TestEncryptedHopsInJaeger(t *testing.T) {
	for _, tracer := range []lab.Tracer{lab.Zipkin, lab.OpenTelemetry} {
		setup := measure.Encrypted(tracer)
		setup.Name = "encrypted-" + string(tracer)
		out := acquire(t, setup, 300)
		nearlyAll(t, out.Points)
		seen := map[string]int{}
		inJaeger(t, out.Hops, tracer, func(t *testing.T, trace lab.Trace, want measure.Trace) {
			for _, hop := range want {
				checkEncryptedHop(t, trace, hop, tracer, seen)
			}
		})
		for _, point := range lab.Points() {
			if seen[point.Name] == 0 {
				t.Errorf("%s: no span of an encrypted hop at %s", tracer, point.Name)
			}
		}
	}
}

// checkEncryptedHop checks the spans of one hop: resource, attributes, and that each span
// encloses that of the next interface on the way. seen counts them by their names.
func checkEncryptedHop(t *testing.T, trace lab.Trace, hop measure.Hop, tracer lab.Tracer, seen map[string]int) {
	t.Helper()
	path := lab.Path(hop.From, hop.To)
	spans, found := byID(trace), make([]lab.Span, len(path))
	for _, span := range trace.Spans {
		for i, point := range path {
			if span.Name == point.Name && senderOf(spans, span) == hop.SpanID {
				found[i] = span
			}
		}
	}
	var outer [2]float64 // begin and end at the interface before on the way
	for i, point := range path {
		span := found[i]
		bad := func(format string, args ...any) {
			t.Errorf("trace %s: %s of %s -> %s: %s", trace.ID, point.Name, hop.From.Name, hop.To.Name, fmt.Sprintf(format, args...))
		}
		if span.ID == "" {
			bad("no span")
			continue
		}
		seen[point.Name]++
		service, kind, direction := lab.NodeName(hop.From.Node), "pnic", "egress"
		switch {
		case i == 0:
			service, kind, direction = hop.From.Service, "vnic", "ingress" // into the host
		case i == len(path)-1:
			service, kind = hop.To.Service, "vnic"
		case point.Node == lab.NodeName(hop.To.Node):
			service, direction = lab.NodeName(hop.To.Node), "ingress"
		}
		if span.Service != service || span.Resource["layertrace.capture_point.kind"] != kind ||
			span.Resource["host.name"] != point.Node || span.Resource["network.interface.name"] != point.Interface {
			bad("service %s, resource %v, want %s and %s", span.Service, span.Resource, service, kind)
		}
		for name, want := range map[string]any{
			"layertrace.join":           "exact",
			"layertrace.direction":      direction,
			"layertrace.context.format": map[lab.Tracer]string{lab.Zipkin: "b3multi", lab.OpenTelemetry: "w3c"}[tracer],
			"client.address":            hop.Client.Addr().String(),
			"client.port":               float64(hop.Client.Port()),
			"server.address":            hop.Server.Addr().String(),
			"server.port":               float64(hop.Server.Port()),
			"http.request.method":       "GET",
			"url.path":                  pathOf[hop.To.Service],
			"http.response.status_code": float64(hop.Status),
			"layertrace.flags":          nil,
		} {
			if got := span.Tags[name]; got != want {
				bad("%s is %v, want %v", name, got, want)
			}
		}
		begin, ends := span.Tags["layertrace.monotonic_ns"], span.Tags["layertrace.response.last_ns"]
		if ends == nil { // the response is one record
			ends = span.Tags["layertrace.response.first_ns"]
		}
		first, known := begin.(float64)
		last, ended := ends.(float64)
		switch {
		case !known || !ended:
			bad("it begins at %v and lasts for %v", begin, ends)
		case i > 0 && (first < outer[0] || first+last > outer[1]): // all nodes of the lab have one clock
			bad("it is from %.0f to %.0f ns, and %s before it on the way from %.0f to %.0f ns", first, first+last, path[i-1].Name, outer[0], outer[1])
		}
		outer = [2]float64{first, first + last}
	}
}

// pathOf is the path of requests to each service.
var pathOf = map[string]string{
	"productpage": "/productpage", "details": "/details/0", "ratings": "/ratings/0",
	"reviews-v1": "/reviews/0", "reviews-v2": "/reviews/0", "reviews-v3": "/reviews/0",
}
