// SPDX-License-Identifier: Apache-2.0

// Command generate writes the generated parts of the manifests: the Lua script, the
// hash of the agent's configuration (so that a change restarts the agents), and the
// alert rules as an object of the Prometheus operator. It runs in istio/ (go generate
// ./istio).
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"

	luafilter "github.com/layertrace/layertrace/lua-filter"
	"sigs.k8s.io/yaml"
)

func main() {
	for _, write := range []func() error{writeScript, writeHash, writeRules} {
		if err := write(); err != nil {
			fmt.Fprintf(os.Stderr, "generate manifests: %v\n", err)
			os.Exit(1)
		}
	}
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

var (
	hashText     = regexp.MustCompile(`(?m)^( +layertrace/config-sha256:).*\n`)
	mtlsHashText = regexp.MustCompile(`(?m)(layertrace~1mtls-sha256\n +value:).*\n`)
)

// writeHash writes the hash of each configuration: the one for interfaces and those of the
// components for layers and for encrypted traffic.
func writeHash() error {
	for _, dir := range []string{"agent", "layers"} {
		var config struct{ Data map[string]string }
		if err := read(dir+"/configmap.yaml", &config); err != nil {
			return err
		}
		if err := replaceHash(dir, hashText, config.Data["config.yaml"]); err != nil {
			return err
		}
	}
	var patch []struct{ Value string }
	if err := read("mtls/agent/configmap.yaml", &patch); err != nil {
		return err
	}
	if len(patch) != 1 {
		return fmt.Errorf("mtls/agent/configmap.yaml has %d operations, want 1", len(patch))
	}
	return replaceHash("mtls/agent", mtlsHashText, patch[0].Value)
}

func read(file string, into any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// replaceHash writes the hash of a configuration into a DaemonSet, or a patch of it.
func replaceHash(dir string, pattern *regexp.Regexp, config string) error {
	sum := sha256.Sum256([]byte(config))
	return replace(dir+"/daemonset.yaml", pattern, func(match []string) string {
		return match[1] + " " + hex.EncodeToString(sum[:]) + "\n"
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
