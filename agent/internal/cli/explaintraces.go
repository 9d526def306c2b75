// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/layertrace/layertrace/agent/internal/explain"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// explain reads the traces and typical ones, and writes a report on each.
func (f *explainFlags) explain(ctx context.Context, source tracestore.Store, args []string, out output) error {
	groups, b, err := f.read(ctx, source, args)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(args, func(arg string) bool { return strings.Contains(arg, separator) }) {
		return together(ctx, groups, b, out)
	}
	var reports []*explain.Report
	for _, group := range groups {
		typical, note := b.of(ctx, group[0])
		r := explain.Explain(group[0], typical)
		if note != "" {
			r.Notes = append(r.Notes, note)
		}
		reports = append(reports, &r)
	}
	return out.reports(reports)
}

// separator stands between the IDs of traces that are explained together, and
// behind one that is a group by itself.
const separator = ","

// read gets the traces that each argument names. One that was named before in
// the same group, or as a group of its own, is left out.
func (f *explainFlags) read(ctx context.Context, source tracestore.Store, args []string) (groups [][]tracestore.Trace, b *baselines, err error) {
	b = &baselines{source: source, most: f.typical, last: f.typicalLast, asked: map[trace.TraceID]bool{}, found: map[beginning][]tracestore.Trace{}}
	known := map[trace.TraceID]tracestore.Trace{}
	for _, arg := range args {
		var group []tracestore.Trace
		alone := !strings.Contains(arg, separator)
		for _, text := range strings.Split(strings.TrimSuffix(arg, separator), separator) {
			id, err := tracestore.ParseTraceID(text)
			if err != nil {
				return nil, nil, err
			}
			if t, ok := known[id]; ok {
				if !alone && !slices.ContainsFunc(group, func(g tracestore.Trace) bool { return g.ID == id }) {
					group = append(group, t)
				}
				continue
			}
			b.asked[id] = true
			t, err := source.Trace(ctx, id)
			switch {
			case errors.Is(err, tracestore.ErrNotFound):
				return nil, nil, fmt.Errorf("%w; it may be on its way still, older than what is kept, or not sampled", err)
			case err != nil:
				return nil, nil, err
			}
			known[id] = t
			group = append(group, t)
			b.explained = append(b.explained, t)
		}
		if len(group) > 0 {
			groups = append(groups, group)
		}
	}
	return groups, b, nil
}

// together writes what the traces of each group have in common.
func together(ctx context.Context, groups [][]tracestore.Trace, b *baselines, out output) error {
	if len(groups) > 1 && out.html != "" {
		return errors.New("--html makes a page of one group: give one list of IDs")
	}
	for i, group := range groups {
		typical, note := b.of(ctx, group...)
		c := explain.Together(group, typical)
		if note != "" {
			c.Notes = append(c.Notes, note)
		}
		if i > 0 && !out.json {
			fmt.Fprintln(out.stdout)
		}
		if err := out.comparison(&c); err != nil {
			return err
		}
	}
	return nil
}
