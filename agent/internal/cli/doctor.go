// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/doctor"
	"github.com/layertrace/layertrace/internal/screen"
)

// agentMetrics is the default of the agent's --metrics-address.
const agentMetrics = "127.0.0.1:9464"

func newDoctor() *cobra.Command {
	var (
		asJSON  bool
		address string
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check which features this kernel supports",
		Long: `Check which features this kernel supports, and what the agent cannot do without
the missing ones.

Each feature is tried: small programs are loaded, attached in a network namespace
and a cgroup of their own, and removed.

It also names traffic that an agent here does not read: by the counters of a running
agent, by overlay devices, and by BPF programs of others that get packets first.

The exit code is 0 if the agent can capture on this machine, else 1.`,
		Example: `  # as root: without privileges little can be tried
  layertrace doctor

  # what is missing, for a program
  layertrace doctor --json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report := doctor.Examine(cmd.Context(), address)
			out := cmd.OutOrStdout()
			write := func() error { return report.WriteText(out, cmp.Or(screen.Width(out), screen.DefaultWidth)) }
			if asJSON {
				write = func() error { return report.WriteJSON(out) }
			}
			if err := write(); err != nil {
				return err
			}
			if !report.Capture {
				return reported(exitFailed)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&address, "metrics-address", agentMetrics, "`ADDRESS` at which an agent of this machine serves metrics; empty: ask none")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
