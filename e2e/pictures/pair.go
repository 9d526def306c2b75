// SPDX-License-Identifier: Apache-2.0

package pictures

import (
	"context"
	"errors"

	"github.com/layertrace/layertrace/e2e/lab"
)

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
	m.Progress("starting Zipkin")
	server, err := startZipkin(ctx, m.Lab, m.ZipkinJAR, m.Logs)
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
		if err := server.send(ctx, step.part); err != nil {
			return err
		}
		stored += len(step.part.Spans)
		if err := server.awaitSpans(ctx, trace.ID, stored); err != nil {
			return err
		}
		page := picture{url: server.page(trace.ID), width: pairWidth, height: max(atLeast, aroundSpans+rowHeight*stored)}
		if err := m.photograph(ctx, step.file, page); err != nil {
			return err
		}
	}
	return nil
}
