// SPDX-License-Identifier: Apache-2.0

// Package k8s tests layertrace with a real Kubernetes API server and Istio's
// resources: install, uninstall, status, and identities from the API. It needs root.
package k8s

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/e2e/testrun"
)

var clusterName = flag.String("cluster", "test", "name of the cluster, to run several at once")

var interrupted context.Context // ends on Ctrl-C

// shared is what all tests use, one after the other.
var shared struct {
	clusterOnce, agentOnce sync.Once
	cluster                *cluster.Cluster
	agent                  string
	clusterErr, agentErr   error
}

func TestMain(m *testing.M) {
	testrun.Main(m, &interrupted, func() error {
		if shared.cluster == nil {
			return nil
		}
		err := shared.cluster.Close()
		if left := leftovers(*clusterName); len(left) > 0 {
			err = errors.Join(err, fmt.Errorf("leftovers of the cluster: %v", left))
		}
		return err
	})
}

// leftovers lists the network namespaces and cgroups of a cluster.
func leftovers(name string) (left []string) {
	for _, pattern := range []string{
		"/run/netns/lt-cluster-" + name + "-*",
		"/sys/fs/cgroup/layertrace-cluster-" + name,
		"/sys/fs/cgroup/*/layertrace-cluster-" + name,
	} {
		found, _ := filepath.Glob(pattern) // fails only for malformed patterns
		left = append(left, found...)
	}
	return left
}

// theCluster returns the cluster that all tests share. A test removes what it creates
// in it.
func theCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	needsCluster(t)
	shared.clusterOnce.Do(func() { shared.cluster, shared.clusterErr = startCluster(t) })
	if shared.clusterErr != nil {
		t.Fatal(shared.clusterErr)
	}
	return shared.cluster
}

func startCluster(t *testing.T) (*cluster.Cluster, error) {
	tools, err := provision.Kubernetes(interrupted, testrun.Checkout(t), testrun.Report)
	if err != nil {
		return nil, err
	}
	return cluster.Start(interrupted, cluster.Options{
		Name: *clusterName, Dir: outDir(t), Tools: tools, Progress: testrun.Report,
	})
}

// theAgent builds the layertrace program, once, and returns its path.
func theAgent(t *testing.T) string {
	t.Helper()
	needsCluster(t)
	shared.agentOnce.Do(func() {
		// Not into bin, where tests of other packages build it at the same time.
		shared.agent = outDir(t) + "-bin/layertrace"
		build := exec.CommandContext(interrupted, "go", "build", "-trimpath", "-o", shared.agent, "./agent/cmd/layertrace")
		build.Dir, build.Env = testrun.Checkout(t), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			shared.agentErr = fmt.Errorf("build layertrace: %w\n%s", err, out)
		}
	})
	if shared.agentErr != nil {
		t.Fatal(shared.agentErr)
	}
	return shared.agent
}

func needsCluster(t *testing.T) {
	t.Helper()
	testrun.Needs(t, "the cluster")
}

// outDir returns the directory of the cluster's logs.
func outDir(t *testing.T) string {
	t.Helper()
	return testrun.Out(t, "k8s-"+*clusterName)
}

// limit is how long a condition may take to become true on a slow machine.
const limit = 2 * time.Minute

// awaitNil calls ready until it returns nil.
func awaitNil(t *testing.T, what string, ready func() error) {
	t.Helper()
	err := sandbox.Await(interrupted, what, limit, 50*time.Millisecond, func(context.Context) error { return ready() })
	if err != nil {
		t.Fatal(err)
	}
}

// makeNamespace creates a namespace with its default service account. The end of the
// test deletes it with everything in it.
func makeNamespace(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	namespace := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}
	if _, err := c.Client.CoreV1().Namespaces().Create(interrupted, namespace, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteNamespace(t, c, name) })
	if err := c.AwaitServiceAccount(interrupted, name); err != nil {
		t.Fatal(err)
	}
}

// deleteNamespace deletes a namespace and waits until it is gone.
func deleteNamespace(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	awaitNil(t, "the end of namespace "+name, func() error {
		err := c.Client.CoreV1().Namespaces().Delete(interrupted, name, meta.DeleteOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil, apierrors.IsConflict(err):
			return errors.New("still exists")
		}
		return err
	})
}
