// SPDX-License-Identifier: Apache-2.0

// Package provision gets the programs of the tests: Envoy from its Python package,
// Jaeger, Kubernetes and others from their Go modules, once each, into a cache
// outside the checkout. It builds the project's own in the checkout.
package provision

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Progress is called with one line per step.
type Progress func(format string, args ...any)

// while calls progress every 20 seconds until the returned function is called.
func (p Progress) while(what string) (stop func()) {
	start, quit, done := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				p("still %s (%.0f s)", what, time.Since(start).Seconds())
			}
		}
	}()
	return func() { close(quit); <-done }
}

// cached returns the path of a program in the cache. When it is missing, make
// creates it in a temporary directory, which is then renamed: no one sees an
// unfinished program.
func cached(name, version string, make func(dir string) error) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache (set XDG_CACHE_HOME or HOME): %w", err)
	}
	final := filepath.Join(cache, "layertrace", name+"-"+version)
	program := filepath.Join(final, name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", fmt.Errorf("create the cache: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(final), ".new-"+name+"-")
	if err != nil {
		return "", fmt.Errorf("create the cache: %w", err)
	}
	defer os.RemoveAll(temp)
	if err := make(temp); err != nil {
		return "", err
	}
	if err := os.Rename(temp, final); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, statErr := os.Stat(program); statErr != nil {
			return "", fmt.Errorf("put %s into the cache: %w", name, err)
		}
	}
	return program, nil
}

// command runs a program to its end. The error has the end of its output.
func command(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	// When ctx ends, the children of the program end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(output)), "\n")
		tail := strings.Join(lines[max(0, len(lines)-15):], "\n")
		return fmt.Errorf("run %s %s: %w\n%s", name, strings.Join(args, " "), err, tail)
	}
	return nil
}

// module is a program from a foreign Go module.
type module struct {
	// name and version identify the program in the cache.
	name, version string
	// tools is the directory in e2e/tools whose go.mod has the versions.
	tools string
	// pkg is the program's package.
	pkg string
	// tags are build tags; may be empty.
	tags string
	// minutes is the time of the build on 2 cores.
	minutes string
}

// get returns the program's path. It builds the program unless the cache has it.
func (m module) get(ctx context.Context, checkout string, progress Progress) (string, error) {
	path, err := cached(m.name, m.version, func(dir string) error {
		progress("building %s %s from its Go module (about %s minutes on 2 cores, once)", m.name, m.version, m.minutes)
		defer progress.while("building " + m.name)()
		return command(ctx, filepath.Join(checkout, "e2e", "tools", m.tools), []string{"CGO_ENABLED=0"},
			"go", "build", "-trimpath", "-tags="+m.tags, "-ldflags=-s -w", "-o", filepath.Join(dir, m.name), m.pkg)
	})
	if err != nil {
		return "", fmt.Errorf("get %s: %w", m.name, err)
	}
	return path, nil
}
