// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/lab/provision"
)

func setupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "setup",
		Short: "Get Envoy and Jaeger into the user's cache, and build the project's programs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := provision.Tools(cmd.Context(), progress())
			return err
		},
	}
}
