// SPDX-License-Identifier: Apache-2.0

package reorder

// The functions here go on with the list that Front was called with last.

// Find returns the index of the first header of a name (in lower case), or -1.
func (l *Lists) Find(pairs []byte, name string) int {
	for i := range l.entries {
		e := &l.entries[i]
		if equalFold(pairs[e.at:e.at+e.name], name) {
			return i
		}
	}
	return -1
}

// Value returns the value of the header with this index.
func (l *Lists) Value(pairs []byte, i int) []byte {
	e := &l.entries[i]
	at := e.at + e.name + 1
	return pairs[at : at+e.value]
}

// Any reports whether one of the names is among the headers.
func (l *Lists) Any(pairs []byte, names *Names) bool {
	for i := range l.entries {
		e := &l.entries[i]
		if names.has(pairs[e.at : e.at+e.name]) {
			return true
		}
	}
	return false
}

// Insert returns the list with further headers (name, value) right behind the
// pseudo headers and a leading host. The result is valid until the next call of
// Insert or Front.
func (l *Lists) Insert(pairs []byte, headers [][2]string) []byte {
	before := 0 // entries
	for before < len(l.entries) && l.entries[before].class == head {
		before++
	}
	sizesEnd := countSize + sizesSize*len(l.entries)
	sizesCut := countSize + sizesSize*before
	dataCut := sizesEnd
	for i := range l.entries[:before] {
		dataCut += int(l.entries[i].size())
	}
	out := appendNumber(l.out[:0], uint32(len(l.entries)+len(headers)))
	out = append(out, pairs[countSize:sizesCut]...)
	for _, h := range headers {
		out = appendNumber(appendNumber(out, uint32(len(h[0]))), uint32(len(h[1])))
	}
	out = append(out, pairs[sizesCut:dataCut]...)
	for _, h := range headers {
		out = append(append(out, h[0]...), 0)
		out = append(append(out, h[1]...), 0)
	}
	l.out = append(out, pairs[dataCut:]...)
	return l.out
}

func appendNumber(b []byte, n uint32) []byte {
	return append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
}
