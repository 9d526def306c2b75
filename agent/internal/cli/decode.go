// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/layertrace/layertrace/agent/internal/decode"
	"github.com/spf13/cobra"
)

func newDecode() *cobra.Command { return decode.Command() }
