// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line of layertrace.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/config"
)

// errReported ends a command with exit code 1 after it told why itself.
var errReported = errors.New("reported")

// doubledSignal is how long a signal that comes again counts as the same.
const doubledSignal = time.Second

// Main runs the command line and returns the exit code: 0, or 1 behind one
// line on stderr that says what to do.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A later signal ends the process at once. Not an immediate one: timeout(1)
	// and sudo(8) signal the process and then its group.
	context.AfterFunc(ctx, func() { time.AfterFunc(doubledSignal, stop) })
	return run(ctx, args, os.Stdout, os.Stderr)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintln(stderr, "layertrace: "+oneLine(err))
	}
	return 1
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "layertrace",
		Short:         "See each request of a service mesh at every network interface that it passes",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(explainFlag)
	root.AddCommand(newAgent(), newDecode(), newDoctor(), newExplain(), newInstall(), newStatus(), newUninstall(), newVersion())
	return root
}

// explainFlag says which flags are near an unknown one.
func explainFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		return fmt.Errorf("unknown flag --%s%s", unknown.GetSpecifiedName(), config.Hint(cmd.Flags(), unknown.GetSpecifiedName()))
	}
	return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
}

// oneLine joins the lines of an error, such as a verifier's log.
func oneLine(err error) string {
	fields := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	return strings.Join(fields, " ")
}
