// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/provision"
)

// A cluster that does not come up leaves nothing behind, and says what was
// wrong: be it that a program fails, or that the user interrupts.
func TestFailedStartLeavesNothing(t *testing.T) {
	needsCluster(t)
	tools, err := provision.Kubernetes(interrupted, checkout(t), report)
	if err != nil {
		t.Fatal(err)
	}
	broken := tools
	broken.APIServer = "/bin/false"
	ended, end := context.WithCancel(interrupted)
	defer end()
	for name, attempt := range map[string]struct {
		ctx      context.Context
		tools    cluster.Tools
		progress string
		want     func(error) bool
	}{
		"program fails": {interrupted, broken, "", func(err error) bool { return strings.Contains(err.Error(), "kube-apiserver ended early") }},
		"interrupt":     {ended, tools, "starting etcd", func(err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := cluster.Start(attempt.ctx, cluster.Options{
				Name: *clusterName + "f", Dir: filepath.Join(t.TempDir(), "cluster"), Tools: attempt.tools,
				Progress: func(format string, _ ...any) {
					if attempt.progress != "" && strings.HasPrefix(format, attempt.progress) {
						end()
					}
				},
			})
			if err == nil {
				t.Error(errors.Join(errors.New("the cluster came up"), c.Close()))
			} else if !attempt.want(err) {
				t.Error(err)
			}
			if left := leftovers(*clusterName + "f"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
