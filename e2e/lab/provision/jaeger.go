// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"fmt"
	"path/filepath"
)

const jaegerVersion = "1.76.0"

// Jaeger returns the path of a Jaeger v2 binary. When it is not in the cache
// it is built with the module versions of e2e/tools/jaeger in the checkout.
func Jaeger(ctx context.Context, checkout string, progress Progress) (string, error) {
	path, err := cached("jaeger", jaegerVersion, func(dir string) error {
		progress("building Jaeger %s from its Go module (about 5 minutes on 2 cores, once)", jaegerVersion)
		defer progress.while("building Jaeger")()
		return command(ctx, filepath.Join(checkout, "e2e", "tools", "jaeger"), []string{"CGO_ENABLED=0"},
			"go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "jaeger"),
			"github.com/jaegertracing/jaeger/cmd/jaeger")
	})
	if err != nil {
		return "", fmt.Errorf("get Jaeger: %w", err)
	}
	return path, nil
}
