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

// Paragraphs are broken anew, and lists stay as they are.
func TestParagraphs(t *testing.T) {
	const text = "one two\nthree\n\nfour:\n  a  long list\n  b\nfive"
	for width, want := range map[int]string{
		0: text, 80: "one two three\n\nfour:\n  a  long list\n  b\nfive\n", 7: "one two\nthree\n\nfour:\n  a  long list\n  b\nfive\n",
	} {
		if got := Paragraphs(text, width); got != want {
			t.Errorf("%d: %q, want %q", width, got, want)
		}
	}
}

// A list of defaults without spaces breaks too.
func TestLongDefaults(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.StringSlice("names", []string{"layertrace-system", "kube-system", "monitoring", "prometheus", "observability"}, "names")
	for line := range strings.Lines(Usages(fs, 60)) {
		if len(line) > 61 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	if whole := Usages(fs, 0); strings.Count(whole, "\n") != 1 {
		t.Errorf("without a width: %s", whole)
	}
}
