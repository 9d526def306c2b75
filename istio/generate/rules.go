// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
)

const (
	ruleFile   = "monitoring/rules.yaml"
	ruleObject = "monitoring/prometheusrule.yaml"
)

const ruleHead = `# SPDX-License-Identifier: Apache-2.0
# Written from rules.yaml by istio/generate.
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

// writeRules puts the rules of the plain file into the operator's object.
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
