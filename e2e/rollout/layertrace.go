// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// layertrace runs the program against the cluster; what it prints is part of
// the error and the result.
func (r *rollout) layertrace(ctx context.Context, args ...string) (string, error) {
	args = append(args, "--kubeconfig="+r.cluster.Kubeconfig)
	out, err := exec.CommandContext(ctx, r.options.Tools.Layertrace, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("layertrace %v: %w\n%s", args, err, out)
	}
	return string(out), err
}

func (r *rollout) uninstall(ctx context.Context) error {
	_, err := r.layertrace(ctx, "uninstall", "--yes")
	return err
}

// awaitGone returns when the agents' namespace has gone: while it goes nothing
// can be installed into it.
func (r *rollout) awaitGone(ctx context.Context) error {
	const namespace = "layertrace-system"
	return sandbox.Await(ctx, "end of namespace "+namespace, limit, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := r.cluster.Client.CoreV1().Namespaces().Get(ctx, namespace, meta.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}
