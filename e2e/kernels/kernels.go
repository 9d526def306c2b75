// SPDX-License-Identifier: Apache-2.0

// Package kernels boots Debian's kernels in machines that QEMU emulates, and runs the
// agent's programs and tests there: the verifier of one kernel may reject what that
// of another accepts.
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

// Kernel is an unpacked Debian package.
type Kernel struct {
	// Release is the output of `uname -r`.
	Release string
	dir     string
}

// Fetch downloads the kernel that a Debian package, such as linux-image-cloud-amd64,
// depends on, and unpacks it in dir. apt's package lists may be out of date: when the
// download fails, Fetch updates them and tries once more.
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
		name = meta // the kernel's own package
	}
	unpacked := filepath.Join(dir, name)
	if err := os.MkdirAll(unpacked, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("create a directory for the kernel: %w", err)
	}
	if _, err := run(ctx, unpacked, "apt-get", "download", "-qq", name); err != nil {
		return Kernel{}, err
	}
	packages, err := filepath.Glob(filepath.Join(unpacked, "*.deb"))
	if err != nil || len(packages) != 1 {
		return Kernel{}, fmt.Errorf("download %s: got %d packages: %w", name, len(packages), err)
	}
	if _, err := run(ctx, unpacked, "dpkg-deb", "-x", packages[0], "."); err != nil {
		return Kernel{}, err
	}
	return Kernel{Release: strings.TrimPrefix(name, "linux-image-"), dir: unpacked}, nil
}

func (k Kernel) image() string   { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.Release) }
func (k Kernel) modules() string { return filepath.Join(k.dir, "lib", "modules", k.Release) }

// run runs a program and returns its standard output. An error has its standard
// error.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return out, nil
}

//go:embed init.sh
var initScript string

// modulesNeeded are the kernel modules, or directories of them, that the tests use.
var modulesNeeded = []string{"net", "lib", "crypto", "drivers/net/veth.ko", "drivers/net/tun.ko", "drivers/net/dummy.ko", "drivers/net/vxlan", "drivers/net/geneve.ko"}

// initrd packs an initial root file system: busybox, the kernel's network modules,
// the programs, and an init script that runs the commands and prints their exit
// codes.
func (k Kernel) initrd(ctx context.Context, programs []string, commands []string) (string, error) {
	root := filepath.Join(k.dir, "root")
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp", "run", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", fmt.Errorf("create a root file system: %w", err)
		}
	}
	var script strings.Builder
	script.WriteString(initScript)
	for _, command := range commands {
		fmt.Fprintf(&script, "echo '%s%s'; %s; echo %s$?\n", startMark, command, command, endMark)
	}
	script.WriteString("poweroff -f\n")
	if err := os.WriteFile(filepath.Join(root, "init"), []byte(script.String()), 0o755); err != nil {
		return "", fmt.Errorf("write the init script: %w", err)
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

// The init script prints these before and after each command.
const (
	startMark = "=== command "
	endMark   = "=== exit code "
)

// Result is the output and exit code of a command.
type Result struct {
	Command string
	Output  string
	Code    string
}

// parameters of the kernel (Documentation/admin-guide/kernel-parameters.txt): the
// emulated machine takes a tenth less without clearing memory that it allocates, without
// a fifth level of page tables, and with the processor's clock instead of a device's.
const parameters = "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 no5lvl tsc=reliable"

// Run boots the kernel and runs the commands. Their programs are static files of this
// machine. QEMU emulates the machine, which is slower than KVM but works everywhere.
// An error has the end of the console's output.
func (k Kernel) Run(ctx context.Context, programs, commands []string) ([]Result, error) {
	initrd, err := k.initrd(ctx, programs, commands)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(
		ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2560",
		"-kernel", k.image(), "-initrd", initrd, "-append", parameters,
		"-nographic", "-no-reboot", "-net", "none",
	)
	cmd.Stdout, cmd.Stderr = &out, &out
	err = errors.Join(cmd.Run(), ctx.Err())
	results := parse(out.String())
	if err == nil && len(results) != len(commands) {
		err = fmt.Errorf("only %d of %d commands ended", len(results), len(commands))
	}
	if err != nil {
		end := out.String()
		return results, fmt.Errorf("boot Linux %s: %w\n%s", k.Release, err, end[max(0, len(end)-4000):])
	}
	return results, nil
}

// parse splits the output of the console into results.
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

// Tests are the outcomes of a test binary that ran with -test.v.
type Tests struct {
	Passed int
	// Skipped has the reason of each skipped test and subtest.
	Skipped map[string]string
	Failed  []string
	// Messages are the first messages of each failed test, a line each.
	Messages []string
}

// maxMessages is how many messages of a failed test are kept.
const maxMessages = 10

// An indented outcome is of a subtest, or of a test run by another test.
var outcome = regexp.MustCompile(`(?m)^( *)--- (PASS|FAIL|SKIP): (\S+) `)

// reason is the message of a test that skips itself.
var reason = regexp.MustCompile(`\S+_test\.go:\d+: (.*)`)

// message is a line that a test logs.
var message = regexp.MustCompile(`\S+_test\.go:\d+: .*`)

// ReadTests reads the outcomes of a test binary. Output without tests, or an exit
// code that does not match them, is an error.
func ReadTests(r Result) (Tests, error) {
	t := Tests{Skipped: map[string]string{}}
	for _, m := range outcome.FindAllStringSubmatchIndex(r.Output, -1) {
		inside, name := m[2] < m[3], r.Output[m[6]:m[7]]
		switch how := r.Output[m[4]:m[5]]; {
		case how == "SKIP" && (!inside || strings.Contains(name, "/")):
			t.Skipped[name] = whySkipped(r.Output[:m[0]], name)
		case inside: // the outer test counts
		case how == "PASS":
			t.Passed++
		default:
			t.Failed = append(t.Failed, name)
			t.Messages = append(t.Messages, messages(r.Output[:m[0]], name)...)
		}
	}
	if t.Passed == 0 || (r.Code == "0") != (len(t.Failed) == 0) {
		return t, fmt.Errorf("%s ended with code %s, %d tests passed, %d failed", r.Command, r.Code, t.Passed, len(t.Failed))
	}
	return t, nil
}

// messages returns the first messages of a test that ends with the output.
func messages(output, name string) []string {
	if i := strings.LastIndex(output, "=== RUN   "+name+"\n"); i >= 0 {
		output = output[i:]
	}
	return message.FindAllString(output, maxMessages)
}

// whySkipped returns the first message of a skipped test, or of its last run if it runs
// itself again.
func whySkipped(output, name string) string {
	if i := strings.LastIndex(output, "=== RUN   "+name+"\n"); i >= 0 {
		if said := reason.FindStringSubmatch(output[i:]); said != nil {
			return said[1]
		}
	}
	return "no reason given"
}
