// SPDX-License-Identifier: Apache-2.0

// Package reordertest converts header lists for the tests of the filter and of
// package reorder.
package reordertest

import "encoding/binary"

// Encode returns headers in the form that reorder.List reads.
func Encode(headers [][2]string) []byte {
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

// Decode is the inverse of Encode.
func Decode(pairs []byte) [][2]string {
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
