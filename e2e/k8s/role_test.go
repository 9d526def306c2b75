// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"path/filepath"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/layertrace/layertrace/e2e/cluster"
)

// The agent's service account may list and watch pods, and nothing else. (That
// this is enough, testStatus shows, whose agent runs as this account.)
func testAgentRole(t *testing.T, c *cluster.Cluster) {
	uninstallAfter(t, c)
	does(t, c, "install", "--yes", "--reorder=none")
	config, err := c.ServiceAccountKubeconfig(interrupted, agentNamespace, "layertrace-agent", filepath.Join(t.TempDir(), "kubeconfig"), false)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	core, all := client.CoreV1(), meta.ListOptions{}
	awaitNil(t, "the role", func() error {
		_, err := core.Pods("").List(interrupted, all)
		return err
	})
	watch, err := core.Pods("").Watch(interrupted, all)
	if err != nil {
		t.Errorf("watch pods: %v", err)
	} else {
		watch.Stop()
	}
	for what, try := range map[string]func() error{
		"get a pod":              func() error { _, err := core.Pods("default").Get(interrupted, "x", meta.GetOptions{}); return err },
		"delete a pod":           func() error { return core.Pods("default").Delete(interrupted, "x", meta.DeleteOptions{}) },
		"list nodes":             func() error { _, err := core.Nodes().List(interrupted, all); return err },
		"list secrets":           func() error { _, err := core.Secrets("").List(interrupted, all); return err },
		"list its own ConfigMap": func() error { _, err := core.ConfigMaps(agentNamespace).List(interrupted, all); return err },
		"list replica sets":      func() error { _, err := client.AppsV1().ReplicaSets("").List(interrupted, all); return err },
		"list jobs":              func() error { _, err := client.BatchV1().Jobs("").List(interrupted, all); return err },
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want Forbidden", what, err)
		}
	}
}
