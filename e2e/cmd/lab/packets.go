// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/layertrace/layertrace/e2e/provision"
)

// packets builds and runs the benchmark of the BPF programs, which prints its
// results and puts them into file.
func (b *bench) packets(ctx context.Context, file string) error {
	checkout, err := provision.Checkout()
	if err != nil {
		return err
	}
	// A built program, not go run: that would leave it behind when it is ended.
	program := filepath.Join(checkout, "bin", "packet-bench")
	b.progress("measuring packets")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "./bpf/bench")
	build.Dir, build.Env = checkout, append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	measure := exec.CommandContext(ctx, program, "-out", file)
	measure.Stdout, measure.Stderr = os.Stdout, os.Stderr
	for _, cmd := range []*exec.Cmd{build, measure} {
		if err := cmd.Run(); err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("measure packets: run %s: %w", cmd.Path, err))
		}
	}
	return nil
}
