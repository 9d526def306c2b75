// SPDX-License-Identifier: Apache-2.0

// Command generate writes the generated parts of the manifests: the names of the images, the
// Lua script, and the alert rules as an object of the Prometheus operator. It runs in istio/
// (go generate ./istio).
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/layertrace/layertrace/istio"
	luafilter "github.com/layertrace/layertrace/lua-filter"
)

func main() {
	for _, write := range []func() error{writeImages, writeScript, writeRules} {
		if err := write(); err != nil {
			fmt.Fprintf(os.Stderr, "generate manifests: %v\n", err)
			os.Exit(1)
		}
	}
}

// images are the places of the images' names: what comes before a name, and the name.
var images = []struct {
	file, before, name string
}{
	{"agent/daemonset.yaml", `^ +image: `, istio.AgentRepository + ":" + istio.Version},
	{"reorder/envoyfilter/envoyfilter.yaml", `^ +uri: `, "oci://" + istio.FilterRepository + ":" + istio.Version},
	{"reorder/wasmplugin/wasmplugin.yaml", `^  url: `, "oci://" + istio.FilterRepository + ":" + istio.Version},
	{"reorder/wasmplugin-inline-headers/wasmplugin.yaml", `^  url: `, "oci://" + istio.FilterRepository + ":" + istio.Version},
	{"values.yaml", `^  repository: `, istio.AgentRepository},
	{"Chart.yaml", `^appVersion: `, istio.Version},
}

func writeImages() error {
	for _, image := range images {
		line := regexp.MustCompile(`(?m)(` + image.before + `).*$`)
		if err := replace(image.file, line, func(match []string) string { return match[1] + image.name }); err != nil {
			return err
		}
	}
	return nil
}

// scriptText matches the script: the key and the lines indented below it.
var scriptText = regexp.MustCompile(`(?m)^( +)inline_string:.*\n(?:(?: {18}.*)?\n)*`)

func writeScript() error {
	script, err := luafilter.Source(luafilter.Config{})
	if err != nil {
		return err
	}
	return replace("reorder/lua/envoyfilter.yaml", scriptText, func(match []string) string {
		var b strings.Builder
		b.WriteString(match[1] + "inline_string: |\n")
		for line := range strings.Lines(script) {
			if strings.TrimSpace(line) != "" {
				line = match[1] + "  " + line
			}
			b.WriteString(line)
		}
		return b.String()
	})
}

// replace replaces the only match of a pattern in a file.
func replace(file string, pattern *regexp.Regexp, text func(match []string) string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	at := pattern.FindAllSubmatchIndex(data, -1)
	if len(at) != 1 {
		return fmt.Errorf("%s: %d matches of %s, want 1", file, len(at), pattern)
	}
	match := []string{string(data[at[0][0]:at[0][1]]), string(data[at[0][2]:at[0][3]])}
	out := string(data[:at[0][0]]) + text(match) + string(data[at[0][1]:])
	return os.WriteFile(file, []byte(out), 0o644)
}

const (
	ruleFile   = "monitoring/rules.yaml"
	ruleObject = "monitoring/prometheusrule.yaml"
)

const ruleHead = `# SPDX-License-Identifier: Apache-2.0
# Generated from rules.yaml by istio/generate.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: layertrace
  namespace: layertrace-system
  labels:
    app.kubernetes.io/name: layertrace
    app.kubernetes.io/component: agent
    app.kubernetes.io/managed-by: layertrace
spec:
`

// writeRules wraps the rules of the plain file in the operator's object.
func writeRules() error {
	data, err := os.ReadFile(ruleFile)
	if err != nil {
		return err
	}
	_, rules, found := strings.Cut(string(data), "\ngroups:\n")
	if !found {
		return fmt.Errorf("%s has no groups", ruleFile)
	}
	var b strings.Builder
	b.WriteString(ruleHead + "  groups:\n")
	for line := range strings.Lines(rules) {
		if strings.TrimSpace(line) != "" {
			line = "  " + line
		}
		b.WriteString(line)
	}
	return os.WriteFile(ruleObject, []byte(b.String()), 0o644)
}
