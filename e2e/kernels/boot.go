// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

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
