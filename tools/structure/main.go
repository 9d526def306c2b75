// SPDX-License-Identifier: Apache-2.0

// Structure prints how a checkout of layertrace is cut into files and packages:
// the size of its Go files, the BPF headers, the words of its comments, and the
// files that docs/architecture.md lists for the way of one request.
//
//	go run tools/structure/main.go [DIRECTORY]
//
// It fails when docs/architecture.md lists a file that does not exist.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// The words that are counted in comments: English that reads as translated.
var words = []string{"behind", "tells/told", "nobody"}

// The sections of docs/architecture.md whose list items begin with a file.
var fileLists = []string{
	"Files for one request: kernel",
	"Files for one request: user space",
	"Files for a verdict",
}

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	if err := run(os.Stdout, root); err != nil {
		fmt.Fprintln(os.Stderr, "structure:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, root string) error {
	sources, err := readSources(root)
	if err != nil {
		return fmt.Errorf("read sources: %w", err)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	reportGo(table, sources)
	reportBPF(table, sources)
	reportWords(table, sources)
	_ = table.Flush() // to standard output

	architecture, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read file lists: %w", err)
	}
	return reportFileLists(out, root, architecture)
}

// A source is a Go or C file that a person wrote.
type source struct {
	path string // relative to the checkout, with slashes
	text []byte
}

func (s *source) is(extension string) bool { return strings.HasSuffix(s.path, extension) }
func (s *source) isTest() bool             { return s.is("_test.go") }
func (s *source) lines() int               { return bytes.Count(s.text, []byte("\n")) }

var generated = regexp.MustCompile(`(?m)^(//|/\*) Code generated .* DO NOT EDIT\.`)

// readSources returns all Go and C files but generated ones. It skips hidden
// directories and what a build leaves in bin and out.
func readSources(root string) ([]source, error) {
	var sources []source
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			hidden := strings.HasPrefix(entry.Name(), ".") && relative != "."
			if hidden || relative == "bin" || relative == "out" {
				return fs.SkipDir
			}
			return nil
		}
		if !slices.Contains([]string{".go", ".c", ".h"}, filepath.Ext(path)) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil && !generated.Match(text) {
			sources = append(sources, source{filepath.ToSlash(relative), text})
		}
		return err
	})
	return sources, err
}

// reportGo measures Go files outside of tests.
func reportGo(out io.Writer, sources []source) {
	var files, lines int
	var lengths []int
	var longest source
	packages := map[string]bool{}
	for _, s := range sources {
		if !s.is(".go") || s.isTest() {
			continue
		}
		files++
		lines += s.lines()
		lengths = append(lengths, s.lines())
		packages[filepath.Dir(s.path)] = true
		if s.lines() > longest.lines() {
			longest = s
		}
	}
	fmt.Fprintln(out, "Go, without tests and generated code")
	if files == 0 {
		fmt.Fprintln(out, "  files\t0")
		return
	}
	slices.Sort(lengths)
	fmt.Fprintf(out, "  files\t%d\n", files)
	fmt.Fprintf(out, "  lines\t%d\n", lines)
	fmt.Fprintf(out, "  packages\t%d\n", len(packages))
	fmt.Fprintf(out, "  lines per file: mean\t%.0f\n", float64(lines)/float64(files))
	fmt.Fprintf(out, "  median\t%d\n", quantile(lengths, 50))
	fmt.Fprintf(out, "  90th percentile\t%d\n", quantile(lengths, 90))
	fmt.Fprintf(out, "  longest\t%d\t%s\n", longest.lines(), longest.path)
	short, _ := slices.BinarySearch(lengths, 60)
	fmt.Fprintf(out, "  files under 60 lines\t%d\n", short)
}

// quantile returns the smallest value that percent of the sorted values do not exceed.
func quantile(sorted []int, percent int) int {
	return sorted[max((len(sorted)*percent+99)/100-1, 0)]
}

var include = regexp.MustCompile(`(?m)^\s*#\s*include\s+"([^"]+)"`)

// reportBPF measures the headers of bpf/ and how deep they include one another.
func reportBPF(out io.Writer, sources []source) {
	includes := map[string][]string{} // by path: the files of the checkout it includes
	known := map[string]bool{}
	for _, s := range sources {
		known[s.path] = strings.HasPrefix(s.path, "bpf/")
	}
	var headers, lines int
	for _, s := range sources {
		if !known[s.path] {
			continue
		}
		if s.is(".h") {
			headers++
			lines += s.lines()
		}
		for _, match := range include.FindAllSubmatch(s.text, -1) {
			for _, dir := range []string{filepath.Dir(s.path), "bpf", "bpf/include"} {
				if path := filepath.ToSlash(filepath.Join(dir, string(match[1]))); known[path] {
					includes[s.path] = append(includes[s.path], path)
					break
				}
			}
		}
	}
	fmt.Fprintln(out, "BPF")
	fmt.Fprintf(out, "  headers\t%d\n", headers)
	fmt.Fprintf(out, "  lines in headers\t%d\n", lines)
	depth := newDepths(includes)
	for _, s := range sources {
		if known[s.path] && s.is(".bpf.c") {
			fmt.Fprintf(out, "  files on the longest chain of includes, %s\t%d\n", s.path, 1+depth(s.path))
		}
	}
}

// newDepths returns a function that counts the headers on the longest chain of
// includes below a file.
func newDepths(includes map[string][]string) func(path string) int {
	depths := map[string]int{}
	var depth func(path string) int
	depth = func(path string) int {
		if d, ok := depths[path]; ok {
			return d
		}
		depths[path] = 0 // ends a circle
		longest := 0
		for _, header := range includes[path] {
			longest = max(longest, 1+depth(header))
		}
		depths[path] = longest
		return longest
	}
	return depth
}

var (
	comment = regexp.MustCompile(`(?m)^\s*(//|/\*|\*).*$`)
	// What begins like a comment and is not prose.
	directive = regexp.MustCompile(`SPDX-License-Identifier|^\s*//(go|nolint|sys):?|^\s*\*/$`)
)

// reportWords counts words in the lines that hold nothing but a comment, tests
// included.
func reportWords(out io.Writer, sources []source) {
	lines := 0
	counts := make([]int, len(words))
	for _, s := range sources {
		for _, line := range comment.FindAll(s.text, -1) {
			if directive.Match(line) {
				continue
			}
			lines++
			for i, word := range words {
				pattern := regexp.MustCompile(`(?i)\b(` + strings.ReplaceAll(word, "/", "|") + `)\b`)
				counts[i] += len(pattern.FindAll(line, -1))
			}
		}
	}
	fmt.Fprintln(out, "Comments in Go and C, tests included")
	fmt.Fprintf(out, "  lines\t%d\n", lines)
	for i, word := range words {
		fmt.Fprintf(out, "  %q per 1,000 lines\t%.1f\t%d\n", word, 1000*float64(counts[i])/float64(max(lines, 1)), counts[i])
	}
}

var listItem = regexp.MustCompile("^\\s*[-*] \\[?`([^`]+)`")

// reportFileLists prints the lists of docs/architecture.md and fails when one
// names a file that does not exist.
func reportFileLists(out io.Writer, root string, architecture []byte) error {
	lists := map[string][]string{}
	section := ""
	for line := range strings.Lines(string(architecture)) {
		if heading, ok := strings.CutPrefix(line, "#"); ok {
			section = strings.Trim(heading, "# \r\n")
		} else if match := listItem.FindStringSubmatch(line); match != nil {
			lists[section] = append(lists[section], match[1])
		}
	}
	var missing []error
	for _, name := range fileLists {
		fmt.Fprintf(out, "%s: %d\n", name, len(lists[name]))
		for _, path := range lists[name] {
			fmt.Fprintf(out, "  %s\n", path)
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				missing = append(missing, fmt.Errorf("docs/architecture.md, %s: %w", name, err))
			}
		}
	}
	return errors.Join(missing...)
}
