// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed init.sh
var initScript string

// modulesNeeded are the parts of a kernel's modules that networks of tests use.
var modulesNeeded = []string{"net", "lib", "crypto", "drivers/net/veth.ko", "drivers/net/tun.ko", "drivers/net/dummy.ko"}

// initrd packs an initial root file system: busybox, the kernel's modules for
// networks, the programs, and a first process that runs the commands and says how
// each ended.
func (k Kernel) initrd(ctx context.Context, programs []string, commands []string) (string, error) {
	root := filepath.Join(k.dir, "root")
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp", "run", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", fmt.Errorf("make a root file system: %w", err)
		}
	}
	var script strings.Builder
	script.WriteString(initScript)
	for _, command := range commands {
		fmt.Fprintf(&script, "echo '%s%s'; %s; echo %s$?\n", startMark, command, command, endMark)
	}
	script.WriteString("poweroff -f\n")
	if err := os.WriteFile(filepath.Join(root, "init"), []byte(script.String()), 0o755); err != nil {
		return "", fmt.Errorf("write the first process: %w", err)
	}
	steps := [][]string{append([]string{"cp", "/bin/busybox"}, append(programs, filepath.Join(root, "bin"))...)}
	to := filepath.Join(root, "lib", "modules", k.Release)
	for _, part := range modulesNeeded {
		from := filepath.Join(k.modules(), "kernel", part)
		if matches, err := filepath.Glob(from + "*"); err != nil || len(matches) == 0 {
			return "", fmt.Errorf("kernel %s has no modules %s", k.Release, part)
		}
		into := filepath.Join(to, "kernel", filepath.Dir(part))
		steps = append(steps, []string{"mkdir", "-p", into}, []string{"sh", "-c", `cp -r "$0"* "$1"`, from, into})
	}
	steps = append(
		steps,
		[]string{"sh", "-c", `cp "$0"/modules.* "$1"; find "$1" -name '*.xz' -exec xz -d {} +`, k.modules(), to},
		[]string{"busybox", "depmod", "-b", root, k.Release},
		[]string{"sh", "-c", `cd "$0" && find . | cpio -o -H newc --quiet | gzip -1 > ../initrd`, root},
	)
	for _, step := range steps {
		if _, err := run(ctx, k.dir, step[0], step[1:]...); err != nil {
			return "", err
		}
	}
	return filepath.Join(k.dir, "initrd"), nil
}
