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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/internal/flaghelp"
	"github.com/layertrace/layertrace/internal/printable"
)

// repeatedSignal is the time within which a second signal counts as the first.
const repeatedSignal = time.Second

// Main runs the command line and returns the exit code: 0, or another one (exitcode.go)
// after one line on stderr with the cause and what to do.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A later signal ends the process at once. Not an immediate one: timeout(1)
	// and sudo(8) signal the process and then its group.
	context.AfterFunc(ctx, func() { time.AfterFunc(repeatedSignal, stop) })
	return run(ctx, args, os.Stdout, os.Stderr)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	// Errors have what servers responded, and names of others.
	errorsTo := printable.Writer{To: stderr}
	ran := false
	root.PersistentPreRun = func(*cobra.Command, []string) { ran = true }
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.As(err, new(reported)) {
		fmt.Fprintln(errorsTo, "layertrace: "+oneLine(err))
	}
	return exitCode(err, ran)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "layertrace",
		Short: "Extend the traces of Istio and Envoy below the application: sockets, interfaces, network",
		Long: `Extend the traces of Istio and Envoy below the application: sockets, interfaces,
network.

The exit code is 0 if the command did what was asked; 1 if it failed, or reports that
something does not work; 2 for wrong flags, arguments or settings; 3 if what was asked
for does not exist, such as a trace.

Text fits the terminal; COLUMNS sets another width, and NO_COLOR turns colours off.`,
		Version:       readBuild().text(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.Flags().Bool("version", false, "print the version")
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	flaghelp.Use(root)
	root.AddCommand(newAgent(), newDecode(), newDoctor(), newExplain(), newInstall(), newJoin(), newStatus(), newTry(), newUninstall(), newVersion())
	root.SetHelpCommand(newHelp())
	group(root)
	if err := completeValues(root); err != nil {
		panic(fmt.Sprintf("completion of a flag: %v", err)) // a bug that every test finds
	}
	return root
}

// Command returns all commands, for their manual.
func Command() *cobra.Command { return newRoot() }

// groups of commands in the help. Those in none are listed at the end.
var groups = []struct {
	id, title string
	commands  []string
}{
	{"cluster", "In a cluster with Istio:", []string{"try", "install", "status", "uninstall"}},
	{"traces", "Reading traces:", []string{"explain", "decode"}},
	{"machine", "On a node, a machine or a device:", []string{"agent", "doctor", "join"}},
}

// group puts the commands into their groups.
func group(root *cobra.Command) {
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, cmd := range root.Commands() {
			if slices.Contains(g.commands, cmd.Name()) {
				cmd.GroupID = g.id
			}
		}
	}
}

// newHelp returns the help command, which refuses unknown commands: cobra's prints the
// usage and succeeds.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			if above, _, err := cmd.Root().Find(args); err == nil {
				for _, c := range above.Commands() {
					names = append(names, c.Name()+"\t"+c.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || found == nil || len(rest) > 0 {
				return usage(fmt.Errorf("no command %q; see %s --help", strings.Join(args, " "), cmd.Root().CommandPath()))
			}
			found.InitDefaultHelpFlag() // otherwise added when it runs
			return found.Help()
		},
	}
}

// flagError suggests flags for an unknown one.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		name := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			return fmt.Errorf("unknown flag -%s; see %s --help", name, cmd.CommandPath())
		}
		return fmt.Errorf("unknown flag --%s%s", name, config.Hint(cmd.Flags(), name, cmd.CommandPath()))
	}
	return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
}

// noArguments refuses arguments.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, got %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}

// oneLine joins the lines of an error, such as a verifier log.
func oneLine(err error) string {
	fields := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	return strings.Join(fields, " ")
}
