// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"fmt"
	"os/exec"
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
