// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// validates lets istioctl look at what install would apply. It tells of an
// unknown field inside a typed_config in a warning only.
func (w way) validates(ctx context.Context, r *rollout) error {
	manifest, err := r.layertrace(ctx, append(w.args(r, "first"), "--dry-run")...)
	if err != nil {
		return err
	}
	dir, err := r.cluster.Dir("manifests")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, w.reorder+".yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		return err
	}
	return errors.Join(
		r.istioctl(ctx, "validate", "-f", file),
		// IST0133 warns of every EnvoyFilter, that it is close to Envoy.
		r.istioctl(ctx, "analyze", "--use-kube=false", "--all-namespaces", "--failure-threshold=Warning",
			"--suppress=IST0133=EnvoyFilter istio-system/layertrace", file))
}

// istioctl runs Istio's own tool; it fails also when that finds an unknown
// field.
func (r *rollout) istioctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, r.options.Tools.Mesh.Istioctl, args...).CombinedOutput()
	if err == nil && strings.Contains(string(out), "unknown field") {
		err = errors.New("it warns of an unknown field")
	}
	if err != nil {
		return fmt.Errorf("istioctl %v: %w\n%s", args, err, out)
	}
	return nil
}
