// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/clusterstatus"
	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/internal/screen"
)

func newStatus() *cobra.Command {
	var (
		cluster clusterFlags
		o       clusterstatus.Options
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the health of the installation: agents, workloads, problems",
		Long: `Show the health of the installation: agents, workloads, and problems with their
causes.

CONTEXTS IN PREFIX is the share of trace contexts within the first bytes of their
request (the agents' prefix-window), counted at the interfaces of a node. It comes
from the agents' metrics, read through the API server (permission: get pods/proxy).
Agents find the others too, for more CPU time: with --reorder none the status says
what reordering would save.

The exit code is 0 if agents are installed and all of them are ready, 3 if nothing is
installed, else 1.`,
		Example: `  # since the agents started
  layertrace status

  # of the traffic from now on
  layertrace status --window 30s`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Window < 0 {
				return usage(fmt.Errorf("--window is %v: choose 0 or more, such as 30s", o.Window))
			}
			c, err := cluster.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout+o.Window)
			defer cancel()
			status, err := clusterstatus.Collect(ctx, c, o)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			write := func() error { return status.WriteText(out, screen.Width(out)) }
			if asJSON {
				write = func() error { return status.WriteJSON(out) }
			}
			if err := write(); err != nil {
				return err
			}
			if !status.Installed {
				return reported(exitNothing)
			}
			if !status.Healthy() {
				return reported(exitFailed)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	cluster.add(fs)
	fs.StringVar(&o.IstioNamespace, "istio-namespace", install.DefaultIstioNamespace, "Istio's root `NAMESPACE`")
	fs.DurationVar(&o.Window, "window", 0, "count traffic for this `TIME` from now on (default: since each agent started)")
	fs.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
