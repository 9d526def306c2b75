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
	link := "-s -w -buildid="
	for _, name := range slices.Sorted(maps.Keys(p.Variables)) {
		link += " -X " + name + "=" + p.Variables[name]
	}
	args := append([]string{"build", "-trimpath", "-buildvcs=false"}, p.Flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "-ldflags="+link, "-o", p.Out, p.Package)...)
	cmd.Dir, cmd.Env = dir, Environment(p.OS, p.Arch)
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, output.String())
	}
	return nil
}

// Environment returns the environment of a go command for a platform, without what a user may
// have set and what would change the result.
func Environment(goos, goarch string) []string {
	return append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0", "GOTOOLCHAIN="+Toolchain,
		"GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GODEBUG=", "GOAMD64=", "GOARM64=", "GOWASM=", "GOFIPS140=off")
}
