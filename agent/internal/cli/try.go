// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/internal/flaghelp"
)

func newTry() *cobra.Command {
	var (
		cluster tryCluster
		local   tryLocal
	)
	inCluster, here := pflag.NewFlagSet("cluster", pflag.ContinueOnError), pflag.NewFlagSet("local", pflag.ContinueOnError)
	for _, part := range []*pflag.FlagSet{inCluster, here} {
		part.SortFlags = false
	}
	cluster.define(inCluster)
	local.define(here)
	flaghelp.SetSection(inCluster, "A cluster")
	flaghelp.SetSection(here, "This machine")
	cmd := &cobra.Command{
		Use:     "try",
		Short:   "Try layertrace in one namespace, or on this machine (--local)",
		Long:    tryClusterHelp + "\n\n" + tryLocalHelp,
		Example: tryClusterExample + "\n\n" + tryLocalExample,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if local.on {
				if err := refuseFlags(cmd, inCluster, "has no effect with --local, which uses no cluster"); err != nil {
					return err
				}
				return local.run(cmd)
			}
			if err := refuseFlags(cmd, here, "needs --local"); err != nil {
				return err
			}
			if cluster.trial.Namespace == "" && !cluster.remove {
				return usage(errors.New("--namespace is missing: name the namespace of a cluster to try, or watch this machine with --local"))
			}
			return cluster.run(cmd)
		},
	}
	cmd.Flags().AddFlagSet(inCluster)
	cmd.Flags().AddFlagSet(here)
	return cmd
}

// refuseFlags is a usage error if one of these flags was given.
func refuseFlags(cmd *cobra.Command, of *pflag.FlagSet, why string) (err error) {
	of.VisitAll(func(f *pflag.Flag) {
		if cmd.Flags().Changed(f.Name) && err == nil {
			err = usage(fmt.Errorf("--%s %s", f.Name, why))
		}
	})
	return err
}
