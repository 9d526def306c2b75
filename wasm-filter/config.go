// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"
	"github.com/layertrace/layertrace/wasm-filter/reorder"
)

// config is the plugin configuration, a JSON object. All keys are optional.
type config struct {
	// formats (array of strings) are the formats whose headers move, by the names
	// of formats.Groups. Default: all.
	formats []string
	// headers (array of strings) are the names of further headers that move.
	headers []string
	// placement is where Envoy runs the filter.
	placement string
	// placeholders is the tracer whose headers the filter adds to a request
	// without a trace context, for the tracer to overwrite; "" for none.
	placeholders string
}

// Values of placement.
const (
	placementUpstream = "upstream"           // the router's upstream_http_filters: the default
	placementManager  = "connection-manager" // http_filters
)

// tracer is one of Envoy's tracers that placeholders support.
type tracer struct {
	name   string
	format string      // of its headers
	root   [][2]string // headers that it sets on every request that begins a trace
}

var tracers = []tracer{
	{"zipkin", formats.B3.String(), [][2]string{{formats.B3TraceID, "0"}, {formats.B3SpanID, "0"}, {formats.B3Sampled, "0"}}},
	{"opentelemetry", formats.W3C.String(), [][2]string{{formats.TraceParent, "0"}, {formats.TraceState, ""}}},
}

// findTracer returns the tracer of this name, or nil.
func findTracer(name string) *tracer {
	i := slices.IndexFunc(tracers, func(t tracer) bool { return t.name == name })
	if i < 0 {
		return nil
	}
	return &tracers[i]
}

// parseConfig parses the plugin configuration; empty (or null) means defaults. An
// unknown key is an error, so that a typo does not go unnoticed.
func parseConfig(data []byte) (config, *reorder.Names, error) {
	c := config{placement: placementUpstream}
	if len(bytes.TrimSpace(data)) > 0 {
		if err := c.read(data); err != nil {
			return c, nil, err
		}
	}
	if err := c.check(); err != nil {
		return c, nil, err
	}
	names, err := reorder.NewNames(c.formats, c.headers)
	return c, names, err
}

// check validates the values, alone and together.
func (c *config) check() error {
	if c.placement != placementUpstream && c.placement != placementManager {
		return errors.New(`"placement" is ` + strconv.Quote(c.placement) + `, must be "upstream" or "connection-manager"`)
	}
	if c.formats != nil && len(c.formats)+len(c.headers) == 0 {
		return errors.New(`"formats" is empty and there are no "headers": nothing to move`)
	}
	if c.placeholders == "" {
		return nil
	}
	t := findTracer(c.placeholders)
	switch {
	case t == nil:
		return errors.New(`"placeholders" is ` + strconv.Quote(c.placeholders) + `, must be "", "zipkin" or "opentelemetry"`)
	case c.placement != placementManager:
		return errors.New(`"placeholders" needs "placement" "connection-manager"`)
	case c.formats != nil && !slices.Contains(c.formats, t.format):
		return errors.New(`"placeholders" ` + strconv.Quote(c.placeholders) + ` needs ` + strconv.Quote(t.format) + ` among the "formats"`)
	}
	return nil
}

func (c *config) read(data []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(data))
	switch d.PeekKind() {
	case 'n':
	case '{':
		if _, err := d.ReadToken(); err != nil {
			return notJSON(err)
		}
		for d.PeekKind() == '"' {
			if err := c.readMember(d); err != nil {
				return err
			}
		}
	default:
		return errors.New("not a JSON object")
	}
	if _, err := d.ReadToken(); err != nil { // null or }
		return notJSON(err)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("not a JSON object: trailing data")
	}
	return nil
}

func (c *config) readMember(d *jsontext.Decoder) error {
	token, err := d.ReadToken()
	if err != nil {
		return notJSON(err)
	}
	switch key := token.String(); key {
	case "formats":
		return readStrings(d, key, &c.formats)
	case "headers":
		return readStrings(d, key, &c.headers)
	case "placement":
		return readString(d, key, &c.placement)
	case "placeholders":
		return readString(d, key, &c.placeholders)
	default:
		return errors.New("unknown key " + strconv.Quote(key) + ` (known: "formats", "headers", "placement", "placeholders")`)
	}
}

// readString reads a string into to; null leaves to unchanged.
func readString(d *jsontext.Decoder, key string, to *string) error {
	token, err := d.ReadToken()
	switch {
	case err != nil:
		return notJSON(err)
	case token.Kind() == 'n':
	case token.Kind() == '"':
		*to = token.String()
	default:
		return errors.New(strconv.Quote(key) + " must be a string")
	}
	return nil
}

// readStrings reads an array of strings into to, never a nil one; null leaves to
// unchanged.
func readStrings(d *jsontext.Decoder, key string, to *[]string) error {
	wrong := errors.New(strconv.Quote(key) + " must be an array of strings")
	token, err := d.ReadToken()
	switch {
	case err != nil:
		return notJSON(err)
	case token.Kind() == 'n':
		return nil
	case token.Kind() != '[':
		return wrong
	}
	list := []string{}
	for {
		token, err := d.ReadToken()
		switch {
		case err != nil:
			return notJSON(err)
		case token.Kind() == ']':
			*to = list
			return nil
		case token.Kind() != '"':
			return wrong
		}
		list = append(list, token.String())
	}
}

func notJSON(err error) error { return errors.New("not a JSON object: " + err.Error()) }
