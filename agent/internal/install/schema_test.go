// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/internal/doctable"
)

const schemaFile = "../../../istio/values.schema.json"

// The schema of the chart's values has the agent's settings, so that Helm refuses one
// that does not exist or has a value of another type.
func TestSchemaHasTheSettings(t *testing.T) {
	text := map[string]any{"type": "string"}
	name := map[string]any{"type": "string", "pattern": "^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$"}
	texts := map[string]any{"type": "object", "additionalProperties": text}
	quantities := map[string]any{"type": "object", "additionalProperties": map[string]any{"type": []string{"string", "number", "null"}}}
	properties := map[string]any{}
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	config.Define(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "config" && f.Name != "mtls" { // mtls.enabled has both sides
			properties[f.Name] = settingSchema(t, f)
		}
	})
	defs, err := json.MarshalIndent(map[string]any{
		"name": name, "texts": texts, "quantities": quantities,
		"settings": map[string]any{"type": "object", "additionalProperties": false, "properties": properties},
	}, "  ", "  ")
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := bytes.Cut(before, []byte(`  "definitions": `))
	if !found {
		t.Fatalf("%s has no definitions", schemaFile)
	}
	after := append(append(bytes.Clone(head), `  "definitions": `...), append(defs, "\n}\n"...)...)
	doctable.CheckFile(t, schemaFile, after)
}

// settingSchema returns the schema of a setting in YAML, where each also can be a text.
func settingSchema(t *testing.T, f *pflag.Flag) map[string]any {
	t.Helper()
	_, usage := pflag.UnquoteUsage(f)
	schema := map[string]any{"description": usage}
	if _, ok := f.Value.(pflag.SliceValue); ok {
		item := map[string]any{"type": []string{"string", "integer"}}
		schema["type"], schema["items"] = []string{"array", "string", "integer"}, item
		return schema
	}
	switch kind := f.Value.Type(); kind {
	case "bool":
		schema["enum"] = []any{true, false, "true", "false"}
	case "int", "uint32":
		schema["type"] = []string{"integer", "string"}
	case "float64":
		schema["type"] = []string{"number", "string"}
	case "string", "duration":
		schema["type"] = "string"
	default: // a choice: its type is A|B
		var all []any
		if !strings.Contains(kind, "|") {
			t.Fatalf("--%s has the type %s, for which there is no schema", f.Name, kind)
		}
		for _, value := range strings.Split(kind, "|") {
			all = append(all, value)
			if value == "true" || value == "false" {
				all = append(all, value == "true")
			}
		}
		schema["enum"] = all
	}
	return schema
}
