// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"encoding/json"
	"fmt"
)

// Filter is one HTTP filter: Wasm or Lua is set.
type Filter struct {
	// Name is the Wasm plugin's; plugins of one VM need different names where
	// their configurations differ. Empty means "layertrace".
	Name string
	// Wasm is the path of a module, Configuration what it gets as plugin
	// configuration (JSON; may be empty).
	Wasm, Configuration string
	// Lua is the source of a script.
	Lua string
}

const typeURL = "type.googleapis.com/"

type object = map[string]any

// config returns the filter as an item of a list of HTTP filters, in JSON on one
// line.
func (f Filter) config() (string, error) {
	if f.Lua != "" {
		return toJSON(object{"name": "lua", "typed_config": object{
			"@type":               typeURL + "envoy.extensions.filters.http.lua.v3.Lua",
			"default_source_code": object{"inline_string": f.Lua},
		}})
	}
	plugin := object{
		"name":           cmp.Or(f.Name, "layertrace"),
		"failure_policy": "FAIL_OPEN",
		"vm_config": object{
			"vm_id":   "layertrace",
			"runtime": "envoy.wasm.runtime.v8",
			"code":    object{"local": object{"filename": f.Wasm}},
		},
	}
	if f.Configuration != "" {
		plugin["configuration"] = object{"@type": typeURL + "google.protobuf.StringValue", "value": f.Configuration}
	}
	return toJSON(object{"name": "wasm", "typed_config": object{
		"@type": typeURL + "envoy.extensions.filters.http.wasm.v3.Wasm", "config": plugin,
	}})
}

// toJSON writes a value so that it is YAML too, at any depth.
func toJSON(value any) (string, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("write the Envoy configuration: %w", err)
	}
	return string(data), nil
}
