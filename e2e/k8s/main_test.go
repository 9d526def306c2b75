// SPDX-License-Identifier: Apache-2.0

// Package k8s tests what layertrace does with a Kubernetes API server, on a
// real one with Istio's resources. It needs root.
package k8s

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/provision"
)

var clusterName = flag.String("cluster", "test", "tells clusters apart that run at the same time")

// interrupted is done when the tests are, also by Ctrl-C: then the running
// test fails and the cluster is taken down all the same.
var interrupted context.Context

// shared is what all tests use, one after the other.
var shared struct {
	clusterOnce, agentOnce sync.Once
	cluster                *cluster.Cluster
	agent                  string
	clusterErr, agentErr   error
}

func TestMain(m *testing.M) {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	interrupted = ctx
	code := m.Run()
	if shared.cluster != nil {
		if err := shared.cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if left := leftovers(*clusterName); len(left) > 0 {
			fmt.Fprintln(os.Stderr, "the cluster left behind:", left)
			code = 1
		}
	}
	stop()
	os.Exit(code)
}

// leftovers lists the network namespaces and cgroups of a cluster.
func leftovers(name string) (left []string) {
	for _, pattern := range []string{
		"/run/netns/lt-cluster-" + name + "-*",
		"/sys/fs/cgroup/layertrace-cluster-" + name,
		"/sys/fs/cgroup/*/layertrace-cluster-" + name,
	} {
		found, _ := filepath.Glob(pattern) // fails for malformed patterns only
		left = append(left, found...)
	}
	return left
}

// theCluster returns the cluster that all tests share. What a test makes in it,
// the test removes.
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
	tools, err := provision.Kubernetes(interrupted, checkout(t), report)
	if err != nil {
		return nil, err
	}
	return cluster.Start(interrupted, cluster.Options{
		Name: *clusterName, Dir: outDir(t), Tools: tools, Progress: report,
	})
}

// theAgent builds the layertrace program, once, and returns its path.
func theAgent(t *testing.T) string {
	t.Helper()
	needsCluster(t)
	shared.agentOnce.Do(func() {
		// Not into bin, where tests of other packages build theirs meanwhile.
		shared.agent = outDir(t) + "-bin/layertrace"
		build := exec.CommandContext(interrupted, "go", "build", "-trimpath", "-o", shared.agent, "./agent/cmd/layertrace")
		build.Dir, build.Env = checkout(t), append(os.Environ(), "CGO_ENABLED=0")
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
	if testing.Short() {
		t.Skip("the cluster takes minutes to build: not with -short")
	}
	if os.Geteuid() != 0 {
		t.Skip("the cluster makes network namespaces and cgroups: needs root")
	}
}

// outDir is where the cluster keeps its logs.
func outDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(checkout(t), "out", "k8s-"+*clusterName)
}

func checkout(t *testing.T) string {
	t.Helper()
	dir, err := provision.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// report shows progress at once, not only when a test is over.
func report(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s cluster: %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
