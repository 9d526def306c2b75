// SPDX-License-Identifier: Apache-2.0

package span

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Span has what layertrace reads of any span.
type Span struct {
	ID, Parent trace.SpanID
	// Name is the operation, Service the service.name of the resource.
	Name, Service string
	// Kind is client, server, internal, ..., or "".
	Kind     string
	Start    time.Time
	Duration time.Duration
}

// Stored is a span in a trace store, of layertrace or of others.
type Stored struct {
	Span
	TraceID trace.TraceID
	// Scope is the instrumentation scope's name.
	Scope string
	// Attributes are the span's, Resource its resource's.
	Attributes, Resource Attributes
}

// IsOurs reports whether layertrace made the span.
func (s *Stored) IsOurs() bool { return s.Scope == ScopeName }

// IsDerived reports whether the span is the time in a layer. It was computed from
// other spans, so it has no observation.
func (s *Stored) IsDerived() bool {
	_, ok := s.Attributes[string(keyLayer)]
	return ok
}

// Attributes of a span or a resource are strings, integers as int64, and lists of
// strings. Stores return other types as well: Jaeger writes lists, and integers of
// more than 53 bits, as text.
type Attributes map[string]any

// Text returns a string, "" if there is none.
func (a Attributes) Text(key string) string {
	s, _ := a[key].(string)
	return s
}

// input is one attribute to read.
type input struct {
	attributes Attributes
	key        attribute.Key
}

func (in input) text() string { return in.attributes.Text(string(in.key)) }

func (in input) isSet() bool { _, ok := in.attributes[string(in.key)]; return ok }

// integer returns an integer and whether the attribute exists.
func (in input) integer() (n int64, ok bool, err error) {
	value, ok := in.attributes[string(in.key)]
	if !ok {
		return 0, false, nil
	}
	switch v := value.(type) {
	case int64:
		return v, true, nil
	case float64: // from a store without integers
		if v == math.Trunc(v) && math.Abs(v) <= 1<<53 {
			return int64(v), true, nil
		}
	case json.Number:
		if n, err = v.Int64(); err == nil {
			return n, true, nil
		}
	case string:
		if n, err = strconv.ParseInt(v, 10, 64); err == nil {
			return n, true, nil
		}
	}
	return 0, false, fmt.Errorf("%s is %v, not an integer", in.key, value)
}

// list returns a list of strings, nil if there is none.
func (in input) list() []string {
	switch v := in.attributes[string(in.key)].(type) {
	case []string:
		return v
	case string:
		var list []string
		if err := json.Unmarshal([]byte(v), &list); err == nil {
			return list
		}
		return []string{v} // a list of one, in a store without lists
	}
	return nil
}

// count returns a number from 0 to most, or the default of an absent attribute.
func (in input) count(absent, most uint64) (uint64, error) {
	v, ok, err := in.integer()
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return absent, nil
	case v < 0 || uint64(v) > most:
		return 0, fmt.Errorf("%s is %d, not from 0 to %d", in.key, v, most)
	}
	return uint64(v), nil
}

func (in input) count32(n *uint32, absent uint32) error {
	v, err := in.count(uint64(absent), math.MaxUint32)
	*n = uint32(v)
	return err
}

// time returns the absolute time of an offset from start, or the default of an absent
// attribute.
func (in input) time(start, absent uint64) (uint64, error) {
	v, ok, err := in.integer()
	from := int64(start)
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return absent, nil
	case v > math.MaxInt64-from || v <= -from:
		return 0, fmt.Errorf("%s is %d, not a time after %d", in.key, v, from)
	}
	return uint64(from + v), nil
}

// start returns the monotonic time that the offsets are relative to.
func (in input) start() (uint64, error) {
	v, ok, err := in.integer()
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return 0, errors.New(string(in.key) + " is missing")
	case v <= 0:
		return 0, fmt.Errorf("%s is %d, not a time", in.key, v)
	}
	return uint64(v), nil
}
