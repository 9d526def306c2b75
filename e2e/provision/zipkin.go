// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

const zipkinVersion = "3.5.1"

// Zipkin returns the path of Zipkin's server with its web UI, a program for
// Java. When it is not in the cache, Maven downloads it.
func Zipkin(ctx context.Context, progress Progress) (string, error) {
	path, err := cached("zipkin", zipkinVersion, func(dir string) error {
		progress("downloading Zipkin %s (125 MB, once)", zipkinVersion)
		defer progress.while("downloading Zipkin")()
		artifact := fmt.Sprintf("io.zipkin:zipkin-server:%s:jar:exec", zipkinVersion)
		err := command(ctx, dir, nil, "mvn", "--quiet", "--batch-mode",
			"dependency:copy", "-Dartifact="+artifact, "-DoutputDirectory="+dir)
		if err != nil {
			return err
		}
		jar := filepath.Join(dir, fmt.Sprintf("zipkin-server-%s-exec.jar", zipkinVersion))
		return os.Rename(jar, filepath.Join(dir, "zipkin"))
	})
	if err != nil {
		return "", fmt.Errorf("get Zipkin (needs Maven and a repository): %w", err)
	}
	return path, nil
}
