// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Set by a release build (-ldflags "-X ...cli.version=v1.2.3 -X ...cli.commit=... -X
// ...cli.date=...").
var version, commit, date string

// build describes this program. Fields are "" if they are unknown.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// Date of the commit, RFC 3339.
	Date string `json:"date"`
	// Modified: the files were not all as in the commit.
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

// readBuild returns what a release build set, else what Go recorded in the binary. Its
// version is the release, else the module's version or the commit, else "devel".
func readBuild() build {
	b := build{Version: version, Commit: commit, Date: date, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok && b.Commit == "" {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.time":
				b.Date = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	switch {
	case b.Version != "":
	case ok && info.Main.Version != "" && info.Main.Version != "(devel)":
		b.Version = info.Main.Version
	case b.Commit != "":
		b.Version = "devel+" + short(b.Commit)
	default:
		b.Version = "devel"
	}
	return b
}

func short(commit string) string { return commit[:min(12, len(commit))] }

// Version returns the version of this program.
func Version() string { return readBuild().Version }

// text returns the line that layertrace version prints.
func (b build) text() string {
	var from []string
	if b.Commit != "" {
		from = append(from, "commit "+short(b.Commit))
		if b.Modified {
			from[0] += " with changes"
		}
	}
	if day, _, _ := strings.Cut(b.Date, "T"); day != "" {
		from = append(from, day)
	}
	from = append(from, b.Go, b.OS+"/"+b.Arch)
	return fmt.Sprintf("layertrace %s (%s)", b.Version, strings.Join(from, ", "))
}

func newVersion() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print version, commit and date",
		Example: `  # for a program
  layertrace version --json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(readBuild())
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), readBuild().text())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
