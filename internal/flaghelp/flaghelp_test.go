// SPDX-License-Identifier: Apache-2.0

package flaghelp

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A command below the root lists its flags without [=true|false], by section.
func TestUse(t *testing.T) {
	root := &cobra.Command{Use: "root"}
	Use(root)
	cmd := &cobra.Command{Use: "sub", Run: func(*cobra.Command, []string) {}}
	root.AddCommand(cmd)
	cmd.Flags().Bool("keep", false, "keep it")
	part := pflag.NewFlagSet("", pflag.ContinueOnError)
	part.Bool("fast", true, "hurry")
	SetSection(part, "Speed")
	cmd.Flags().AddFlagSet(part)
	help := cmd.UsageString()
	for _, want := range []string{"\n      --keep   keep it", "\nSpeed:\n      --fast   hurry (default true)"} {
		if !strings.Contains(help, want) {
			t.Errorf("the help lacks %q:\n%s", want, help)
		}
	}
}
