// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"slices"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

// lastOrder returns the names of the last head's fields.
func lastOrder(heads []upstream.Head) []string {
	names := []string{} // an empty list in JSON, not null
	if len(heads) == 0 {
		return names
	}
	for _, f := range heads[len(heads)-1].Fields {
		names = append(names, f.Name)
	}
	return names
}

// offset returns where the first of the headers that the tracer writes begins in
// the last of the heads, or -1.
func offset(heads []upstream.Head, tracer lab.Tracer) int {
	if len(heads) == 0 || heads[len(heads)-1].Protocol != proxy.HTTP1 {
		return -1
	}
	head := heads[len(heads)-1]
	at := len(head.RequestLine) + len("\r\n")
	for _, f := range head.Fields {
		if slices.Contains(written[tracer], f.Name) {
			return at
		}
		at += len(f.Name) + len(": ") + len(f.Value) + len("\r\n")
	}
	return -1
}
