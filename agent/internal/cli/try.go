// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func newTry() *cobra.Command {
	var local tryLocal
	cmd := &cobra.Command{
		Use:   "try",
		Short: "Watch the requests of this machine and where their time goes",
		Long:  tryLocalHelp,
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !local.on {
				return usage(errors.New("layertrace try watches this machine with --local; see layertrace try --help"))
			}
			return local.run(cmd)
		},
	}
	local.define(cmd.Flags())
	return cmd
}
