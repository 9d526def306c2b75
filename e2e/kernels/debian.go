// SPDX-License-Identifier: Apache-2.0

// Package kernels boots Debian's kernels in a virtual machine, which QEMU
// emulates, and runs the agent's programs and tests there: what the verifier of
// one kernel takes, that of another may refuse.
package kernels

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Kernel is an unpacked package of Debian.
type Kernel struct {
	// Release is what uname -r says there.
	Release string
	dir     string
}

// Fetch downloads the newest kernel that a package of Debian stands for, such as
// linux-image-cloud-amd64, and unpacks it below dir. What apt knows may be of
// yesterday: where the package cannot be had, it asks anew once.
func Fetch(ctx context.Context, meta, dir string) (Kernel, error) {
	k, err := fetch(ctx, meta, dir)
	if err == nil {
		return k, nil
	}
	if _, e := run(ctx, dir, "apt-get", "update", "-qq"); e != nil {
		return Kernel{}, errors.Join(err, e)
	}
	return fetch(ctx, meta, dir)
}

func fetch(ctx context.Context, meta, dir string) (Kernel, error) {
	out, err := run(ctx, dir, "apt-cache", "depends", "--important", meta)
	if err != nil {
		return Kernel{}, err
	}
	_, name, found := strings.Cut(string(out), "Depends: ")
	name, _, _ = strings.Cut(strings.TrimSpace(name), "\n")
	if !found || !strings.HasPrefix(name, "linux-image-") {
		name = meta // it is the kernel's own package
	}
	unpacked := filepath.Join(dir, name)
	if err := os.MkdirAll(unpacked, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("make a folder for the kernel: %w", err)
	}
	if _, err := run(ctx, unpacked, "apt-get", "download", "-qq", name); err != nil {
		return Kernel{}, err
	}
	packages, err := filepath.Glob(filepath.Join(unpacked, "*.deb"))
	if err != nil || len(packages) != 1 {
		return Kernel{}, fmt.Errorf("download %s: %d packages came: %w", name, len(packages), err)
	}
	if _, err := run(ctx, unpacked, "dpkg-deb", "-x", packages[0], "."); err != nil {
		return Kernel{}, err
	}
	return Kernel{Release: strings.TrimPrefix(name, "linux-image-"), dir: unpacked}, nil
}

func (k Kernel) image() string   { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.Release) }
func (k Kernel) modules() string { return filepath.Join(k.dir, "lib", "modules", k.Release) }

// run returns what a program prints; with an error comes what it complained of.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w\n%s", strings.Join(cmd.Args, " "), err, complaint.Bytes())
	}
	return out, nil
}
