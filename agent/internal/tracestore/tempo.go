// SPDX-License-Identifier: Apache-2.0

package tracestore

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/layertrace/layertrace/agent/internal/span"
)

// tempo is a store that uses the API of Grafana Tempo
// (https://grafana.com/docs/tempo/latest/api_docs/).
type tempo struct{ *remote }

// Trace returns one trace.
func (t *tempo) Trace(ctx context.Context, id trace.TraceID) (Trace, error) {
	for _, path := range []string{"/api/v2/traces/", "/api/traces/"} { // Tempo before 2.7 has only the second
		var response json.RawMessage
		found, err := t.json(ctx, path+id.String(), &response)
		if err != nil {
			return Trace{}, err
		}
		if !found {
			continue
		}
		var stored []span.Stored
		partial, err := readTempo(response, func(s ...span.Stored) { stored = append(stored, s...) })
		if err != nil {
			return Trace{}, t.unreadable(err)
		}
		if len(stored) == 0 {
			continue
		}
		read := assemble(id, stored)
		read.Partial = partial
		return read, nil
	}
	return Trace{}, t.notFound(id)
}

// tempoFetches is how many traces are read at a time.
const tempoFetches = 8

// Search returns the traces that match, latest first. Tempo's search returns IDs, and
// counts in seconds: what begins in the window's first or last second but outside of it is
// left out here.
func (t *tempo) Search(ctx context.Context, q Query) ([]Trace, error) {
	to := q.To
	if to.IsZero() {
		to = time.Now()
	}
	ids, err := t.latestIDs(ctx, q, to.Unix()+1)
	if err == nil && q.Limit > 0 && len(ids) >= q.Limit { // all of them may begin after the end
		var before []string
		before, err = t.latestIDs(ctx, q, to.Unix())
		for _, id := range before {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	read := make([]*Trace, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(tempoFetches)
	for i, text := range ids {
		group.Go(func() error {
			id, err := ParseTraceID(pad(text, 32))
			if err != nil {
				return t.unreadable(err)
			}
			one, err := t.Trace(ctx, id)
			switch {
			case errors.Is(err, ErrNotFound): // deleted meanwhile
				return nil
			case err != nil:
				return err
			}
			read[i] = &one
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var traces []Trace
	for _, one := range read {
		if one != nil && q.includes(one) {
			traces = append(traces, *one)
		}
	}
	return latest(traces, q.Limit), nil
}

// latestIDs returns the IDs of the latest traces that match and do not begin after the second
// end.
func (t *tempo) latestIDs(ctx context.Context, q Query, end int64) (ids []string, err error) {
	spans := "resource.service.name = " + strconv.Quote(q.Service)
	if q.Operation != "" {
		spans += " && name = " + strconv.Quote(q.Operation)
	}
	values := url.Values{"q": {"{ " + spans + " } with (most_recent=true)"}, "spss": {"1"}}
	values.Set("start", strconv.FormatInt(max(q.From.Unix(), 1), 10))
	values.Set("end", strconv.FormatInt(end, 10))
	if q.Limit > 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	var response struct {
		Traces []struct {
			TraceID string `json:"traceID"`
		} `json:"traces"`
	}
	if err := t.search(ctx, "/api/search?"+values.Encode(), &response); err != nil {
		return nil, err
	}
	for _, each := range response.Traces {
		ids = append(ids, each.TraceID)
	}
	return ids, nil
}

// readTempo passes on the spans in a response, which is OTLP JSON in an envelope, with IDs
// in base64. partial says why spans are missing, "" if none are.
func readTempo(response json.RawMessage, take func(...span.Stored)) (partial string, err error) {
	var envelope struct {
		Trace struct {
			ResourceSpans json.RawMessage `json:"resourceSpans"`
		} `json:"trace"`
		Batches json.RawMessage `json:"batches"` // the first version
		Status  any             `json:"status"`
		Message string          `json:"message"`
	}
	if err := json.Unmarshal(response, &envelope); err != nil {
		return "", fmt.Errorf("not Tempo's JSON: %w", err)
	}
	resources := envelope.Batches
	if resources == nil {
		resources = envelope.Trace.ResourceSpans
	}
	if resources == nil {
		return "", nil // no spans
	}
	var data tracepb.TracesData
	object, err := json.Marshal(map[string]json.RawMessage{"resourceSpans": resources})
	if err != nil {
		return "", fmt.Errorf("not Tempo's JSON: %w", err)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(object, &data); err != nil {
		return "", fmt.Errorf("not Tempo's JSON: %w", err)
	}
	if envelope.Status == "PARTIAL" || envelope.Status == 1.0 {
		partial = cmp.Or(envelope.Message, "Tempo gives no reason")
	}
	var stored []span.Stored
	if err := readOTLP(&data, func(s ...span.Stored) { stored = append(stored, s...) }); err != nil {
		return "", err
	}
	shareAgain(stored)
	take(stored...)
	return partial, nil
}

// shareAgain gives back the ID that a server shared with its client, as with Zipkin's
// headers. Tempo gives such a server a new one, counted from 1, makes the client its
// parent, and makes the children of the shared ID, our spans among them, children of the
// new one (modules/frontend/combiner/trace_by_id_deduper.go in Tempo).
func shareAgain(stored []span.Stored) {
	clients := map[trace.SpanID]trace.SpanID{} // -> parent
	for i := range stored {
		if s := &stored[i]; s.Kind == "client" {
			clients[s.ID] = s.Parent
		}
	}
	shared := map[trace.SpanID]trace.SpanID{}
	for i := range stored {
		s := &stored[i]
		grandparent, ofClient := clients[s.Parent]
		if n := binary.BigEndian.Uint64(s.ID[:]); s.Kind != "server" || !ofClient || n == 0 || n > uint64(len(stored)) {
			continue
		}
		shared[s.ID] = s.Parent
		s.ID, s.Parent = s.Parent, grandparent
	}
	for i := range stored {
		if id, ok := shared[stored[i].Parent]; ok {
			stored[i].Parent = id
		}
	}
}
