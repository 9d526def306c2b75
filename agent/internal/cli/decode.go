// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/decode"
)

func newDecode() *cobra.Command { return decode.Command() }
