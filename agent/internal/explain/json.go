// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"io"
	"slices"
)

// WriteJSON writes the report as one line of JSON. No list is null.
func (r *Report) WriteJSON(w io.Writer) error {
	c := *r
	c.Layers, c.Notes, c.Verdict.Evidence = list(c.Layers), list(c.Notes), list(c.Verdict.Evidence)
	c.Hops = slices.Clone(list(c.Hops))
	for i := range c.Hops {
		h := &c.Hops[i]
		h.Segments, h.Notes, h.Verdict.Evidence = list(h.Segments), list(h.Notes), list(h.Verdict.Evidence)
	}
	return encode(w, c)
}

// WriteJSON writes the comparison as one line of JSON. No list is null.
func (c *Comparison) WriteJSON(w io.Writer) error {
	d := *c
	d.Layers, d.SlowTraces, d.Notes, d.Verdict.Evidence = list(d.Layers), list(d.SlowTraces), list(d.Notes), list(d.Verdict.Evidence)
	if d.Reasons == nil {
		d.Reasons = map[string]int{}
	}
	return encode(w, d)
}

func encode(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
