// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// readObjects reads the JSON objects of a file one after the other, in lines or
// not, and hands over their spans.
func readObjects(in io.Reader, take func(trace.TraceID, ...record)) error {
	objects := json.NewDecoder(in)
	for n := 1; ; n++ {
		var object json.RawMessage
		err := objects.Decode(&object)
		switch {
		case err == io.EOF && n == 1:
			return errors.New("there is nothing in it")
		case err == io.EOF:
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("object %d is cut off: is the file still being written?", n)
		case err != nil:
			return fmt.Errorf("object %d is no JSON (%w): the Collector's file exporter has to write format json, without compression", n, err)
		}
		if err := readObject(object, take); err != nil {
			return fmt.Errorf("object %d: %w", n, err)
		}
	}
}

// readObject reads one object: OTLP's traces, or Jaeger's.
func readObject(object json.RawMessage, take func(trace.TraceID, ...record)) error {
	var form struct {
		ResourceSpans json.RawMessage `json:"resourceSpans"`
		Data          json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(object, &form); err != nil {
		return errors.New("it is no object with traces")
	}
	switch {
	case form.Data != nil:
		return readJaeger(form.Data, take)
	case form.ResourceSpans == nil && string(bytes.TrimSpace(object)) != "{}":
		return errors.New("it has no resourceSpans, so it is no traces in OTLP JSON")
	}
	var data tracepb.TracesData
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(object, &data); err != nil {
		return fmt.Errorf("it is no traces in OTLP JSON: %w", err)
	}
	return readOTLP(&data, take)
}

// readJaeger reads the traces that Jaeger's UI saved.
func readJaeger(data json.RawMessage, take func(trace.TraceID, ...record)) error {
	var traces []jaegerTrace
	values := json.NewDecoder(bytes.NewReader(data))
	values.UseNumber()
	if err := values.Decode(&traces); err != nil {
		return fmt.Errorf("it is no traces in Jaeger's JSON: %w", err)
	}
	for i := range traces {
		id, records, err := traces[i].read()
		if err != nil {
			return err
		}
		take(id, records...)
	}
	return nil
}
