// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/join"
)

func newJoin() *cobra.Command {
	var cfg *config.Join
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Put what network devices saw into the traces that it belongs to",
		Long: `Receive the spans of agents and the sightings of devices (agents with
--headers-only) by OTLP, and send a span for each exchange and interface of a device, in
the trace of the exchange.

A message is the same only if its connection ID, first byte and last byte are. Several
joins share the work if an OpenTelemetry Collector routes to them by the attribute
layertrace.connection_id (docs/devices.md).`,
		Example: `  # beside a Collector, to a store on this machine
  layertrace join --listen 127.0.0.1:4327 --otlp-endpoint 127.0.0.1:4317`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Complete(cmd.Flags())
			if err := cfg.Validate(); err != nil {
				return usage(err)
			}
			setGCPercent()
			return join.Run(cmd.Context(), join.Options{Config: cfg, Log: newLog(cmd.ErrOrStderr(), &cfg.Config), Version: Version()})
		},
	}
	cmd.Flags().SortFlags = false // keep the order of the sections
	cfg = config.DefineJoin(cmd.Flags())
	return cmd
}

// gcPercent lets the heap grow to three times the live heap: that is a few MiB of
// received spans, for which Go's default of 100 collects too often.
const gcPercent = 200

// setGCPercent sets gcPercent unless the user set GOGC.
func setGCPercent() {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
}
