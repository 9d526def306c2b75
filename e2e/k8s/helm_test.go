// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/testrun"
)

// releases is the namespace of Helm's records.
const releases = "helm-releases"

// helm runs Helm against the cluster, as its admin; it must succeed.
func helm(t *testing.T, c *cluster.Cluster, args ...string) {
	t.Helper()
	program, err := provision.Helm(interrupted, testrun.Checkout(t), testrun.Report)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir() // not the user's repositories and plugins
	cmd := exec.CommandContext(interrupted, program, append(args, "--namespace", releases, "--kubeconfig", c.Kubeconfig)...)
	cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("helm %v: %v\n%s", args, err, out)
	}
}

// contentOf returns layertrace's objects as the API server has them, by kind and name,
// without what differs between two installations, and without the tool's name.
func contentOf(t *testing.T, c *cluster.Cluster) map[string]string {
	t.Helper()
	content := map[string]string{}
	for _, r := range installed {
		list, err := c.Dynamic.Resource(r).List(interrupted, meta.ListOptions{LabelSelector: "app.kubernetes.io/name=layertrace"})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			name, labels := o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName(), o.GetLabels()
			delete(labels, "app.kubernetes.io/managed-by")
			o.Object["metadata"] = labels
			delete(o.Object, "status")
			text, err := json.Marshal(o.Object)
			if err != nil {
				t.Fatal(err)
			}
			content[name] = string(text)
		}
	}
	return content
}

// settingsOf returns the name of the ConfigMap that the agents' pods have, which exists.
func settingsOf(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	ds, err := c.Client.AppsV1().DaemonSets(agentNamespace).Get(interrupted, "layertrace-agent", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name := ds.Spec.Template.Spec.Volumes[0].ConfigMap.Name
	if _, err := c.Client.CoreV1().ConfigMaps(agentNamespace).Get(interrupted, name, meta.GetOptions{}); err != nil {
		t.Error(err)
	}
	return name
}

// Helm creates the same objects as layertrace install, a changed setting rolls the agents
// out and back, and nothing is left. layertrace leaves the objects of a release alone.
func testHelm(t *testing.T, c *cluster.Cluster) {
	before := all(t, c)
	uninstallAfter(t, c)
	does(t, c, "install", "--yes", "--reorder=lua", "--mtls=off", "--spans=layers", "--tracing-provider=otel-tracing")
	want := contentOf(t, c)
	does(t, c, "uninstall", "--yes")

	t.Cleanup(func() { deleteNamespace(t, c, releases) })
	helm(t, c, "install", "layertrace", filepath.Join(testrun.Checkout(t), "istio"), "--create-namespace", "--set", "namespace="+agentNamespace,
		"--set", "reorder.method=lua", "--set", "mtls.enabled=false", "--set", "spans=layers", "--set", "tracing.provider=otel-tracing")
	if diff := cmp.Diff(want, contentOf(t, c)); diff != "" {
		t.Errorf("install - Helm +\n%s", diff)
	}
	out, _ := layertrace(t, c, "status") // no agent is ready
	expect(t, out, "reorder           lua")
	out, failed := layertrace(t, c, "install", "--yes", "--reorder=lua")
	if !failed {
		t.Error("install changes objects of a release")
	}
	expect(t, out, "belongs to a Helm release", "nothing was changed")
	expect(t, does(t, c, "uninstall", "--yes"), "Nothing to remove")

	first := settingsOf(t, c)
	helm(t, c, "upgrade", "layertrace", filepath.Join(testrun.Checkout(t), "istio"), "--reuse-values", "--set", "settings.queue-size=4096")
	if settingsOf(t, c) == first {
		t.Error("a changed setting does not change the DaemonSet")
	}
	helm(t, c, "rollback", "layertrace", "1")
	if now := settingsOf(t, c); now != first {
		t.Errorf("rolled back, the agents have %s, before %s", now, first)
	}
	helm(t, c, "uninstall", "layertrace")
	deleteNamespace(t, c, agentNamespace) // it is deleted, but not yet gone
	deleteNamespace(t, c, releases)
	if after := all(t, c); !slices.Equal(before, after) {
		t.Errorf("before\n%v\nafter\n%v", before, after)
	}
}
