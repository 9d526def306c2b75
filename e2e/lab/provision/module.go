// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"fmt"
	"path/filepath"
)

// module is a program that is built from a Go module which is not ours.
type module struct {
	// name is the program's in the cache, version what the cache knows it by.
	name, version string
	// tools is the directory below e2e/tools whose go.mod has the versions.
	tools string
	// pkg is the program's package.
	pkg string
	// tags of the build, may be empty.
	tags string
	// minutes is how long the build takes on 2 cores.
	minutes string
}

// get returns the program's path, after building it if it is not in the cache.
func (m module) get(ctx context.Context, checkout string, progress Progress) (string, error) {
	path, err := cached(m.name, m.version, func(dir string) error {
		progress("building %s %s from its Go module (about %s minutes on 2 cores, once)", m.name, m.version, m.minutes)
		defer progress.while("building " + m.name)()
		return command(ctx, filepath.Join(checkout, "e2e", "tools", m.tools), []string{"CGO_ENABLED=0"},
			"go", "build", "-trimpath", "-tags="+m.tags, "-ldflags=-s -w", "-o", filepath.Join(dir, m.name), m.pkg)
	})
	if err != nil {
		return "", fmt.Errorf("get %s: %w", m.name, err)
	}
	return path, nil
}
