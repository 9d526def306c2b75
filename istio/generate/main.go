// SPDX-License-Identifier: Apache-2.0

// Command generate writes the parts of the manifests that come from elsewhere:
// the Lua script, the hash of the agent's configuration, whose change rolls the
// agents, and the alert rules as an object for the Prometheus operator. It runs
// in istio/ (go generate ./istio).
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

// scriptText is the script's place: the key and all that is indented below it.
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

var hashText = regexp.MustCompile(`(?m)^( +layertrace/config-sha256:).*\n`)

// writeHash writes the hash of both configurations: for interfaces and, as a
// component beside, for layers.
func writeHash() error {
	for _, dir := range []string{"agent", "layers"} {
		if err := writeHashIn(dir); err != nil {
			return err
		}
	}
	return nil
}

func writeHashIn(dir string) error {
	data, err := os.ReadFile(dir + "/configmap.yaml")
	if err != nil {
		return err
	}
	var config struct{ Data map[string]string }
	if err := yaml.Unmarshal(data, &config); err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(config.Data["config.yaml"]))
	return replace(dir+"/daemonset.yaml", hashText, func(match []string) string {
		return match[1] + " " + hex.EncodeToString(sum[:]) + "\n"
	})
}

// replace writes what text returns in place of the one match of place.
func replace(file string, place *regexp.Regexp, text func(match []string) string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	at := place.FindAllSubmatchIndex(data, -1)
	if len(at) != 1 {
		return fmt.Errorf("%s: %d places match %s, want 1", file, len(at), place)
	}
	match := []string{string(data[at[0][0]:at[0][1]]), string(data[at[0][2]:at[0][3]])}
	out := string(data[:at[0][0]]) + text(match) + string(data[at[0][1]:])
	return os.WriteFile(file, []byte(out), 0o644)
}
