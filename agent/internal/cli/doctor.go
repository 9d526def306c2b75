// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/doctor"
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

The exit code is 0 if the agent can capture
on this machine, else 1.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report := doctor.Examine(cmd.Context(), address)
			write := report.WriteText
			if asJSON {
				write = report.WriteJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
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
