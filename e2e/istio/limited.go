// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// An installation that is limited to the client's namespace must leave the proxies of other
// namespaces as they are: a bystander's whole configuration is compared byte by byte.

const (
	bystanderNamespace = "beside"
	bystanderIP        = "10.77.0.12"
	limitedIP          = "10.77.0.13"
)

// limited is what the steps of limited installations share.
type limited struct {
	client, bystander *cluster.Pod
	// before is the bystander's configuration without layertrace, clientBefore the client's.
	before, clientBefore string
}

// limitedMethod is an installation for one namespace.
type limitedMethod struct {
	method
	// log is the value of --mtls-log, "" for --mtls=off.
	log string
	// text is in the client's configuration then.
	text string
}

var limitedMethods = []limitedMethod{
	{methods[0], "envoyfilter", `"layertrace-attempt"`},
	{methods[1], "telemetry", `"layertrace-client"`},
	{methods[2], "", "envoy_on_request"},
	{inlineMethod, "envoyfilter", `"layertrace-attempt"`},
	{method{reorder: "none"}, "envoyfilter", `"layertrace-attempt"`},
}

func limitedSteps() []step {
	steps := []step{
		{"limited: sidecars in two namespaces", true, startBystander},
		{"limited: by itself only times, versions and order of its configuration change", false, changesByItself},
	}
	for _, m := range limitedMethods {
		name := "limited: " + m.reorder + ", --mtls-log=" + cmp.Or(m.log, "none")
		steps = append(steps,
			step{name + ": installed under load for one namespace, the other's proxy as before, byte by byte", false, m.installed},
			step{name + ": uninstalled under load, both as before", false, m.uninstalled})
	}
	return steps
}

func startBystander(ctx context.Context, c *chain) error {
	namespace := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: bystanderNamespace}}
	if _, err := c.cluster.Client.CoreV1().Namespaces().Create(ctx, namespace, meta.CreateOptions{}); err != nil {
		return fmt.Errorf("create the bystander's namespace: %w", err)
	}
	if err := c.cluster.AwaitServiceAccount(ctx, bystanderNamespace); err != nil {
		return err
	}
	var err error
	if c.client, err = c.mesh.AddPod(ctx, cluster.PodSpec{Name: "limited", IP: limitedIP, Sidecar: true}); err != nil {
		return err
	}
	c.limited.bystander, err = c.mesh.AddPod(ctx, cluster.PodSpec{Name: "bystander", Home: bystanderNamespace, IP: bystanderIP, Sidecar: true})
	if err != nil {
		return err
	}
	if err := c.updated(ctx); err != nil {
		return err
	}
	if c.limited.before, err = wholeConfig(ctx, c.limited.bystander); err != nil {
		return err
	}
	c.limited.clientBefore, err = settledConfig(ctx, c.client)
	return err
}

// changesByItself compares two configurations between which istiod has updated the proxy,
// with the same content.
func changesByItself(ctx context.Context, c *chain) error {
	if err := c.updated(ctx); err != nil {
		return err
	}
	return c.bystanderIsAsBefore(ctx)
}

func (m limitedMethod) args(c *chain) []string {
	args := append(m.method.args(c, "limited"), "--namespace-selector=kubernetes.io/metadata.name="+cluster.AppNamespace, "--yes",
		"--tracing-provider=opentelemetry", "--sampling=100")
	if m.log == "" {
		return append(args, "--mtls=off")
	}
	return append(args, "--mtls=on", "--mtls-log="+m.log)
}

func (m limitedMethod) installed(ctx context.Context, c *chain) error {
	var sum string
	if m.module {
		var err error
		if sum, err = c.putVariant(m.name("limited")); err != nil {
			return err
		}
	}
	return c.underLoad(ctx, func(ctx context.Context) error {
		out, err := c.layertrace(ctx, m.args(c)...)
		if err != nil {
			return err
		}
		if err := c.addProviders(ctx, out); err != nil {
			return err
		}
		if err := awaitConfig(ctx, c.client, m.text); err != nil {
			return err
		}
		switch {
		case m.reorder == inlineMethod.reorder: // it needs another bootstrap to have an effect
			err = c.awaitModule(ctx, sum)
		case m.module || m.reorder == "lua":
			err = c.awaitOrder(ctx, bothLeading)
		}
		if err != nil {
			return err
		}
		if err := c.updated(ctx); err != nil {
			return err
		}
		return c.bystanderIsAsBefore(ctx)
	})
}

func (m limitedMethod) uninstalled(ctx context.Context, c *chain) error {
	err := c.underLoad(ctx, func(ctx context.Context) error {
		if err := c.uninstall(ctx); err != nil {
			return err
		}
		if err := c.removeProviders(ctx); err != nil {
			return err
		}
		err := sandbox.Await(ctx, "the client's previous configuration", configLimit, configEvery, func(ctx context.Context) error {
			now, err := proxyConfig(ctx, c.client)
			if err == nil && now != c.limited.clientBefore {
				err = errors.New("it differs: " + firstDifference(c.limited.clientBefore, now))
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := c.updated(ctx); err != nil {
			return err
		}
		return c.bystanderIsAsBefore(ctx)
	})
	return errors.Join(err, c.awaitGone(ctx))
}

func (c *chain) bystanderIsAsBefore(ctx context.Context) error {
	now, err := wholeConfig(ctx, c.limited.bystander)
	if err == nil && now != c.limited.before {
		err = errors.New("the bystander's configuration has changed: " + firstDifference(c.limited.before, now))
	}
	return err
}

//go:embed marker.yaml
var markerManifest []byte

// updated waits until the bystander has all that istiod knows now: it has got a cluster that
// is added here after that, and has lost it again.
func (c *chain) updated(ctx context.Context) error {
	for _, present := range []bool{true, false} {
		change := c.cluster.Apply
		if !present {
			change = c.cluster.Delete
		}
		if err := change(ctx, markerManifest); err != nil {
			return err
		}
		err := sandbox.Await(ctx, "the marker in the bystander", configLimit, configEvery, func(ctx context.Context) error {
			config, err := wholeConfig(ctx, c.limited.bystander)
			if err == nil && strings.Contains(config, "layertrace-test-marker") != present {
				err = fmt.Errorf("want it present: %v", present)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// wholeConfig returns everything that a proxy's Envoy is configured with, bootstrap, endpoints
// and extensions included. What changes with each update of the same content is left out:
// the time and version of the update (last_updated, version_info), and the order of the
// resources, of which Envoy keeps no order.
func wholeConfig(ctx context.Context, pod *cluster.Pod) (string, error) {
	configs, err := dumpConfig(ctx, pod)
	if err != nil {
		return "", err
	}
	for _, config := range configs {
		withoutTimes(config)
		for _, part := range config {
			if list, ok := part.([]any); ok {
				slices.SortFunc(list, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }) // maps print sorted
			}
		}
	}
	out, err := json.MarshalIndent(configs, "", " ")
	return string(out), err
}

func withoutTimes(node any) {
	switch node := node.(type) {
	case []any:
		for _, item := range node {
			withoutTimes(item)
		}
	case map[string]any:
		delete(node, "last_updated")
		delete(node, "version_info")
		for _, value := range node {
			withoutTimes(value)
		}
	}
}
