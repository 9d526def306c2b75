// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/layertrace/layertrace/wasm-filter/reorder"
)

// config is the plugin configuration, a JSON object. All keys may be left out.
type config struct {
	// formats (array of strings) are the formats whose headers move: w3c, b3,
	// jaeger, datadog, skywalking. Left out: all.
	formats []string
	// headers (array of strings) are names of further headers that move.
	headers []string
	// placement is where Envoy runs the filter.
	placement string
	// placeholders is the tracer whose headers a request without a trace context
	// gets from the filter, for the tracer to overwrite; "" for none.
	placeholders string
}

// Values of placement.
const (
	placementUpstream = "upstream"           // the router's upstream_http_filters: the default
	placementManager  = "connection-manager" // http_filters
)

// parseConfig reads the plugin configuration; empty (or null) means defaults.
// An unknown key is an error, as a misspelt one would otherwise pass unnoticed.
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
		return errors.New("not a JSON object: more follows behind it")
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

// readString reads a string into to, and leaves that as it is for null.
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

// readStrings reads an array of strings into to, and leaves that as it is for
// null. What it sets is never nil.
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
