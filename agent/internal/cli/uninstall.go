// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	"github.com/layertrace/layertrace/internal/printable"
	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/install"
)

func newUninstall() *cobra.Command {
	var (
		cluster clusterFlags
		yes     bool
	)
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the objects of an installation from a cluster",
		Long: `Remove the objects of an installation from a cluster.

Only objects that install created are deleted, and a namespace with objects of
others is kept. The command returns when everything is gone.`,
		Example: `  # without a question
  layertrace uninstall --yes`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
			defer cancel()
			return runUninstall(ctx, cmd, c, yes)
		},
	}
	cluster.add(cmd.Flags())
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	return cmd
}

func runUninstall(ctx context.Context, cmd *cobra.Command, c *install.Cluster, yes bool) error {
	managed, err := c.Managed(ctx)
	if err != nil {
		return err
	}
	out := printable.Writer{To: cmd.OutOrStdout()}
	if len(managed) > 0 {
		if err := confirm(cmd, yes, fmt.Sprintf("Remove %d objects from %s?", len(managed), c.Name)); err != nil {
			return err
		}
	}
	deleted := 0
	err = c.Uninstall(ctx, func(change install.Change) {
		if change.Action == install.Deleted {
			deleted++
		}
		fmt.Fprintf(out, "%-9s %s\n", change.Action, change.Object)
	})
	if err != nil {
		return err
	}
	if deleted == 0 {
		fmt.Fprintln(out, "Nothing to remove.")
		return nil
	}
	return c.AwaitRemoval(ctx, managed, reportWait(out))
}
