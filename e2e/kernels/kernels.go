// SPDX-License-Identifier: Apache-2.0

// Package kernels boots Debian's kernels in a virtual machine, which QEMU
// emulates, and runs the agent's programs and tests there: what the verifier of
// one kernel takes, that of another may refuse.
package kernels

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// What the first process prints before and behind each command.
const (
	startMark = "=== command "
	endMark   = "=== exit code "
)

// A Result is what a command printed, and the code it ended with.
type Result struct {
	Command string
	Output  string
	Code    string
}

// Run boots the kernel and runs the commands, whose programs are files of this
// machine that need no libraries. QEMU emulates the machine: slower than KVM, but
// the same everywhere. An error comes with the end of what the machine printed.
func (k Kernel) Run(ctx context.Context, programs, commands []string) ([]Result, error) {
	initrd, err := k.initrd(ctx, programs, commands)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(
		ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2560",
		"-kernel", k.image(), "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
		"-nographic", "-no-reboot", "-net", "none",
	)
	cmd.Stdout, cmd.Stderr = &out, &out
	err = errors.Join(cmd.Run(), ctx.Err())
	results := parse(out.String())
	if err == nil && len(results) != len(commands) {
		err = fmt.Errorf("%d of %d commands ended", len(results), len(commands))
	}
	if err != nil {
		end := out.String()
		return results, fmt.Errorf("boot Linux %s: %w\n%s", k.Release, err, end[max(0, len(end)-4000):])
	}
	return results, nil
}

// parse takes the machine's console apart.
func parse(console string) (results []Result) {
	for _, part := range strings.Split(strings.ReplaceAll(console, "\r", ""), startMark)[1:] {
		command, rest, _ := strings.Cut(part, "\n")
		output, rest, ended := strings.Cut(rest, endMark)
		code, _, whole := strings.Cut(rest, "\n")
		if ended && whole {
			results = append(results, Result{command, output, code})
		}
	}
	return results
}

// Tests is how the tests of a binary that ran with -test.v ended.
type Tests struct {
	Passed int
	// Skipped has a reason for each test, and each part of one, that the kernel or
	// the machine lacks something for.
	Skipped map[string]string
	Failed  []string
}

// What is indented ran inside of another test, or in its namespace.
var outcome = regexp.MustCompile(`(?m)^( *)--- (PASS|FAIL|SKIP): (\S+) `)

// reason is what a test says when it skips itself.
var reason = regexp.MustCompile(`\S+_test\.go:\d+: (.*)`)

// ReadTests reads the outcome of a test binary. Output that shows no test, or an
// end that does not fit the tests, is an error.
func ReadTests(r Result) (Tests, error) {
	t := Tests{Skipped: map[string]string{}}
	for _, m := range outcome.FindAllStringSubmatchIndex(r.Output, -1) {
		inside, name := m[2] < m[3], r.Output[m[6]:m[7]]
		switch how := r.Output[m[4]:m[5]]; {
		case how == "SKIP" && (!inside || strings.Contains(name, "/")):
			t.Skipped[name] = whySkipped(r.Output[:m[0]], name)
		case inside: // the test around it tells
		case how == "PASS":
			t.Passed++
		default:
			t.Failed = append(t.Failed, name)
		}
	}
	if t.Passed == 0 || (r.Code == "0") != (len(t.Failed) == 0) {
		return t, fmt.Errorf("%s ended with code %s, %d tests passed, %d failed", r.Command, r.Code, t.Passed, len(t.Failed))
	}
	return t, nil
}

// whySkipped is what a test said, as it ran last in the output before its end.
func whySkipped(output, name string) string {
	if i := strings.LastIndex(output, "=== RUN   "+name+"\n"); i >= 0 {
		if said := reason.FindStringSubmatch(output[i:]); said != nil {
			return said[1]
		}
	}
	return "it does not say why"
}
