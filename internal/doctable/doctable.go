// SPDX-License-Identifier: Apache-2.0

// Package doctable keeps tables of documentation pages equal to what the code
// defines. A test calls Check, or CheckFile for a whole file; with -update
// (make generate) they write what differs.
package doctable

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated tables of docs")

// generated matches a table between its two markers.
var generated = regexp.MustCompile(`(?s)(<!-- table: ([a-z ]+) -->\n).*?(<!-- end -->)`)

// Table is a Markdown table.
type Table struct{ text strings.Builder }

// New returns a table with a header.
func New(columns ...string) *Table {
	t := &Table{}
	t.Row(columns...)
	t.text.WriteString("|" + strings.Repeat("---|", len(columns)) + "\n")
	return t
}

// Row adds a row.
func (t *Table) Row(cells ...string) { t.text.WriteString("| " + strings.Join(cells, " | ") + " |\n") }

// Check fails the test when a page does not have exactly these tables, by name,
// each between the lines <!-- table: NAME --> and <!-- end -->.
func Check(t *testing.T, path string, tables map[string]*Table) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	want := generated.ReplaceAllStringFunc(string(page), func(old string) string {
		part := generated.FindStringSubmatch(old)
		table, ok := tables[part[2]]
		if !ok {
			t.Errorf("%s has a table %q, which the code does not have", path, part[2])
			return old
		}
		found[part[2]] = true
		return part[1] + table.text.String() + part[3]
	})
	for name := range tables {
		if !found[name] {
			t.Errorf("%s has no markers of the table %q", path, name)
		}
	}
	if !t.Failed() {
		CheckFile(t, path, []byte(want))
	}
}

// CheckFile fails the test when a file is not the same as what the code defines.
func CheckFile(t *testing.T, path string, want []byte) {
	t.Helper()
	if now, err := os.ReadFile(path); err != nil {
		t.Fatal(err)
	} else if bytes.Equal(now, want) {
		return
	}
	if !*update {
		t.Fatalf("%s differs from the code: run make generate", path)
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
}
