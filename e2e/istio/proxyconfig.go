// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// proxyConfig returns the listeners, clusters and routes that istiod gave a proxy, as
// text that is the same for the same configuration: without times and versions of the
// update, in a fixed order.
func proxyConfig(ctx context.Context, pod *cluster.Pod) (string, error) {
	configs, err := dumpConfig(ctx, pod)
	if err != nil {
		return "", err
	}
	kept := map[string]any{}
	for _, config := range configs {
		for _, part := range []string{"dynamic_listeners", "dynamic_active_clusters", "dynamic_route_configs"} {
			if list, ok := config[part].([]any); ok {
				kept[part] = ordered(slices.DeleteFunc(list, isDraining))
			}
		}
	}
	if len(kept) != 3 {
		return "", fmt.Errorf("the configuration of %s has %d of 3 parts", pod.Name, len(kept))
	}
	if kept["dynamic_route_configs"], err = usedRoutes(kept); err != nil {
		return "", err
	}
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	err = encoder.Encode(kept)
	return out.String(), err
}

// dumpConfig returns everything that a proxy's Envoy is configured with, endpoints included.
func dumpConfig(ctx context.Context, pod *cluster.Pod) ([]map[string]any, error) {
	text, err := sandbox.Get(ctx, pod.HTTP, envoyAdmin+"/config_dump?include_eds")
	if err != nil {
		return nil, err
	}
	var dump struct {
		Configs []map[string]any `json:"configs"`
	}
	if err := json.Unmarshal(text, &dump); err != nil {
		return nil, fmt.Errorf("read the configuration of %s: %w", pod.Name, err)
	}
	return dump.Configs, nil
}

// isDraining reports whether a listener has only the connections that it had before it
// was removed.
func isDraining(item any) bool {
	m, _ := item.(map[string]any)
	return m["draining_state"] != nil && m["active_state"] == nil && m["warming_state"] == nil
}

// usedRoutes returns the routes that listeners refer to. Those of a removed listener stay
// while it is draining.
func usedRoutes(kept map[string]any) ([]any, error) {
	listeners, err := json.Marshal(kept["dynamic_listeners"])
	if err != nil {
		return nil, err
	}
	routes, _ := kept["dynamic_route_configs"].([]any)
	return slices.DeleteFunc(routes, func(item any) bool {
		m, _ := item.(map[string]any)
		config, _ := m["route_config"].(map[string]any)
		return !strings.Contains(string(listeners), fmt.Sprintf("%q:%q", "route_config_name", config["name"]))
	}), nil
}

// ordered removes what belongs to an update and not to the configuration, and sorts.
func ordered(list []any) []any {
	for _, item := range list {
		if m, ok := item.(map[string]any); ok {
			withoutUpdate(m)
		}
	}
	slices.SortFunc(list, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }) // maps print sorted
	return list
}

func withoutUpdate(m map[string]any) {
	for _, key := range []string{"last_updated", "version_info", "client_status", "draining_state"} {
		delete(m, key)
	}
	for _, value := range m {
		if inner, ok := value.(map[string]any); ok {
			withoutUpdate(inner)
		}
	}
}

// configEvery is how often a proxy's configuration is read while a test waits for a change.
const configEvery = 200 * time.Millisecond

// settledConfig returns a proxy's configuration once it stays the same.
func settledConfig(ctx context.Context, pod *cluster.Pod) (config string, err error) {
	same := 0
	err = sandbox.Await(ctx, "a lasting configuration of "+pod.Name, configLimit, configEvery, func(ctx context.Context) error {
		now, err := proxyConfig(ctx, pod)
		if err != nil {
			return err
		}
		if same++; now != config {
			config, same = now, 0
		}
		if same < 10 {
			return errors.New("it has just changed")
		}
		return nil
	})
	return config, err
}

// awaitConfig waits until a proxy has accepted a configuration that contains texts.
func awaitConfig(ctx context.Context, pod *cluster.Pod, texts ...string) error {
	err := sandbox.Await(ctx, "the log in "+pod.Name, configLimit, configEvery, func(ctx context.Context) error {
		config, err := proxyConfig(ctx, pod)
		if err != nil {
			return err
		}
		for _, text := range texts {
			if !strings.Contains(config, text) {
				return fmt.Errorf("%s is not in its configuration", text)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return acceptsConfig(ctx, pod)
}

// acceptsConfig fails if the proxy has refused a part of its configuration.
func acceptsConfig(ctx context.Context, pod *cluster.Pod) error {
	config, err := proxyConfig(ctx, pod)
	if err == nil && strings.Contains(config, `"error_state"`) {
		_, state, _ := strings.Cut(config, `"error_state"`)
		err = fmt.Errorf("%s has refused a part of its configuration: %.1000s", pod.Name, state)
	}
	return err
}

// firstDifference returns the first lines that differ.
func firstDifference(a, b string) string {
	before, after := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(before), len(after)) {
		if before[i] != after[i] {
			return fmt.Sprintf("line %d is %q, was %q", i+1, after[i], before[i])
		}
	}
	return fmt.Sprintf("%d lines, were %d", len(after), len(before))
}

// addProviders adds the providers that install asks for in its output to the mesh
// configuration, as its owner would.
func (c *chain) addProviders(ctx context.Context, output string) error {
	_, text, found := strings.Cut(output, "\nextensionProviders:\n")
	if !found {
		return nil
	}
	block := "extensionProviders:\n"
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "-") {
			break
		}
		block += line
	}
	var add struct {
		ExtensionProviders []any `json:"extensionProviders"`
	}
	if err := yaml.UnmarshalStrict([]byte(block), &add); err != nil {
		return fmt.Errorf("read the providers that install prints: %w\n%s", err, block)
	}
	return c.changeMesh(ctx, func(text string) (string, error) {
		c.encrypted.mesh = text
		mesh := map[string]any{}
		if err := yaml.Unmarshal([]byte(text), &mesh); err != nil {
			return "", err
		}
		list, _ := mesh["extensionProviders"].([]any)
		mesh["extensionProviders"] = append(list, add.ExtensionProviders...)
		changed, err := yaml.Marshal(mesh)
		return string(changed), err
	})
}

// removeProviders restores the mesh configuration.
func (c *chain) removeProviders(ctx context.Context) error {
	before := c.encrypted.mesh
	if before == "" {
		return nil
	}
	c.encrypted.mesh = ""
	return c.changeMesh(ctx, func(string) (string, error) { return before, nil })
}

// changeMesh changes the mesh configuration.
func (c *chain) changeMesh(ctx context.Context, change func(text string) (string, error)) error {
	maps := c.cluster.Client.CoreV1().ConfigMaps(cluster.RootNamespace)
	istio, err := maps.Get(ctx, "istio", meta.GetOptions{})
	if err != nil {
		return err
	}
	if istio.Data["mesh"], err = change(istio.Data["mesh"]); err != nil {
		return fmt.Errorf("change the mesh configuration: %w", err)
	}
	_, err = maps.Update(ctx, istio, meta.UpdateOptions{})
	return err
}
