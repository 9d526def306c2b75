// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"regexp"
	"testing"

	"github.com/spf13/pflag"
)

// docs/configuration.md lists all flags with their defaults, and no others.
func TestDocumentationListsAllSettings(t *testing.T) {
	page, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (`[^`]*`)? *\\|").FindAllStringSubmatch(string(page), -1) {
		documented[row[1]] = row[2]
	}
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	Define(fs)
	fs.VisitAll(func(f *pflag.Flag) {
		got, ok := documented[f.Name]
		delete(documented, f.Name)
		want := ""
		if f.DefValue != "" {
			want = "`" + f.DefValue + "`"
		}
		if !ok {
			t.Errorf("docs/configuration.md does not list %s", f.Name)
		} else if got != want {
			t.Errorf("docs/configuration.md has default %[2]s for %[1]s, want %[3]s", f.Name, got, want)
		}
	})
	for name := range documented {
		t.Errorf("docs/configuration.md lists %s, which is not a flag", name)
	}
}
