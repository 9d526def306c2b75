// SPDX-License-Identifier: Apache-2.0

// Package flaghelp writes the help texts of the project's programs: with flags by section, in
// the width of the terminal.
package flaghelp

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/internal/screen"
)

// Use makes a command and those below it list flags by Usages, and break the lines of texts.
func Use(root *cobra.Command) {
	cobra.AddTemplateFunc("flagUsages", func(fs *pflag.FlagSet) string { return Usages(fs, screen.Width(os.Stdout)) })
	cobra.AddTemplateFunc("paragraphs", func(text string) string { return Paragraphs(text, screen.Width(os.Stdout)) })
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".LocalFlags.FlagUsages", "flagUsages .LocalFlags"))
	root.SetHelpTemplate(strings.Replace(root.HelpTemplate(), "{{. | trim", "{{paragraphs . | trim", 1))
}

// widest is the most columns of a paragraph: longer lines are hard to read.
const widest = 100

// Paragraphs breaks the paragraphs of a text into lines of a width in columns, 0: as they are.
// Lines that begin with a space stay.
func Paragraphs(text string, width int) string {
	if width <= 0 {
		return text
	}
	var b strings.Builder
	var paragraph []string
	end := func() {
		if len(paragraph) > 0 {
			b.WriteString(screen.Wrap("", strings.Join(paragraph, " "), min(width, widest)))
			paragraph = nil
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line != "" && !strings.HasPrefix(line, " ") {
			paragraph = append(paragraph, line)
			continue
		}
		end()
		b.WriteString(line + "\n")
	}
	end()
	return b.String()
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

// Usages lists the flags of a command in a width in columns, 0 for any: those without a
// section first, then each section under its title. Bool flags have no value.
func Usages(fs *pflag.FlagSet, width int) string {
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
		text.WriteString(breakLists(part.FlagUsagesWrapped(width), width))
	}
	for _, title := range titles {
		fmt.Fprintf(&text, "\n%s:\n%s", title, breakLists(sections[title].FlagUsagesWrapped(width), width))
	}
	return text.String()
}

// breakLists breaks lines that are still wider than a width after a comma.
func breakLists(text string, width int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
		for width > 0 && len(strings.TrimSuffix(line, "\n")) > width {
			comma := strings.LastIndexByte(line[:width], ',')
			if comma < len(indent) {
				break
			}
			b.WriteString(line[:comma+1] + "\n")
			line = indent + line[comma+1:]
		}
		b.WriteString(line)
	}
	return b.String()
}

// plainBool is the value of a bool flag in help texts. pflag adds [=true|false] to
// the name of a flag of type bool, but not of this type.
type plainBool struct{ pflag.Value }

func (plainBool) Type() string     { return "boolfunc" }
func (plainBool) IsBoolFlag() bool { return true }
