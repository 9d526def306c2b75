// SPDX-License-Identifier: Apache-2.0

package cli

import "github.com/spf13/cobra"

func newTry() *cobra.Command {
	var cluster tryCluster
	cmd := &cobra.Command{
		Use:     "try",
		Short:   "Try layertrace in one namespace of a cluster, up to the layers of a first trace",
		Long:    tryClusterHelp,
		Example: tryClusterExample,
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cluster.run(cmd) },
	}
	cluster.define(cmd.Flags())
	return cmd
}
