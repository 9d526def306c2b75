// SPDX-License-Identifier: Apache-2.0

// Package jaeger configures the lab's Jaeger and reads traces back from it.
package jaeger

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

// Ports of Jaeger's receivers and its query API and UI.
const (
	OTLPPort   = 4317
	HTTPPort   = 4318
	ZipkinPort = 9411
	QueryPort  = 16686
)

//go:embed config.yaml.tmpl
var config string

var configTemplate = template.Must(template.New("jaeger").Parse(config))

// Config returns a Jaeger configuration that listens on ip and keeps the
// latest maxTraces traces in memory.
func Config(ip string, maxTraces int) (string, error) {
	var out strings.Builder
	err := configTemplate.Execute(&out, map[string]any{
		"IP": ip, "MaxTraces": maxTraces,
		"OTLP": OTLPPort, "HTTP": HTTPPort, "Zipkin": ZipkinPort, "Query": QueryPort,
	})
	if err != nil {
		return "", fmt.Errorf("write the Jaeger configuration: %w", err)
	}
	return out.String(), nil
}
