// SPDX-License-Identifier: Apache-2.0

// Package flaghelp lists the flags of the project's programs in their help texts.
package flaghelp

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Use makes a command and those below it list flags by Usages.
func Use(root *cobra.Command) {
	cobra.AddTemplateFunc("flagUsages", Usages)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".LocalFlags.FlagUsages", "flagUsages .LocalFlags"))
}

// sectionKey is the annotation of a flag with the title of its section.
const sectionKey = "layertrace_section"

// SetSection puts all flags of a set into the section of a title.
func SetSection(fs *pflag.FlagSet, title string) {
	fs.VisitAll(func(f *pflag.Flag) { f.Annotations = map[string][]string{sectionKey: {title}} })
}

// section returns the title of a flag's section, "" without one.
func section(f *pflag.Flag) string {
	if titles := f.Annotations[sectionKey]; len(titles) > 0 {
		return titles[0]
	}
	return ""
}

// Usages lists the flags of a command: those without a section first, then each
// section under its title. Bool flags have no value.
func Usages(fs *pflag.FlagSet) string {
	var titles []string
	sections := map[string]*pflag.FlagSet{}
	fs.VisitAll(func(f *pflag.Flag) {
		title := section(f)
		part := sections[title]
		if part == nil {
			part = pflag.NewFlagSet(title, pflag.ContinueOnError)
			part.SortFlags = fs.SortFlags
			sections[title] = part
			if title != "" {
				titles = append(titles, title)
			}
		}
		shown := *f
		if f.Value.Type() == "bool" {
			shown.Value = plainBool{f.Value}
		}
		part.AddFlag(&shown)
	})
	var text strings.Builder
	if part := sections[""]; part != nil {
		text.WriteString(part.FlagUsages())
	}
	for _, title := range titles {
		fmt.Fprintf(&text, "\n%s:\n%s", title, sections[title].FlagUsages())
	}
	return text.String()
}

// plainBool is the value of a bool flag in help texts. pflag adds [=true|false] to
// the name of a flag of type bool, but not of this type.
type plainBool struct{ pflag.Value }

func (plainBool) Type() string     { return "boolfunc" }
func (plainBool) IsBoolFlag() bool { return true }
