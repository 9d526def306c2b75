// SPDX-License-Identifier: Apache-2.0

package pictures

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// zipkin is a Zipkin server in the lab's network.
type zipkin struct {
	lab     *lab.Lab
	process *sandbox.Process
	http    *http.Client
}

func (m *Maker) startZipkin(ctx context.Context) (*zipkin, error) {
	m.Progress("starting Zipkin")
	process, err := m.Lab.StartZipkin(ctx, m.ZipkinJAR)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DialContext: m.Lab.InfraNamespace().DialContext}
	return &zipkin{m.Lab, process, &http.Client{Timeout: 20 * time.Second, Transport: transport}}, nil
}

func (z *zipkin) stop() error {
	z.http.CloseIdleConnections()
	return z.process.Kill()
}

// send stores spans of a trace, and waits until the server has a number of spans of it.
func (z *zipkin) send(ctx context.Context, trace lab.Trace, count int) error {
	body, err := json.Marshal(zipkinSpans(trace))
	if err != nil {
		return fmt.Errorf("convert trace %s: %w", trace.ID, err)
	}
	if err := z.post(ctx, body); err != nil {
		return fmt.Errorf("send trace %s to Zipkin: %w", trace.ID, err)
	}
	what := fmt.Sprintf("%d spans of the trace in Zipkin", count)
	return sandbox.Await(ctx, what, 20*time.Second, 100*time.Millisecond, func(ctx context.Context) error {
		have, err := z.lab.ZipkinSpans(ctx, trace.ID)
		if err == nil && have != count {
			err = fmt.Errorf("it has %d", have)
		}
		return err
	})
}

func (z *zipkin) post(ctx context.Context, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, lab.ZipkinReceiver(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := z.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return errors.New(response.Status)
	}
	return nil
}

// page is the address of a trace in the server's UI.
func (z *zipkin) page(traceID string) string {
	return lab.URL(lab.ZipkinPort) + "/zipkin/traces/" + traceID
}

// zipkinSpan is a span in Zipkin's JSON, version 2.
type zipkinSpan struct {
	TraceID   string            `json:"traceId"`
	ID        string            `json:"id"`
	ParentID  string            `json:"parentId,omitempty"`
	Name      string            `json:"name"`
	Kind      string            `json:"kind,omitempty"`
	Timestamp int64             `json:"timestamp"`          // µs
	Duration  int64             `json:"duration,omitempty"` // µs
	Local     zipkinEndpoint    `json:"localEndpoint"`
	Tags      map[string]string `json:"tags,omitempty"`
}

type zipkinEndpoint struct {
	ServiceName string `json:"serviceName"`
}

// zipkinSpans converts a trace from Jaeger's API. Zipkin knows the kinds CLIENT
// and SERVER only, and all tags are text.
func zipkinSpans(trace lab.Trace) []zipkinSpan {
	spans := make([]zipkinSpan, 0, len(trace.Spans))
	for _, s := range trace.Spans {
		z := zipkinSpan{
			TraceID: trace.ID, ID: s.ID, ParentID: s.Parent, Name: s.Name,
			Timestamp: s.Start.UnixMicro(), Duration: s.Duration.Microseconds(),
			Local: zipkinEndpoint{s.Service}, Tags: map[string]string{},
		}
		if kind := strings.ToUpper(s.Kind()); kind == "CLIENT" || kind == "SERVER" {
			z.Kind = kind
		}
		for _, tags := range []map[string]any{s.Resource, s.Tags} {
			for key, value := range tags {
				z.Tags[key] = tagText(value)
			}
		}
		spans = append(spans, z)
	}
	return spans
}

// tagText writes a tag's value; numbers from JSON are floating point.
func tagText(value any) string {
	if number, ok := value.(float64); ok {
		return strconv.FormatFloat(number, 'f', -1, 64)
	}
	return fmt.Sprint(value)
}

// Sizes of a trace in Zipkin's UI, in pixels.
const (
	pairWidth = 1360
	// aroundSpans is what precedes the first span and follows the last, rowHeight a
	// span's row, atLeast the height of the details beside them.
	aroundSpans = 470
	rowHeight   = 30
	atLeast     = 700
)

// WithoutAndWith photographs one trace in Zipkin's UI twice: first without the spans for
// which added returns true, then with them. The names are those of the PNG files.
func (m *Maker) WithoutAndWith(ctx context.Context, trace lab.Trace, added func(lab.Span) bool, without, with string) (err error) {
	server, err := m.startZipkin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	parts := map[bool]lab.Trace{false: {ID: trace.ID}, true: {ID: trace.ID}}
	for _, span := range trace.Spans {
		part := parts[added(span)]
		part.Spans = append(part.Spans, span)
		parts[added(span)] = part
	}
	stored := 0
	for _, step := range []struct {
		part lab.Trace
		file string
	}{{parts[false], without}, {parts[true], with}} {
		stored += len(step.part.Spans)
		if err := server.send(ctx, step.part, stored); err != nil {
			return err
		}
		page := picture{url: server.page(trace.ID), width: pairWidth, height: max(atLeast, aroundSpans+rowHeight*stored)}
		if err := m.photograph(ctx, step.file, page); err != nil {
			return err
		}
	}
	return nil
}
