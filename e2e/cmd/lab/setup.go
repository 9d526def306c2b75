// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/provision"
)

func setupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "setup",
		Short: "Get Envoy, Jaeger and Prometheus into the user's cache, and build the project's programs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := provision.Tools(cmd.Context(), progress()); err != nil {
				return err
			}
			checkout, err := provision.Checkout()
			if err != nil {
				return err
			}
			_, _, err = provision.Prometheus(cmd.Context(), checkout, progress())
			return err
		},
	}
}
