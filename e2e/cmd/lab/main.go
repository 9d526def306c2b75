// SPDX-License-Identifier: Apache-2.0

// Command lab runs the testbed: a real Envoy mesh in network namespaces.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/internal/flaghelp"
)

func main() {
	// The first signal ends the work, and the lab is taken down; further signals
	// are ignored, so that this completes. SIGPIPE is for `lab demo | head`.
	ctx, stop := signal.NotifyContext(context.Background(),
		os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Run a mesh in network namespaces, and layertrace on it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flaghelp.Use(root)
	root.AddCommand(demoCommand(), benchCommand(), benchPeersCommand(), growthCommand(), evaluateCommand(), reorderCommand(), faultsCommand(), liveCasesCommand(), openExchangesCommand(), setupCommand(), picturesCommand(), casesCommand(), attackCommand(), soakCommand(), devicesCommand(), mtlsCommand(), mtlsCostCommand(), k8sCommand(), kernelsCommand())
	err := root.ExecuteContext(ctx)
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "lab: interrupted")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// progress returns a function that prints lines with the time since its creation
// to standard error. Standard output has only the results.
func progress() func(format string, args ...any) {
	start := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "[%5.1fs] %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
}

func setupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "setup",
		Short: "Get Envoy, Jaeger, Prometheus and Helm into the user's cache, and build the project's programs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := provision.Tools(cmd.Context(), progress()); err != nil {
				return err
			}
			checkout, err := provision.Checkout()
			if err != nil {
				return err
			}
			if _, _, err = provision.Prometheus(cmd.Context(), checkout, progress()); err != nil {
				return err
			}
			_, err = provision.Helm(cmd.Context(), checkout, progress())
			return err
		},
	}
}

// writeJSON writes a value to a file, and creates its directory if necessary.
func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// makeAbsolute makes paths absolute, for programs that run in other directories.
func makeAbsolute(paths ...*string) error {
	for _, path := range paths {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("find %s: %w", *path, err)
		}
		*path = absolute
	}
	return nil
}
