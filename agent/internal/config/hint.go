// SPDX-License-Identifier: Apache-2.0

package config

import (
	"sort"
	"strings"

	"github.com/spf13/pflag"
)

// hint completes the message about an unknown name: the near ones, written by
// show, or where the list of all is.
func hint(name string, all []string, show func(string) string) string {
	if near := near(name, all); len(near) > 0 {
		for i, n := range near {
			near[i] = show(n)
		}
		return "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return "; `layertrace agent --help` lists all settings"
}

// Hint returns what to say behind "unknown flag --name".
func Hint(fs *pflag.FlagSet, name string) string {
	return hint(name, names(fs), func(n string) string { return "--" + n })
}

// near returns up to three of all that are an edit distance of a third of
// their length away, or that contain name or are contained in it.
func near(name string, all []string) []string {
	type candidate struct {
		name string
		d    int
	}
	var found []candidate
	for _, n := range all {
		d := distance(name, n)
		part := len(name) >= 4 && (strings.Contains(n, name) || strings.Contains(name, n))
		if d <= max(1, len(n)/3) || part {
			found = append(found, candidate{n, d})
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].d < found[j].d })
	var names []string
	for _, c := range found[:min(3, len(found))] {
		names = append(names, c.name)
	}
	return names
}

// nearest returns the best of near, or "".
func nearest(name string, all []string) string {
	if n := near(name, all); len(n) > 0 {
		return n[0]
	}
	return ""
}

// distance is the Levenshtein distance: least number of inserted, removed and
// replaced bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
