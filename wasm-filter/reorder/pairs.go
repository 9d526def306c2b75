// SPDX-License-Identifier: Apache-2.0

package reorder

// entry is one header of a list: where its name begins, and the sizes of name
// and value. The list is in the form in which proxy-wasm hosts pass header maps
// (proxy-wasm spec, ABI 0.2.1, "Serialized maps"), all numbers little-endian:
//
//	u32 count, count times {u32 size of name, u32 size of value},
//	count times {name, NUL, value, NUL}
type entry struct {
	at, name, value uint32
	class           class
}

// size is the number of bytes of name and value with their NULs.
func (e *entry) size() uint32 { return e.name + e.value + 2 }

const (
	countSize = 4
	sizesSize = 8
)

// read fills the entries and reports whether pairs is a header list of which
// every part lies inside.
func (l *Lists) read(pairs []byte) bool {
	l.entries = l.entries[:0]
	total := uint64(len(pairs))
	if total < countSize || total > 1<<31 {
		return false
	}
	count := uint64(number(pairs))
	at := countSize + count*sizesSize
	if at > total {
		return false
	}
	sizes := pairs[countSize:at]
	for ; len(sizes) >= sizesSize; sizes = sizes[sizesSize:] {
		name, value := number(sizes), number(sizes[4:])
		l.entries = append(l.entries, entry{at: uint32(at), name: name, value: value})
		if at += uint64(name) + uint64(value) + 2; at > total {
			return false
		}
	}
	return at == total
}

// write returns pairs in the order of l.order.
func (l *Lists) write(pairs []byte) []byte {
	if cap(l.out) < len(pairs) {
		l.out = make([]byte, 0, 2*len(pairs))
	}
	out := append(l.out[:0], pairs[:countSize]...)
	for _, i := range l.order {
		from := countSize + i*sizesSize
		out = append(out, pairs[from:from+sizesSize]...)
	}
	for _, i := range l.order {
		e := &l.entries[i]
		out = append(out, pairs[e.at:e.at+e.size()]...)
	}
	l.out = out
	return out
}

// number reads an u32. (encoding/binary would bring reflect into the module.)
func number(b []byte) uint32 {
	_ = b[3]
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
