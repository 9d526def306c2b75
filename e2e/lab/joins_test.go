// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// docs/devices.md has the Collector's configuration that the lab runs, with other addresses.
func TestBalancerIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/devices.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	documented, _, found := strings.Cut(rest, "```\n")
	if !found {
		t.Fatal("docs/devices.md has no configuration")
	}
	var rendered strings.Builder
	err = balancerTemplate.Execute(&rendered, map[string]any{
		"Listen": "0.0.0.0:4317", "Store": "jaeger:4317", "Joins": []string{"join-0.join:4327", "join-1.join:4327"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := yaml.Unmarshal([]byte(rendered.String()), &want); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(documented), &got); err != nil {
		t.Fatal(err)
	}
	delete(want["service"].(map[string]any), "telemetry") // of the lab
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/devices.md differs from balancer.yaml.tmpl: %s", diff)
	}
}
