// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/layertrace/layertrace/e2e/lab"
)

// node is a span with the spans that it contains.
type node struct {
	lab.Span
	children []*node
}

// printTree prints a trace, each span indented below the one it lies in, with
// its start after the trace's and its duration.
func printTree(w io.Writer, trace lab.Trace) {
	roots := nest(trace.Spans)
	if len(roots) == 0 {
		return
	}
	begin := roots[0].Start
	var show func(n *node, depth int)
	show = func(n *node, depth int) {
		mark, name := " ", n.Service+" "+n.Name
		if isInterface(n.Span) {
			mark, name = "|", n.Name
		} else if kind := n.Kind(); kind != "" {
			name += " (" + kind + ")"
		}
		line := strings.Repeat("  ", depth) + mark + " " + name
		fill := max(1, 76-utf8.RuneCountInString(line))
		fmt.Fprintf(w, "%s%s%9.3f ms  at %8.3f ms\n", line, strings.Repeat(" ", fill),
			float64(n.Duration.Microseconds())/1e3, float64(n.Start.Sub(begin).Microseconds())/1e3)
		for _, child := range n.children {
			show(child, depth+1)
		}
	}
	for _, root := range roots {
		show(root, 0)
	}
}

// nest makes a tree of spans. Parents are the spans' own, with one thing added:
// the interface spans of one hop all have the client's span as parent; they
// are strung from the outermost to the innermost, and the server's span, which
// has the same parent, goes below the last.
func nest(spans []lab.Span) []*node {
	nodes := map[string]*node{}
	for _, span := range spans {
		nodes[span.ID] = &node{Span: span}
	}
	children := map[string][]*node{}
	var roots []*node
	for _, n := range nodes {
		parent := nodes[n.Parent]
		if isInterface(n.Span) {
			parent = client(parent, nodes)
		}
		if parent == nil {
			roots = append(roots, n)
		} else {
			children[parent.ID] = append(children[parent.ID], n)
		}
	}
	for parent, ofParent := range children {
		nodes[parent].children = chain(ofParent)
	}
	slices.SortFunc(roots, byStart)
	return roots
}

// client returns the client's span of a hop, of which parent is either end.
// Zipkin's client and server share a span ID; Jaeger gives the server's span
// a new one, below the client's, and moves all other children there as well.
func client(parent *node, nodes map[string]*node) *node {
	if parent != nil && parent.Kind() == "server" {
		if above := nodes[parent.Parent]; above != nil && above.Kind() == "client" {
			return above
		}
	}
	return parent
}

// chain strings the interface spans among siblings together.
func chain(siblings []*node) []*node {
	slices.SortFunc(siblings, byStart)
	var others []*node
	var outer, inner *node
	for _, n := range siblings {
		switch {
		case !isInterface(n.Span):
			others = append(others, n)
		case outer == nil:
			outer, inner = n, n
		default:
			inner.children = []*node{n}
			inner = n
		}
	}
	if outer == nil {
		return others
	}
	inner.children = append(inner.children, others...)
	return []*node{outer}
}

func byStart(a, b *node) int {
	return cmp.Or(a.Start.Compare(b.Start), -cmp.Compare(a.Duration, b.Duration), cmp.Compare(a.ID, b.ID))
}

func isInterface(span lab.Span) bool {
	return slices.ContainsFunc(lab.Points(), func(p lab.Point) bool { return p.Name == span.Name })
}
