// SPDX-License-Identifier: Apache-2.0

// Package gobuild compiles programs so that the same source gives the same bytes on each
// machine and in each folder.
package gobuild

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// Toolchain compiles the programs. If another one is installed, Go downloads this one.
const Toolchain = "go1.26.8"

// Program is a program to compile.
type Program struct {
	// Package is its main package, Out the file to write.
	Package, Out string
	// OS and Arch are those of Go (GOOS, GOARCH).
	OS, Arch string
	// Flags are more flags of go build.
	Flags []string
	// Variables are string variables that the linker sets (-X), by PACKAGE.NAME. A value has
	// no spaces.
	Variables map[string]string
}

// Build compiles a program of the module in a directory, "" for the current one.
func Build(ctx context.Context, dir string, p Program) error {
	environment := Environment(p.OS, p.Arch)
	if err := noExperiment(ctx, dir, environment); err != nil {
		return err
	}
	link := "-s -w -buildid="
	for _, name := range slices.Sorted(maps.Keys(p.Variables)) {
		link += " -X " + name + "=" + p.Variables[name]
	}
	args := append([]string{"build", "-trimpath", "-buildvcs=false"}, p.Flags...)
	_, err := goCommand(ctx, dir, environment, append(args, "-ldflags="+link, "-o", p.Out, p.Package)...)
	return err
}

// Environment returns the environment of a go command for a platform, without what a user may
// have set, in the environment or by go env -w, and what would change the result. The values
// are not empty where go env -w has a say: for an empty one the go command takes the user's.
// GOEXPERIMENT has no such value, so Build refuses the user's. The user's proxy and
// checksum database stay.
func Environment(goos, goarch string) []string {
	return append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0", "GOTOOLCHAIN="+Toolchain,
		"GOFLAGS=-trimpath", "GOWORK=off", "GOEXPERIMENT=", "GODEBUG=", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off",
		"GOWASM=satconv,signext") // what each WebAssembly module has since Go 1.26
}

// noExperiment refuses experiments of the user's go env -w.
func noExperiment(ctx context.Context, dir string, environment []string) error {
	found, err := goCommand(ctx, dir, environment, "env", "GOEXPERIMENT")
	if err != nil {
		return err
	}
	if names := strings.TrimSpace(found); names != "" {
		return fmt.Errorf("the experiment %s of your Go would change the program: go env -u GOEXPERIMENT", names)
	}
	return nil
}

// goCommand runs a go command and returns what it prints.
func goCommand(ctx context.Context, dir string, environment []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, environment
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}
