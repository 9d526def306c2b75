// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
	manifests "github.com/layertrace/layertrace/istio"
)

// The upgrade from the version before to this one, and back, with everything that a version
// consists of: its program, manifests and Wasm module, and the agents' image, which the
// kubelet runs. All of it under load.

// version is one of the two.
type version struct {
	// name is also the tag of the agents' image.
	name string
	// layertrace is the program, and wasm the module.
	layertrace, wasm string
}

func (v *version) image() string  { return manifests.AgentRepository + ":" + v.name }
func (v *version) module() string { return v.name + ".wasm" }

const upgradedIP = "10.77.0.14"

// nodeImage is the image of the agents if nothing else is chosen.
const nodeImage = manifests.AgentRepository + ":" + manifests.Version

func upgradeSteps() []step {
	return []step{
		{"upgrade: a sidecar", true, func(ctx context.Context, c *chain) (err error) {
			c.client, err = c.mesh.AddPod(ctx, cluster.PodSpec{Name: "upgraded", IP: upgradedIP, Sidecar: true})
			return err
		}},
		{"upgrade: the version before installed under load", true, func(ctx context.Context, c *chain) error {
			return c.upgrade(ctx, c.before, c.before)
		}},
		{"upgrade: to this version under load, agents rolled", false, func(ctx context.Context, c *chain) error {
			return c.upgrade(ctx, c.this(), c.this())
		}},
		{"upgrade: agents of the version before, with this version's filter and manifests", false, func(ctx context.Context, c *chain) error {
			return c.upgrade(ctx, c.this(), c.before)
		}},
		{"upgrade: this version's agents, with filter and manifests of the version before", false, func(ctx context.Context, c *chain) error {
			return c.upgrade(ctx, c.before, c.this())
		}},
		{"upgrade: back to the version before under load, agents rolled", false, func(ctx context.Context, c *chain) error {
			return c.upgrade(ctx, c.before, c.before)
		}},
		{"upgrade: this version uninstalls the version before under load, stock order again", false, uninstallsBefore},
		{"upgrade: a setting changed by an overlay of kustomize rolls the agents", false, overlayRolls},
	}
}

func (c *chain) this() *version {
	return &version{name: manifests.Version, layertrace: c.options.Tools.Layertrace, wasm: c.options.Tools.Wasm}
}

// beforeRevision is the version before as long as there is no release: a commit with another
// build of the Wasm module.
const beforeRevision = "dd6d917"

// revisionBefore returns the revision to upgrade from: the latest tag, or beforeRevision. It is
// "" in a clone that has neither, and outside of one. Then it is another build of the same
// version, which at least is rolled out and back; manifests kept as test data would not have the
// agents and the module of their time.
func revisionBefore(ctx context.Context, checkout string) string {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", checkout}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	if tag, err := git("describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^"); err == nil {
		return tag
	}
	if _, err := git("merge-base", "--is-ancestor", beforeRevision, "HEAD"); err == nil {
		return beforeRevision
	}
	return ""
}

// buildBefore builds the version before from its revision.
func buildBefore(ctx context.Context, c *chain) error {
	checkout, err := provision.Checkout()
	if err != nil {
		return err
	}
	dir, err := c.cluster.Dir("before")
	if err != nil {
		return err
	}
	source := checkout
	if revision := cmp.Or(c.options.Before, revisionBefore(ctx, checkout)); revision != "" {
		source = filepath.Join(dir, "source")
		if err := unpack(ctx, checkout, revision, source); err != nil {
			return err
		}
		c.options.Progress("  the version before is revision %s", revision)
	} else {
		c.options.Progress("  the version before is another build of this one: the checkout has no other")
	}
	c.before = &version{name: "before", layertrace: filepath.Join(dir, "layertrace"), wasm: filepath.Join(dir, "layertrace.wasm")}
	return errors.Join(
		provision.RunGo(ctx, source, c.options.Progress, "build", "-trimpath", "-buildvcs=false", "-o", c.before.layertrace, "./agent/cmd/layertrace"),
		provision.RunGo(ctx, source, c.options.Progress, "run", "./wasm-filter/build", "-o", c.before.wasm))
}

// unpack puts the files of a revision into a new directory: not a worktree, which git would have
// to forget again.
func unpack(ctx context.Context, checkout, revision, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const script = `git -C "$1" archive "$2" | tar -x -C "$3"`
	if out, err := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script, "bash", checkout, revision, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("get revision %s: %w\n%s", revision, err, out)
	}
	return nil
}

// upgrade installs the manifests and the filter of one version, with the agents of one, while
// requests pass. It waits until the proxy runs the module and the node runs the agent.
func (c *chain) upgrade(ctx context.Context, installed, agents *version) error {
	sum, err := c.putModule(installed.module(), installed.wasm)
	if err != nil {
		return err
	}
	return c.underLoad(ctx, func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, installed.layertrace, "install", "--yes", "--kubeconfig="+c.cluster.Kubeconfig,
			"--reorder=wasmplugin", "--wasm-url="+c.modules.URL(installed.module()), "--image="+agents.image(), "--mtls=on",
			fmt.Sprintf("--otlp-endpoint=%s:%d", cluster.BridgeIP, lab.JaegerOTLPPort)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("install the version %s: %w\n%s", installed.name, err, out)
		}
		if err := c.awaitRolled(ctx, agents.image()); err != nil {
			return err
		}
		if err := c.awaitOrder(ctx, bothLeading); err != nil {
			return err
		}
		if err := c.awaitModule(ctx, sum); err != nil {
			return err
		}
		return errors.Join(acceptsConfig(ctx, c.client), c.orderHolds(ctx, bothLeading), c.isGood(ctx, installed))
	})
}

// isGood checks that layertrace status, of the version that is installed, finds no fault: its
// agent is ready, and no problem is one of versions that do not fit.
func (c *chain) isGood(ctx context.Context, installed *version) error {
	// Its exit code is also about what nobody sends here, such as requests to the node's pods.
	out, _ := exec.CommandContext(ctx, installed.layertrace, "status", "--json", "--kubeconfig="+c.cluster.Kubeconfig).Output()
	var s struct {
		Installed bool   `json:"installed"`
		Reorder   string `json:"reorder"`
		Agents    []struct {
			Node  string `json:"node"`
			Ready bool   `json:"ready"`
		} `json:"agents"`
		Problems []string `json:"problems"`
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return fmt.Errorf("read the status: %w\n%s", err, out)
	}
	ready := false
	for _, agent := range s.Agents {
		ready = ready || agent.Node == worker && agent.Ready
	}
	if !s.Installed || s.Reorder != "wasmplugin" || !ready {
		return fmt.Errorf("status is %s", out)
	}
	for _, problem := range s.Problems {
		if strings.Contains(problem, "install of the version") || strings.Contains(problem, "setting") {
			return fmt.Errorf("status has the problem %q", problem)
		}
	}
	return nil
}

// awaitRolled waits until the node runs the agent of the DaemonSet's present template, with an
// image, and no other.
func (c *chain) awaitRolled(ctx context.Context, image string) error {
	set, err := c.cluster.Client.AppsV1().DaemonSets(agentNamespace).Get(ctx, "layertrace-agent", meta.GetOptions{})
	if err != nil {
		return err
	}
	if got := set.Spec.Template.Spec.Containers[0].Image; got != image {
		return fmt.Errorf("the DaemonSet has the image %s, want %s", got, image)
	}
	generation := set.Annotations[apps.DeprecatedTemplateGeneration]
	err = c.awaitPod(ctx, agentNamespace, func(pod *core.Pod) bool {
		return boundTo(pod) == worker && pod.DeletionTimestamp == nil && pod.Labels["pod-template-generation"] == generation
	})
	if err != nil {
		return err
	}
	return sandbox.Await(ctx, "the end of the agent before", configLimit, configEvery, func(ctx context.Context) error {
		pods, err := c.cluster.Client.CoreV1().Pods(agentNamespace).List(ctx, meta.ListOptions{})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if boundTo(&pod) == worker && pod.Labels["pod-template-generation"] != generation {
				return fmt.Errorf("%s is still there", pod.Name)
			}
		}
		return nil
	})
}

func uninstallsBefore(ctx context.Context, c *chain) error {
	err := c.underLoad(ctx, func(ctx context.Context) error {
		return errors.Join(c.uninstall(ctx), c.awaitOrder(ctx, stock))
	})
	return errors.Join(err, c.awaitGone(ctx))
}

// overlayRolls applies the manifests with kustomize, and again with an overlay that changes one
// setting of the agents.
func overlayRolls(ctx context.Context, c *chain) error {
	dir, err := c.cluster.Dir("overlay")
	if err != nil {
		return err
	}
	checkout, err := provision.Checkout()
	if err != nil {
		return err
	}
	base, err := filepath.Rel(dir, filepath.Join(checkout, "istio", "agent"))
	if err != nil {
		return err
	}
	apply := func(setting string) (string, error) {
		text := fmt.Sprintf(`
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
configMapGenerator:
- {name: layertrace-agent, namespace: %s, behavior: merge, literals: ["config.yaml=%s"]}
`, base, agentNamespace, setting)
		if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644); err != nil {
			return "", err
		}
		objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
		if err != nil {
			return "", fmt.Errorf("build the overlay: %w", err)
		}
		manifest, err := objects.AsYaml()
		if err != nil {
			return "", err
		}
		if err := c.cluster.ApplyAs(ctx, "kubectl", manifest); err != nil {
			return string(manifest), err
		}
		return string(manifest), c.awaitRolled(ctx, nodeImage)
	}
	agent := func() (string, error) {
		pods, err := c.cluster.Client.CoreV1().Pods(agentNamespace).List(ctx, meta.ListOptions{})
		if err != nil {
			return "", err
		}
		for _, pod := range pods.Items {
			if boundTo(&pod) == worker {
				return string(pod.UID), nil
			}
		}
		return "", errors.New("the node has no agent")
	}
	if _, err := apply("export: none"); err != nil {
		return err
	}
	before, err := agent()
	if err != nil {
		return err
	}
	manifest, err := apply("{export: none, queue-size: 4096}")
	if err != nil {
		return err
	}
	if after, err := agent(); err != nil || after == before {
		return fmt.Errorf("the agent is the same after its settings have changed: %w", err)
	}
	return errors.Join(c.cluster.Delete(ctx, []byte(manifest)), c.awaitGone(ctx))
}
