// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"encoding/binary"
	"slices"
	"strings"
)

// modelFront is Front once more, written for the reader: on name/value pairs,
// group by group. Its results are what Front is held to.
func modelFront(n *Names, headers [][2]string) [][2]string {
	if !slices.ContainsFunc(headers, func(h [2]string) bool { return n.Has(h[0]) }) {
		return headers
	}
	lastParent := -1
	leading := 0
	for i, h := range headers {
		if strings.EqualFold(h[0], traceparent) && n.Has(traceparent) {
			lastParent = i
		}
		if leading == i && (strings.HasPrefix(h[0], ":") || strings.EqualFold(h[0], "host")) {
			leading++
		}
	}
	group := func(i int) class {
		switch name := headers[i][0]; {
		case i < leading, strings.HasPrefix(name, ":"):
			return head
		case strings.EqualFold(name, tracestate) && lastParent >= 0:
			return state
		case n.Has(name):
			return trace
		}
		return rest
	}
	pick := func(c class) (list [][2]string) {
		for i, h := range headers {
			if group(i) == c {
				list = append(list, h)
			}
			if i == lastParent && c == trace {
				list = append(list, stateMark)
			}
		}
		return list
	}
	out := slices.Concat(pick(head), pick(trace), pick(rest))
	if at := slices.Index(out, stateMark); at >= 0 {
		out = slices.Replace(out, at, at+1, pick(state)...)
	}
	return out
}

// stateMark stands where the tracestate headers belong. No header has this name.
var stateMark = [2]string{"\x00", ""}

// encode returns headers in the form that Front reads.
func encode(headers [][2]string) []byte {
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(headers)))
	for _, h := range headers {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(h[0])))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(h[1])))
	}
	for _, h := range headers {
		out = append(out, h[0]+"\x00"+h[1]+"\x00"...)
	}
	return out
}

// decode undoes encode.
func decode(pairs []byte) [][2]string {
	headers := make([][2]string, binary.LittleEndian.Uint32(pairs))
	sizes, data := pairs[4:], pairs[4+8*len(headers):]
	for i := range headers {
		for part := range 2 {
			size := binary.LittleEndian.Uint32(sizes)
			headers[i][part] = string(data[:size])
			sizes, data = sizes[4:], data[size+1:]
		}
	}
	return headers
}

// front runs l on headers and returns its result in the same form; headers
// themselves where nothing moved.
func front(l *Lists, headers [][2]string) ([][2]string, Outcome) {
	out, outcome := l.Front(encode(headers))
	if outcome != Moved {
		return headers, outcome
	}
	return decode(out), Moved
}
