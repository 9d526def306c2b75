// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/install"
)

func newStatus() *cobra.Command {
	var (
		cluster clusterFlags
		o       install.StatusOptions
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how the installation does: agents, workloads, and what does not work and why",
		Long: `Tell how the installation does: agents, workloads, and what does not work and why.

What the agents found comes from their metrics, read through the API server (the
permission get on pods/proxy): of the requests that passed a node with a trace
context, how many had it in their first bytes. --window counts from now on, as
long as it says.

The exit code is 0 when the agents are installed and ready, else 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Window < 0 {
				return errors.New("--window is below 0: choose a time such as 30s")
			}
			c, err := cluster.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout+o.Window)
			defer cancel()
			status, err := c.Status(ctx, o)
			if err != nil {
				return err
			}
			write := status.WriteText
			if asJSON {
				write = status.WriteJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return err
			}
			if !status.Healthy() {
				return errReported
			}
			return nil
		},
	}
	fs := cmd.Flags()
	cluster.add(fs)
	fs.StringVar(&o.IstioNamespace, "istio-namespace", install.DefaultIstioNamespace, "Istio's root `NAMESPACE`")
	fs.DurationVar(&o.Window, "window", 0, "count traffic for so long (default: since each agent began)")
	fs.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
