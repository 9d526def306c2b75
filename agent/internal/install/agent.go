// SPDX-License-Identifier: Apache-2.0

package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Names in the manifests.
const (
	agentName     = "layertrace-agent"
	objectName    = "layertrace" // Telemetry, WasmPlugin, EnvoyFilter
	bootstrapName = "layertrace-bootstrap"
	configKey     = "config.yaml"
	configHash    = "layertrace/config-sha256" // annotation of the pods
	managedBy     = "app.kubernetes.io/managed-by"
	selector      = managedBy + "=" + FieldManager
)

// setAgent sets image and configuration of the DaemonSet.
func setAgent(objects []*unstructured.Unstructured, o Options) error {
	daemonSet := find(objects, "DaemonSet")
	if o.Image != "" {
		containers, _, err := unstructured.NestedSlice(daemonSet.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) != 1 {
			return errors.Join(fmt.Errorf("the DaemonSet has %d containers, want 1", len(containers)), err)
		}
		container, err := asMap(containers[0])
		if err != nil {
			return err
		}
		container["image"] = o.Image
		if err := unstructured.SetNestedSlice(daemonSet.Object, containers, "spec", "template", "spec", "containers"); err != nil {
			return err
		}
	}
	text, err := setAgentConfig(find(objects, "ConfigMap"), o)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(text))
	return unstructured.SetNestedField(daemonSet.Object, hex.EncodeToString(sum[:]),
		"spec", "template", "metadata", "annotations", configHash)
}

// setAgentConfig writes the endpoint into the agent's settings, and returns
// their text.
func setAgentConfig(configMap *unstructured.Unstructured, o Options) (string, error) {
	text, found, err := unstructured.NestedString(configMap.Object, "data", configKey)
	if err != nil || !found {
		return "", errors.Join(fmt.Errorf("the ConfigMap has no %s", configKey), err)
	}
	settings := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(text), &settings); err != nil {
		return "", err
	}
	insecure, _ := settings["otlp-insecure"].(bool)
	if (o.OTLPEndpoint == "" || settings["otlp-endpoint"] == o.OTLPEndpoint) && insecure == o.OTLPInsecure {
		return text, nil // with its own order
	}
	if o.OTLPEndpoint != "" {
		settings["otlp-endpoint"] = o.OTLPEndpoint
	}
	settings["otlp-insecure"] = o.OTLPInsecure
	changed, err := yaml.Marshal(settings)
	if err != nil {
		return "", err
	}
	return string(changed), unstructured.SetNestedField(configMap.Object, string(changed), "data", configKey)
}
