// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// IstioCRDs returns the path of Istio's custom resource definitions, a file of
// the module istio.io/api in the version of e2e/tools/istio.
func IstioCRDs(ctx context.Context, checkout string) (string, error) {
	dir, err := moduleDir(ctx, checkout, "istio", "istio.io/api")
	if err != nil {
		return "", fmt.Errorf("get Istio's CRDs: %w", err)
	}
	return filepath.Join(dir, "kubernetes", "customresourcedefinitions.gen.yaml"), nil
}

// moduleDir returns where a module's files are, in the version that the go.mod
// of e2e/tools/TOOLS names; Go downloads them when they are not there.
func moduleDir(ctx context.Context, checkout, tools, path string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", path)
	cmd.Dir = filepath.Join(checkout, "e2e", "tools", tools)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("download module %s: %w\n%s", path, err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", fmt.Errorf("download module %s: %w", path, err)
	}
	return module.Dir, nil
}
