// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// An older version had all settings in one file.
func TestSettingsInOneFile(t *testing.T) {
	configMap := &unstructured.Unstructured{Object: map[string]any{"data": map[string]any{
		"base.yaml": "# all\nkubernetes: true\notlp-endpoint: a:1\n", "mtls.yaml": "mtls: true\n", "config.yaml": "# none\n",
	}}}
	if err := settingsInOneFile(configMap); err != nil {
		t.Fatal(err)
	}
	data, _, err := unstructured.NestedStringMap(configMap.Object, "data")
	if want := "kubernetes: true\notlp-endpoint: a:1\n"; err != nil || len(data) != 1 || data["config.yaml"] != want {
		t.Errorf("%q, %v, want %q", data, err, want)
	}
}
