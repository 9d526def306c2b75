// SPDX-License-Identifier: Apache-2.0

package envoypatch

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// fileDiff is what a patch does to one file.
type fileDiff struct {
	path           string
	created        bool
	added, removed []string // lines without their sign
	before         []string // the lines of all hunks as they have to stand in the tree
}

var (
	diffLine = regexp.MustCompile(`^diff --git a/(\S+) b/(\S+)$`)
	hunkLine = regexp.MustCompile(`^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@`)
)

// parsePatch reads the output of git format-patch, every line of it: message,
// diffs, and nothing behind them. Context is at most one line on each side.
func parsePatch(text string) (message string, files []fileDiff, err error) {
	if !strings.HasSuffix(text, "\n") {
		return "", nil, fmt.Errorf("does not end with a line break")
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	at := 0
	for at < len(lines) && !diffLine.MatchString(lines[at]) {
		at++
	}
	message = strings.Join(lines[:at], "\n")
	for at < len(lines) {
		m := diffLine.FindStringSubmatch(lines[at])
		if m == nil || m[1] != m[2] {
			return "", nil, fmt.Errorf("line %d: %q: want a file's diff", at+1, lines[at])
		}
		file := fileDiff{path: m[1]}
		for at++; at < len(lines) && !hunkLine.MatchString(lines[at]); at++ {
			file.created = file.created || strings.HasPrefix(lines[at], "new file mode ")
			if diffLine.MatchString(lines[at]) {
				return "", nil, fmt.Errorf("%s has no hunk", file.path)
			}
		}
		for at < len(lines) && hunkLine.MatchString(lines[at]) {
			if at, err = file.hunk(lines, at); err != nil {
				return "", nil, fmt.Errorf("%s: %w", file.path, err)
			}
		}
		files = append(files, file)
	}
	return message, files, nil
}

// hunk reads the hunk that begins at lines[at] and returns where it ends.
func (f *fileDiff) hunk(lines []string, at int) (int, error) {
	m := hunkLine.FindStringSubmatch(lines[at])
	count := func(s string) int {
		if n, err := strconv.Atoi(s); err == nil {
			return n
		}
		return 1
	}
	context, first := 0, at+1
	before, after := count(m[2]), count(m[4])
	for at++; before > 0 || after > 0; at++ {
		if at == len(lines) {
			return at, fmt.Errorf("the hunk of line %d ends early", first)
		}
		line := lines[at]
		sign, rest := line[:min(1, len(line))], line[min(1, len(line)):]
		switch sign {
		case "+":
			f.added = append(f.added, rest)
			after--
		case "-":
			f.removed, f.before = append(f.removed, rest), append(f.before, rest)
			before--
		case " ":
			f.before = append(f.before, rest)
			before, after, context = before-1, after-1, context+1
		default:
			return at, fmt.Errorf("line %d: %q in a hunk", at+1, line)
		}
		if sign != " " {
			context = 0
		}
		if context > 2 { // behind one change and in front of the next
			return at, fmt.Errorf("line %d: more than one line of context", at+1)
		}
	}
	return at, nil
}

// readPatch returns the one patch and its diffs by path.
func readPatch(t *testing.T) (message string, files map[string]fileDiff) {
	t.Helper()
	patches, err := Patches(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(patches) != 1 {
		t.Fatalf("%d patches; these tests know one", len(patches))
	}
	text, err := os.ReadFile(patches[0])
	if err != nil {
		t.Fatal(err)
	}
	message, list, err := parsePatch(string(text))
	if err != nil {
		t.Fatalf("%s: %v", patches[0], err)
	}
	files = map[string]fileDiff{}
	for _, file := range list {
		files[file.path] = file
	}
	return message, files
}
