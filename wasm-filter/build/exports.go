// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Of the WebAssembly binary format (core specification 1.0, section 5.5).
const (
	preamble      = "\x00asm\x01\x00\x00\x00"
	exportSection = 7
)

var errShort = errors.New("the module ends in the middle of a section")

// keepExports returns the module with no other exports than those named, and
// fails when one of them is missing. The functions behind the others stay.
func keepExports(module []byte, names []string) ([]byte, error) {
	rest, ok := bytes.CutPrefix(module, []byte(preamble))
	if !ok {
		return nil, errors.New("not a WebAssembly 1.0 module")
	}
	out := []byte(preamble)
	missing := slices.Clone(names)
	for len(rest) > 0 {
		id := rest[0]
		body, after, err := cutBytes(rest[1:])
		if err != nil {
			return nil, err
		}
		if id == exportSection {
			var found []string
			if body, found, err = filterExports(body, names); err != nil {
				return nil, err
			}
			missing = slices.DeleteFunc(missing, func(n string) bool { return slices.Contains(found, n) })
		}
		out = append(out, id)
		out = binary.AppendUvarint(out, uint64(len(body)))
		out = append(out, body...)
		rest = after
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the module does not export %q", missing)
	}
	return out, nil
}

// filterExports returns the export section's content with only the named
// entries, and the names that were there.
func filterExports(section []byte, names []string) (kept []byte, found []string, err error) {
	count, n := binary.Uvarint(section)
	if n <= 0 {
		return nil, nil, errShort
	}
	section = section[n:]
	var entries []byte
	for range count {
		name, after, err := cutBytes(section)
		if err != nil || len(after) == 0 {
			return nil, nil, errShort
		}
		_, n := binary.Uvarint(after[1:]) // behind the kind: the index
		if n <= 0 {
			return nil, nil, errShort
		}
		size := len(section) - len(after) + 1 + n
		if slices.Contains(names, string(name)) {
			entries = append(entries, section[:size]...)
			found = append(found, string(name))
		}
		section = section[size:]
	}
	kept = binary.AppendUvarint(nil, uint64(len(found)))
	return append(kept, entries...), found, nil
}

// cutBytes takes a vector of bytes (its length in LEB128, then so many bytes)
// off the front.
func cutBytes(data []byte) (vector, after []byte, err error) {
	size, n := binary.Uvarint(data)
	if n <= 0 || size > uint64(len(data)-n) {
		return nil, nil, errShort
	}
	return data[n : n+int(size)], data[n+int(size):], nil
}
