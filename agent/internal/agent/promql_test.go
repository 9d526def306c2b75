// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// promQL is what an expression asks for. Prometheus's own parser is in a module
// that wants a newer Go than this one and most of its dependencies; e2e/monitoring
// lets a real Prometheus read every expression.
type promQL struct {
	selectors []promSelector
	grouped   []string // labels in by (), on () and the like
}

type promSelector struct {
	metric string
	labels []string
}

var (
	promToken = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'[^']*'|\$?[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9][0-9a-zA-Z.]*|[^\s]`)
	promName  = regexp.MustCompile(`^[a-zA-Z_:]`)
	// promWords are neither metrics nor functions; promGroupings have labels behind.
	promWords     = []string{"and", "or", "unless", "offset", "bool", "sum", "avg", "min", "max", "count", "topk"}
	promGroupings = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
)

// readPromQL finds metrics and labels in an expression that is known to be valid.
func readPromQL(expression string) (p promQL) {
	tokens := promToken.FindAllString(expression, -1)
	next := func(i int) string {
		if i+1 < len(tokens) {
			return tokens[i+1]
		}
		return ""
	}
	for i := 0; i < len(tokens); i++ {
		token := tokens[i]
		switch {
		case slices.Contains(promGroupings, token):
			if next(i) != "(" {
				continue
			}
			for i += 2; i < len(tokens) && tokens[i] != ")"; i++ {
				if tokens[i] != "," {
					p.grouped = append(p.grouped, tokens[i])
				}
			}
		case token == "{":
			s := &p.selectors[len(p.selectors)-1]
			for ; tokens[i] != "}"; i++ {
				if promName.MatchString(tokens[i]) {
					s.labels = append(s.labels, tokens[i])
				}
			}
		case token == "[":
			for tokens[i] != "]" {
				i++
			}
		case promName.MatchString(token) && next(i) != "(" && !slices.Contains(promWords, token):
			p.selectors = append(p.selectors, promSelector{metric: token})
		}
	}
	return p
}

func TestReadPromQL(t *testing.T) {
	got := readPromQL(`histogram_quantile(0.99, sum by (layer, le) (rate(a_bucket{x=~"$s{",y!="}"}[$__rate_interval]))) / ignoring (z) group_left () (b:c[1d] offset 30m) > 2e3 and d`)
	want := promQL{
		selectors: []promSelector{{"a_bucket", []string{"x", "y"}}, {metric: "b:c"}, {metric: "d"}},
		grouped:   []string{"layer", "le", "z"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(promQL{}, promSelector{})); diff != "" {
		t.Errorf("want - got +\n%s", diff)
	}
}
