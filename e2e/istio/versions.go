// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// versionSteps are those of an upgrade and a rollback: what is installed and the agents are
// of different versions, under load. Other versions of the manifests are made by leaving
// out and adding fields.
func (l mtlsLog) versionSteps() []step {
	name := "mtls " + l.method + ": "
	return []step{
		{name + "manifests of an older version, newer agents: spans without sizes", false, l.olderManifests},
		{name + "a log without the connections' times: refused, status names the remedy", false, l.unreadableLog},
		{name + "upgraded under load, exact spans again", false, l.upgraded},
		{name + "a newer log, with fields that agents do not know", false, l.newerLog},
		{name + "agents without the log's port: proxies go on, status names the remedy", false, l.olderAgents},
	}
}

// olderManifests installs what an older version did: the agents' settings are variables of
// the DaemonSet, and the log has neither sizes nor the incoming context.
func (l mtlsLog) olderManifests(ctx context.Context, c *chain) error {
	return c.underLoad(ctx, func(ctx context.Context) error {
		if err := c.applyOlder(ctx, l, "sent", "received", "incoming-traceparent"); err != nil {
			return err
		}
		older := l
		older.incoming = false
		return older.awaitSpans(ctx, c, c.clerk(), "time")
	})
}

// unreadableLog takes fields from the log without which no record has a connection.
func (l mtlsLog) unreadableLog(ctx context.Context, c *chain) error {
	return c.underLoad(ctx, func(ctx context.Context) error {
		if err := c.applyOlder(ctx, l, "local", "tx_beg"); err != nil {
			return err
		}
		return c.awaitProblems(ctx, "records of encrypted requests: the proxies' log has other fields than this agent needs; layertrace install of the version of the agents' image installs what fits it")
	})
}

// applyOlder installs as an older version, with a log without fields, and restarts the agents.
func (c *chain) applyOlder(ctx context.Context, l mtlsLog, fields ...string) error {
	err := c.applyChanged(ctx, l, func(o *unstructured.Unstructured) error {
		switch {
		case o.GetKind() == "ConfigMap":
			return settingsInOneFile(o)
		case o.GetKind() == "DaemonSet":
			return settingsAsVariables(o)
		case isLog(o):
			return changeLogs(o, func(all []any) []any {
				return slices.DeleteFunc(all, func(field any) bool { return slices.Contains(fields, fieldKey(field)) })
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.restartAgents(ctx)
}

// upgraded installs this version over the others.
func (l mtlsLog) upgraded(ctx context.Context, c *chain) error {
	return c.underLoad(ctx, func(ctx context.Context) error {
		out, err := c.layertrace(ctx, append(l.args(), "--yes")...)
		if err != nil {
			return err
		}
		for _, object := range []string{"ConfigMap layertrace-system/layertrace-agent", "DaemonSet layertrace-system/layertrace-agent", "EnvoyFilter istio-system/layertrace-mtls"} {
			if want := "changed   " + object; !strings.Contains(out, want) {
				return fmt.Errorf("install does not report %q:\n%s", want, out)
			}
		}
		set, err := c.cluster.Client.AppsV1().DaemonSets(agentNamespace).Get(ctx, "layertrace-agent", meta.GetOptions{})
		if err != nil {
			return err
		}
		if env := fmt.Sprint(set.Spec.Template.Spec.Containers[0].Env); strings.Contains(env, "MTLS") || strings.Contains(env, "ACCESS_LOG") {
			return fmt.Errorf("the older version's variables are still there: %s", env)
		}
		return errors.Join(c.restartAgents(ctx), l.awaitSpans(ctx, c, c.clerk(), "exact"))
	})
}

// newerLog adds fields that agents do not know.
func (l mtlsLog) newerLog(ctx context.Context, c *chain) error {
	return c.underLoad(ctx, func(ctx context.Context) error {
		err := c.applyChanged(ctx, l, func(o *unstructured.Unstructured) error {
			if !isLog(o) {
				return nil
			}
			return changeLogs(o, func(fields []any) []any {
				return slices.Insert(fields, 0, any(map[string]any{"key": "a_later_field", "value": map[string]any{"string_value": "%RESPONSE_CODE_DETAILS%"}}))
			})
		})
		if err != nil {
			return err
		}
		for _, pod := range []*cluster.Pod{c.encrypted.clerk, c.encrypted.vault} {
			if err := awaitConfig(ctx, pod, `"a_later_field"`); err != nil {
				return err
			}
		}
		if err := l.awaitSpans(ctx, c, c.clerk(), "exact"); err != nil {
			return err
		}
		_, err = c.layertrace(ctx, append(l.args(), "--yes")...)
		return err
	})
}

// olderAgents runs agents as from before encrypted traffic: they do not know its settings,
// and have no port for the log.
func (l mtlsLog) olderAgents(ctx context.Context, c *chain) error {
	return c.underLoad(ctx, func(ctx context.Context) error {
		before, err := c.lostRecords(ctx)
		if err != nil {
			return err
		}
		if err := c.stopAgents(); err != nil {
			return err
		}
		c.encrypted.withoutMTLS = true
		defer func() { c.encrypted.withoutMTLS = false }()
		if err := c.runAgents(ctx); err != nil {
			return err
		}
		err = sandbox.Await(ctx, "dropped records", configLimit, 200*time.Millisecond, func(ctx context.Context) error {
			now, err := c.lostRecords(ctx)
			if err == nil && now <= before {
				err = fmt.Errorf("the proxy counts %d, as before", now)
			}
			return err
		})
		if err != nil {
			return err
		}
		return errors.Join(
			c.awaitProblems(ctx, "the proxies report encrypted requests, but it does not take the reports: its image is older than what is installed, or its settings have mtls: false; layertrace install of the version of the agents' image installs what fits it"),
			c.showsDrops(ctx, before))
	})
}

// applyChanged applies what install would, changed, as the same field manager.
func (c *chain) applyChanged(ctx context.Context, l mtlsLog, change func(*unstructured.Unstructured) error) error {
	manifest, err := c.layertrace(ctx, append(l.args(), "--dry-run")...)
	if err != nil {
		return err
	}
	objects, err := cluster.Objects([]byte(manifest))
	if err != nil {
		return err
	}
	var changed []byte
	for _, o := range objects {
		if err := change(o); err != nil {
			return fmt.Errorf("change %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return err
		}
		changed = append(append(changed, "---\n"...), text...)
	}
	return c.cluster.ApplyAs(ctx, "layertrace", changed)
}

// settingsInOneFile puts the settings of a ConfigMap into config.yaml, but those for encrypted
// traffic.
func settingsInOneFile(configMap *unstructured.Unstructured) error {
	data, _, err := unstructured.NestedStringMap(configMap.Object, "data")
	if err != nil {
		return err
	}
	settings := map[string]any{}
	for _, key := range []string{"base.yaml", "layers.yaml", "config.yaml"} {
		var some map[string]any // nil for a file without settings
		if err := yaml.Unmarshal([]byte(data[key]), &some); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		maps.Copy(settings, some)
	}
	text, err := yaml.Marshal(settings)
	if err != nil {
		return err
	}
	return unstructured.SetNestedStringMap(configMap.Object, map[string]string{"config.yaml": string(text)}, "data")
}

// settingsAsVariables gives a DaemonSet the settings for encrypted traffic as variables, and
// no part of the file.
func settingsAsVariables(daemonSet *unstructured.Unstructured) error {
	spec, _, err := unstructured.NestedMap(daemonSet.Object, "spec", "template", "spec")
	if err != nil {
		return err
	}
	volume := spec["volumes"].([]any)[0].(map[string]any)
	unstructured.RemoveNestedField(volume, "configMap", "items")
	container := spec["containers"].([]any)[0].(map[string]any)
	container["env"] = append(container["env"].([]any),
		map[string]any{"name": "LAYERTRACE_MTLS", "value": "true"},
		map[string]any{"name": "LAYERTRACE_ACCESS_LOG_ADDRESS", "value": "[$(HOST_IP)]:4327"})
	return unstructured.SetNestedMap(daemonSet.Object, spec, "spec", "template", "spec")
}

func isLog(o *unstructured.Unstructured) bool {
	return o.GetKind() == "EnvoyFilter" && o.GetName() == "layertrace-mtls"
}

func fieldKey(field any) string {
	m, _ := field.(map[string]any)
	key, _ := m["key"].(string)
	return key
}

// changeLogs changes the attributes of all logs of an EnvoyFilter.
func changeLogs(filter *unstructured.Unstructured, change func([]any) []any) error {
	changed := 0
	var walk func(any)
	walk = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, item := range node {
				walk(item)
			}
		case map[string]any:
			for key, value := range node {
				attributes, _ := value.(map[string]any)
				if values, ok := attributes["values"].([]any); ok && key == "attributes" {
					attributes["values"] = change(slices.Clone(values))
					changed++
					continue
				}
				walk(value)
			}
		}
	}
	walk(filter.Object["spec"])
	if changed == 0 {
		return errors.New("it has no log with attributes")
	}
	return nil
}

// awaitProblems waits until layertrace status has a problem with a text for each agent.
func (c *chain) awaitProblems(ctx context.Context, text string) error {
	return sandbox.Await(ctx, "the problem in layertrace status", configLimit, 500*time.Millisecond, func(ctx context.Context) error {
		s, err := c.status(ctx)
		if err != nil {
			return err
		}
		for _, node := range c.encrypted.nodes {
			if !slices.ContainsFunc(s.Problems, func(p string) bool {
				return strings.HasPrefix(p, "agent on "+node.Name+": ") && strings.Contains(p, text)
			}) {
				return fmt.Errorf("%s has not %q, but %q", node.Name, text, s.Problems)
			}
		}
		return nil
	})
}
