// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Tools gets and builds all that the lab runs. Programs of the project are
// built into the checkout's bin directory.
func Tools(ctx context.Context, progress Progress) (lab.Tools, error) {
	checkout, err := Checkout()
	if err != nil {
		return lab.Tools{}, err
	}
	bin := filepath.Join(checkout, "bin")
	tools := lab.Tools{
		Agent:    filepath.Join(bin, "layertrace"),
		Bookinfo: filepath.Join(bin, "bookinfo"),
		Wasm:     filepath.Join(bin, "layertrace.wasm"),
	}
	if tools.Envoy, err = Envoy(ctx, progress); err != nil {
		return lab.Tools{}, err
	}
	if tools.Jaeger, err = Jaeger(ctx, checkout, progress); err != nil {
		return lab.Tools{}, err
	}
	commands := [][]string{
		{"build", "-trimpath", "-o", tools.Agent, "./agent/cmd/layertrace"},
		{"build", "-trimpath", "-o", tools.Bookinfo, "./e2e/bookinfo"},
	}
	for _, args := range commands {
		if err := runGo(ctx, checkout, progress, args...); err != nil {
			return lab.Tools{}, err
		}
	}
	return tools, Wasm(ctx, tools.Wasm, progress)
}

// Wasm builds the filter that puts the trace context in front, into the file out.
func Wasm(ctx context.Context, out string, progress Progress) error {
	checkout, err := Checkout()
	if err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	return runGo(ctx, checkout, progress, "run", "./wasm-filter/build", "-o", out)
}

// runGo runs the go command in the checkout.
func runGo(ctx context.Context, checkout string, progress Progress, args ...string) error {
	progress("go %s", strings.Join(args, " "))
	defer progress.while("building")()
	return command(ctx, checkout, []string{"CGO_ENABLED=0"}, "go", args...)
}

// Checkout returns the directory of the project's go.mod, looking from the
// working directory upwards.
func Checkout() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		} else if !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the checkout: no go.mod in %s or above: %w", start, err)
		}
	}
}
