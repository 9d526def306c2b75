// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/cli"
	"github.com/layertrace/layertrace/internal/doctable"
)

func TestPageIsThatOfTheCommands(t *testing.T) {
	doctable.CheckFile(t, "../../../../docs/cli.md", []byte(page(cli.Command())))
}

// Each command has a man page with its flags and examples, the same each time.
func TestManPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	folder, again := t.TempDir(), t.TempDir()
	if err := writePages(folder); err != nil {
		t.Fatal(err)
	}
	if err := writePages(again); err != nil {
		t.Fatal(err)
	}
	root := cli.Command()
	for _, cmd := range append(root.Commands(), root) {
		if cmd.Name() == "help" {
			continue
		}
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if other, err := os.ReadFile(filepath.Join(again, name)); err != nil || !bytes.Equal(other, text) {
			t.Errorf("%s is another one the second time (%v)", name, err)
		}
		plain := strings.NewReplacer(`\-`, "-", `\fB`, "", `\fP`, "").Replace(string(text))
		if !strings.Contains(plain, `.TH "LAYERTRACE`) || !strings.Contains(plain, "Nov 2023") {
			t.Errorf("%s has no head: %.200s", name, plain)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(plain, "--"+f.Name) {
				t.Errorf("%s lacks --%s", name, f.Name)
			}
		})
		if cmd.HasExample() && !strings.Contains(plain, ".SH EXAMPLE") {
			t.Errorf("%s lacks the example", name)
		}
	}
}

func TestMarkdown(t *testing.T) {
	const text, want = "One\ntwo:\n  a  1\n  b  2\nThree\n\n  c", "One\ntwo:\n\n      a  1\n      b  2\n\nThree\n\n\n      c\n"
	if got := markdown(text); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
