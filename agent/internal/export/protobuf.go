// SPDX-License-Identifier: Apache-2.0

package export

import (
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendFixed64(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), v)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// appendString appends text. A receiver refuses a whole batch for a byte that
// is not UTF-8, and an interface's name can have one: it is replaced.
func appendString(b []byte, field protowire.Number, v string) []byte {
	if !utf8.ValidString(v) {
		v = strings.ToValidUTF8(v, string(utf8.RuneError))
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// openMessage begins a field that is a message; what is appended until
// closeMessage is its content. The length goes before the content and is not
// known yet: one byte is left for it, which is enough up to 127.
func openMessage(b []byte, field protowire.Number) (_ []byte, length int) {
	b = append(protowire.AppendTag(b, field, protowire.BytesType), 0)
	return b, len(b) - 1
}

// closeMessage writes the length of a message at the place that openMessage
// returned, and moves the content back where it takes more than one byte.
func closeMessage(b []byte, length int) []byte {
	n := uint64(len(b) - length - 1)
	if n < 0x80 {
		b[length] = byte(n)
		return b
	}
	return slices.Replace(b, length, length+1, protowire.AppendVarint(nil, n)...)
}
