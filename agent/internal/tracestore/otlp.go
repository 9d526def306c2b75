// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/layertrace/layertrace/agent/internal/span"
)

// ReadReceived passes on the spans of an OTLP request of the instrumentation scopes that are
// wanted, and the error of each that cannot be read.
func ReadReceived(resources []*tracepb.ResourceSpans, wanted func(scope string) bool, take func(*span.Stored, error)) {
	for _, resource := range resources {
		var about span.Attributes
		for _, scope := range resource.GetScopeSpans() {
			name := scope.GetScope().GetName()
			if !wanted(name) {
				continue
			}
			if about == nil {
				about = attributesOf(resource.GetResource().GetAttributes())
			}
			for _, s := range scope.GetSpans() {
				stored, err := storedOf(s)
				stored.Scope, stored.Resource, stored.Service = name, about, about.Text(string(semconv.ServiceNameKey))
				take(&stored, err)
			}
		}
	}
}
