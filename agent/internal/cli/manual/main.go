// SPDX-License-Identifier: Apache-2.0

// Command manual writes a man page for each command of layertrace into a folder:
//
//	go run ./agent/internal/cli/manual out/man
//
// Its test keeps docs/cli.md, the same as one page, as the commands are.
package main

//go:generate go test . -run TestPageIsThatOfTheCommands -update

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/layertrace/layertrace/agent/internal/cli"
	"github.com/layertrace/layertrace/internal/flaghelp"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "manual: give the folder for the man pages")
		os.Exit(2)
	}
	if err := writePages(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "write the man pages: %v\n", err)
		os.Exit(1)
	}
}

// writePages writes the man pages. Their date is SOURCE_DATE_EPOCH, else today.
func writePages(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	root := cli.Command()
	for _, cmd := range append(root.Commands(), root) {
		cmd.Long = markdown(cmd.Long)
		cmd.DisableAutoGenTag = true
	}
	header := &doc.GenManHeader{Section: "1", Source: "layertrace", Manual: "layertrace"}
	return doc.GenManTree(root, header, folder)
}

// markdown returns a help text as Markdown: lists and tables, which are indented, as blocks
// that keep their lines.
func markdown(text string) string {
	var b strings.Builder
	block := false
	for line := range strings.Lines(text) {
		indented := strings.HasPrefix(line, " ")
		if indented != block {
			b.WriteString("\n")
		}
		if block = indented; block {
			line = "    " + line
		}
		b.WriteString(line)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// page returns docs/cli.md.
func page(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# Commands\n\nWhat `layertrace COMMAND --help` prints, generated from the commands by `make generate`. `make man` writes the same as man pages. Completion for bash, zsh, fish and PowerShell: `layertrace completion --help`.\n\n")
	b.WriteString(markdown(root.Long) + "\n")
	for _, g := range root.Groups() {
		b.WriteString("| " + strings.TrimSuffix(g.Title, ":") + " | |\n|---|---|\n")
		writeIndex(&b, root, g.ID)
	}
	b.WriteString("| Others | |\n|---|---|\n")
	writeIndex(&b, root, "")
	for _, cmd := range root.Commands() {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		cmd.InitDefaultHelpFlag()
		fmt.Fprintf(&b, "## %s\n\n", cmd.CommandPath())
		long := cmd.Long
		if long == "" {
			long = cmd.Short
		}
		b.WriteString(markdown(long) + "\n```\n" + cmd.UseLine() + "\n```\n\n")
		if cmd.Example != "" {
			b.WriteString("```\n" + cmd.Example + "\n```\n\n")
		}
		b.WriteString("```\n" + strings.TrimRight(flaghelp.Usages(cmd.LocalFlags(), 0), "\n") + "\n```\n\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// writeIndex writes a row for each command of a group.
func writeIndex(b *strings.Builder, root *cobra.Command, group string) {
	for _, cmd := range root.Commands() {
		if cmd.GroupID == group && cmd.Name() != "help" && cmd.Name() != "completion" {
			fmt.Fprintf(b, "| [`%s`](#%s) | %s |\n", cmd.CommandPath(), strings.ReplaceAll(cmd.CommandPath(), " ", "-"), cmd.Short)
		}
	}
	b.WriteString("\n")
}
