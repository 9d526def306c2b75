// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/layertrace/layertrace/wasm-filter/reorder"
)

// parseConfig reads the plugin configuration, a JSON object; empty (or null)
// means defaults. Its one key is
//
//	headers: array of strings, names of further headers that carry a trace context
//
// Anything else is an error, as a misspelt key would otherwise pass unnoticed.
func parseConfig(data []byte) (*reorder.Names, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return reorder.NewNames()
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	var extra []string
	for key, value := range object {
		if key != "headers" {
			return nil, fmt.Errorf("unknown key %q (known: \"headers\")", key)
		}
		if err := json.Unmarshal(value, &extra); err != nil {
			return nil, fmt.Errorf("\"headers\" must be an array of strings: %w", err)
		}
	}
	names, err := reorder.NewNames(extra...)
	if err != nil {
		return nil, fmt.Errorf("\"headers\": %w", err)
	}
	return names, nil
}
