// SPDX-License-Identifier: Apache-2.0

package app

import (
	"testing"
)

func TestIDs(t *testing.T) {
	for name, test := range map[string]struct {
		headers     map[string]string
		trace, span string
	}{
		"w3c": {
			map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			"0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331",
		},
		"b3 of 64 bits": {
			map[string]string{"x-b3-traceid": "8448EB211C80319C", "x-b3-spanid": "b7ad6b7169203331"},
			"00000000000000008448eb211c80319c", "b7ad6b7169203331",
		},
		"b3 without span": {map[string]string{"x-b3-traceid": "8448eb211c80319c"}, "", ""},
		"none":            {nil, "", ""},
	} {
		if trace, span := TraceIDs(test.headers); trace != test.trace || span != test.span {
			t.Errorf("%s: %q, %q; want %q, %q", name, trace, span, test.trace, test.span)
		}
	}
}
