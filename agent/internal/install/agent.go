// SPDX-License-Identifier: Apache-2.0

package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/agent/internal/config"
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

// setAgentConfig writes what the options say into the agent's settings, and
// returns their text.
func setAgentConfig(configMap *unstructured.Unstructured, o Options) (string, error) {
	text, found, err := unstructured.NestedString(configMap.Object, "data", configKey)
	if err != nil || !found {
		return "", errors.Join(fmt.Errorf("the ConfigMap has no %s", configKey), err)
	}
	settings := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(text), &settings); err != nil {
		return "", err
	}
	changed := maps.Clone(settings)
	changed["otlp-insecure"] = o.OTLPInsecure
	if o.OTLPEndpoint != "" {
		changed["otlp-endpoint"] = o.OTLPEndpoint
	}
	if o.Spans == config.SpansLayers {
		// Which cgroup the pods of a node are in only its agent can find out.
		changed["spans"], changed["socket-cgroup"] = config.SpansLayers, config.SocketCgroupAuto
	}
	for _, setting := range o.AgentSettings {
		name, value, _ := strings.Cut(setting, "=")
		changed[name] = value
	}
	if !maps.Equal(settings, changed) { // else with its own order
		data, err := yaml.Marshal(changed)
		if err != nil {
			return "", err
		}
		text = string(data)
	}
	return text, unstructured.SetNestedField(configMap.Object, text, "data", configKey)
}

// checkSettings lets the agent's own flags read settings, so that a slip of the
// pen shows now, and not as an agent that does not start.
func checkSettings(spans string, settings []string) error {
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	parsed := config.Define(flags)
	if err := flags.Set("spans", spans); err != nil {
		return fmt.Errorf("--spans: %w", err)
	}
	for _, setting := range settings {
		name, value, ok := strings.Cut(setting, "=")
		if !ok {
			return fmt.Errorf("--agent-setting %q: write NAME=VALUE, such as pnic=eth0", setting)
		}
		if flags.Lookup(name) == nil || name == "config" {
			return fmt.Errorf("--agent-setting %s: the agent has no setting %q%s", setting, name, config.Hint(flags, name))
		}
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("--agent-setting %s: %w", setting, err)
		}
	}
	if err := config.Load(flags, parsed, nil); err != nil {
		return fmt.Errorf("--agent-setting: %w", err)
	}
	return nil
}
