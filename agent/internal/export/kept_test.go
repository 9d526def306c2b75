// SPDX-License-Identifier: Apache-2.0

package export

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/layertrace/layertrace/agent/internal/span"
)

// names returns the names of the kept spans by their resource, and forgets them.
func (k *Kept) names(t *testing.T) map[string][]string {
	t.Helper()
	response := httptest.NewRecorder()
	k.ServeHTTP(response, httptest.NewRequest("GET", "/spans", nil))
	var data tracepb.TracesData
	if err := proto.Unmarshal(response.Body.Bytes(), &data); err != nil || response.Code != 200 {
		t.Fatal(response.Code, err)
	}
	names := map[string][]string{}
	for _, r := range data.ResourceSpans {
		of := r.GetResource().GetAttributes()[0].GetValue().GetStringValue()
		for _, scope := range r.ScopeSpans {
			for _, s := range scope.Spans {
				names[of] = append(names[of], s.Name)
			}
		}
	}
	return names
}

// The first spans are kept until they are read, and all others are counted.
func TestKept(t *testing.T) {
	k := NewKept(3)
	origins := [2]*span.Origin{}
	for i := range origins {
		origins[i] = &span.Origin{Resource: resource.NewSchemaless(attribute.String("service.name", fmt.Sprint("service", i)))}
	}
	take := func(from, to int) {
		for i := from; i < to; i++ {
			s := newSpan(i)
			s.Name, s.Origin = fmt.Sprint(i), origins[i%2]
			k.Take(s)
		}
	}
	take(0, 5)
	if got := fmt.Sprint(k.names(t)); got != "map[service0:[0 2] service1:[1]]" {
		t.Errorf("read %s, want the first three spans", got)
	}
	if got := k.names(t); len(got) != 0 {
		t.Errorf("read %v again", got)
	}
	take(5, 6)
	if got := fmt.Sprint(k.names(t)); got != "map[service1:[5]]" {
		t.Errorf("read %s, want the span after the first read", got)
	}
	want := `
# HELP layertrace_kept_spans_dropped_total Spans not kept because keep-spans others had not been read, or lost with the client that read them.
# TYPE layertrace_kept_spans_dropped_total counter
layertrace_kept_spans_dropped_total 2
# HELP layertrace_kept_spans_read_total Kept spans that a client has read.
# TYPE layertrace_kept_spans_read_total counter
layertrace_kept_spans_read_total 4
# HELP layertrace_kept_spans_total Spans kept in the agent for a client to read (keep-spans).
# TYPE layertrace_kept_spans_total counter
layertrace_kept_spans_total 4
`
	if err := testutil.CollectAndCompare(k, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// goneClient is a client that has gone.
type goneClient struct{ http.ResponseWriter }

func (goneClient) Write([]byte) (int, error) { return 0, errors.New("gone") }

// A request without a body forgets nothing, and what a client that has gone would have had is
// counted as lost.
func TestKeptIsNotThrownAway(t *testing.T) {
	k := NewKept(3)
	s := newSpan(0)
	s.Origin = &span.Origin{Resource: resource.NewSchemaless(attribute.String("service.name", "a"))}
	k.Take(s)
	response := httptest.NewRecorder()
	k.ServeHTTP(response, httptest.NewRequest(http.MethodHead, "/spans", nil))
	if response.Code != http.StatusMethodNotAllowed || len(k.batch.spans) != 1 {
		t.Errorf("HEAD: %d, %d spans left", response.Code, len(k.batch.spans))
	}
	k.ServeHTTP(goneClient{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/spans", nil))
	if read, dropped := k.read.Load(), k.dropped.Load(); read != 0 || dropped != 1 {
		t.Errorf("%d read, %d dropped, want 0 and 1", read, dropped)
	}
}
