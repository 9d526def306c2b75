// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		width int
		want  string
	}{
		{0, "- one two three\n"}, {80, "- one two three\n"}, {9, "- one two\n  three\n"}, {3, "- one\n  two\n  three\n"},
	} {
		if got := Wrap("- ", "one  two\nthree", test.width); got != test.want {
			t.Errorf("%d: %q, want %q", test.width, got, test.want)
		}
	}
}

// Only the first line is wrapped: YAML in those after it can be copied.
func TestWrapHead(t *testing.T) {
	const yaml = "logs:\n- name: a b c d e\n\n  filter:\t\x1b[2Jx\n"
	for _, test := range []struct{ text, want string }{
		{"one two", "- one\n  two\n"},
		{"one two\n", "- one\n  two\n"},
		{"one two\n" + yaml, "- one\n  two\nlogs:\n- name: a b c d e\n\n  filter:\t\ufffd[2Jx\n"},
		{"one two\n" + yaml + "\n", "- one\n  two\nlogs:\n- name: a b c d e\n\n  filter:\t\ufffd[2Jx\n"},
	} {
		if got := WrapHead("- ", test.text, 6); got != test.want {
			t.Errorf("%q: %q, want %q", test.text, got, test.want)
		}
	}
}

// A table is as wide as its cells while it fits. Then remarks go below, cells break between
// words and after marks, the first column goes above the others, and words are cut.
func TestTable(t *testing.T) {
	table := NewTable("NODE", "AGENT", "CONTEXTS IN PREFIX", "PROBLEM")
	table.Remarks = true
	table.Row("node1", "layertrace-agent-x7k2p", "98.0 % (49 of 50)", "")
	table.Row("node2", "layertrace-agent-q", "-", "it is not ready: \x1b[2Jsee kubectl logs")
	for _, test := range []struct {
		width int
		want  string
	}{
		{0, `
NODE   AGENT                   CONTEXTS IN PREFIX  PROBLEM
node1  layertrace-agent-x7k2p  98.0 % (49 of 50)
node2  layertrace-agent-q      -                   it is not ready: �[2Jsee kubectl logs
`},
		{60, `
NODE   AGENT                   CONTEXTS IN PREFIX
node1  layertrace-agent-x7k2p  98.0 % (49 of 50)
node2  layertrace-agent-q      -
    it is not ready: �[2Jsee kubectl logs
`},
		{42, `
NODE   AGENT                   CONTEXTS IN
                               PREFIX
node1  layertrace-agent-x7k2p  98.0 % (49
                               of 50)
node2  layertrace-agent-q      -
    it is not ready: �[2Jsee kubectl logs
`},
		{38, `
NODE   AGENT           CONTEXTS IN
                       PREFIX
node1  layertrace-     98.0 % (49 of
       agent-x7k2p     50)
node2  layertrace-     -
       agent-q
    it is not ready: �[2Jsee kubectl
    logs
`},
		{24, `
NODE
  AGENT        CONTEXTS
               IN PREFIX
node1
  layertrace-  98.0 %
  agent-x7k2p  (49 of
               50)
node2
  layertrace-  -
  agent-q
    it is not ready:
    �[2Jsee kubectl logs
`},
		{20, `
NODE
  AGENT    CONTEXTS
           IN PREFIX
node1
  layertra 98.0 %
  ce-      (49 of
  agent-   50)
  x7k2p
node2
  layertra -
  ce-
  agent-q
    it is not ready:
    �[2Jsee kubectl
    logs
`},
	} {
		got := table.Text(test.width)
		if diff := cmp.Diff(test.want, "\n"+got); diff != "" {
			t.Errorf("width %d: want - got +\n%s", test.width, diff)
		}
		for line := range strings.Lines(got) {
			if columns := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); test.width > 0 && columns > test.width {
				t.Errorf("width %d: %d columns: %s", test.width, columns, line)
			}
		}
	}
}

// A word without marks is cut anywhere, and every character stays.
func TestLongWords(t *testing.T) {
	for cell, want := range map[string][]string{
		"abcdefghij": {"abcd", "efgh", "ij"}, "a/bcdefg": {"a/", "bcde", "fg"}, "ab cdefg h": {"ab", "cdef", "g h"}, "": {""}, "/////": {"////", "/"},
	} {
		if diff := cmp.Diff(want, lines(cell, 4)); diff != "" {
			t.Errorf("%q: want - got +\n%s", cell, diff)
		}
	}
}

// COLUMNS is the user's; without it, files and pipes have no width.
func TestWidth(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for columns, want := range map[string]int{"": 0, "120": 120, "-1": 0, "many": 0} {
		t.Setenv("COLUMNS", columns)
		if got := Width(file); got != want {
			t.Errorf("COLUMNS=%s: %d in a file, want %d", columns, got, want)
		}
		if got := Width(&bytes.Buffer{}); got != want {
			t.Errorf("COLUMNS=%s: %d in memory, want %d", columns, got, want)
		}
	}
}
