// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/agent"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/doctor"
)

func newAgent() *cobra.Command {
	var cfg *config.Config
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Watch this node's interfaces and send a span for each request that passes",
		Long: `Watch this node's interfaces and send a span for each request that passes.

Each flag is also an environment variable (LAYERTRACE_ and the name in upper
case with _ for -) and a key of the YAML file; a flag wins over the environment,
the environment over the file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags(), cfg, os.Environ()); err != nil {
				return err
			}
			if err := doctor.Preflight(); err != nil {
				return err
			}
			collectLess()
			return agent.Run(cmd.Context(), agent.Options{
				Config: cfg, OpenProbe: openProbe, Stdout: cmd.OutOrStdout(),
				Log: newLog(cmd.ErrOrStderr(), cfg), Version: Version(),
			})
		},
	}
	cfg = config.Define(cmd.Flags())
	return cmd
}

func newLog(out io.Writer, cfg *config.Config) *slog.Logger {
	var level slog.Level
	// The flag allows only names that UnmarshalText knows.
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}
