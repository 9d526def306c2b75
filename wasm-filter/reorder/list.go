// SPDX-License-Identifier: Apache-2.0

// Package reorder moves the trace context of a request to the start of its
// header list, in the bytes in which a proxy passes the list. It makes no calls
// to the proxy, so it can be tested natively.
package reorder

// List reorders header lists. It keeps its buffers from one to the next, so a
// request allocates nothing.
//
// A header list has the form in which proxy-wasm hosts pass header maps
// (proxy-wasm spec, ABI 0.2.1, "Serialized maps"), all numbers little-endian:
//
//	u32 count, count times {u32 size of name, u32 size of value},
//	count times {name, NUL, value, NUL}
type List struct {
	names   *Names
	entries []entry
	runs    []run
	out     []byte
	grpc    bool // the list is of a gRPC request
}

// NewList returns a List that moves the headers of these names.
func NewList(names *Names) *List { return &List{names: names} }

// Outcome is the result of Reorder.
type Outcome uint8

// Outcomes of Reorder.
const (
	Malformed    Outcome = iota // not a header list
	NoContext                   // no trace context
	AlreadyFirst                // nothing to do
	Reordered
)

// entry is one header of a list.
type entry struct {
	at, name, value uint32 // offset of the name; sizes
	class           class
}

// class is a group of headers, in the order in which they are sent.
type class uint8

const (
	head        class = iota // pseudo headers, and host if it leads
	te                       // of a gRPC request, which sends these three
	timeout                  // before custom metadata, such as a trace context
	contentType              // (gRPC over HTTP2, "Requests")
	trace                    // the trace context
	state                    // tracestate: after the last traceparent
	rest
)

// run is a sequence of entries that stays together: first and end index.
type run struct{ first, end int }

const (
	countSize = 4
	sizesSize = 8
)

// Reorder returns the list with the trace context right after the pseudo headers
// and a leading host. Within these three groups the order stays, repeated headers
// included, except for tracestate: it follows the last traceparent, and without
// one it is an ordinary header. In a gRPC request te, grpc-timeout and content-type
// precede the trace context, in this order.
//
// The result is nil unless the outcome is Reordered, and valid until the next
// call. pairs is never written to.
func (l *List) Reorder(pairs []byte) ([]byte, Outcome) {
	if !l.read(pairs) {
		return nil, Malformed
	}
	lastParent, traced := l.classify(pairs)
	if !traced {
		return nil, NoContext
	}
	l.runs = l.runs[:0]
	l.arrange(head, rest, lastParent)
	if len(l.runs) == 1 {
		return nil, AlreadyFirst
	}
	return l.write(pairs), Reordered
}

// read fills the entries. It reports whether pairs is a header list, with every
// part inside.
func (l *List) read(pairs []byte) bool {
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

// classify sets the class of each entry. It returns the index of the last
// traceparent, or -1, and whether there is a trace context.
func (l *List) classify(pairs []byte) (lastParent int, traced bool) {
	lastParent = -1
	l.grpc = false
	states, calls := false, false
	leading := true // only pseudo headers and host so far
	for i := range l.entries {
		e := &l.entries[i]
		name := pairs[e.at : e.at+e.name]
		e.class = rest
		switch {
		case len(name) > 0 && name[0] == ':', leading && equalFold(name, "host"):
			e.class = head
		case equalFold(name, tracestate):
			e.class, states = state, true
		case l.names.has(name):
			e.class, traced = trace, true
			if equalFold(name, traceparent) {
				lastParent = i
			}
		default:
			e.class = call(name)
			calls = calls || e.class != rest
			l.grpc = l.grpc || e.class == contentType && isGRPC(l.Value(pairs, i))
		}
		leading = leading && e.class == head
	}
	if states && lastParent < 0 {
		traced = l.ordinaryStates() || traced
	}
	if calls && !l.grpc {
		l.ordinaryCalls()
	}
	return lastParent, traced
}

// call returns the class of a header by which gRPC defines a call, or rest.
func call(name []byte) class {
	switch {
	case equalFold(name, "te"):
		return te
	case equalFold(name, "grpc-timeout"):
		return timeout
	case equalFold(name, "content-type"):
		return contentType
	}
	return rest
}

// isGRPC reports whether a content type is that of gRPC, by Envoy's definition: not
// that of gRPC-Web, which a browser sends to a proxy.
func isGRPC(value []byte) bool {
	const grpc = "application/grpc"
	return len(value) >= len(grpc) && string(value[:len(grpc)]) == grpc &&
		(len(value) == len(grpc) || value[len(grpc)] == '+')
}

// ordinaryCalls handles requests other than gRPC's.
func (l *List) ordinaryCalls() {
	for i := range l.entries {
		if c := l.entries[i].class; c == te || c == timeout || c == contentType {
			l.entries[i].class = rest
		}
	}
}

// ordinaryStates handles lists without a traceparent, where tracestate is a
// header like any other. It reports whether tracestate is configured to move.
func (l *List) ordinaryStates() bool {
	c := rest
	if l.names.Has(tracestate) {
		c = trace
	}
	for i := range l.entries {
		if l.entries[i].class == state {
			l.entries[i].class = c
		}
	}
	return c == trace
}

// arrange adds the entries of the classes from first to last to the runs, in their
// new order. A single run of all classes is the list as it was.
func (l *List) arrange(first, last class, lastParent int) {
	for c := first; c <= last; c++ {
		if c == state || te <= c && c <= contentType && !l.grpc {
			continue
		}
		for i := range l.entries {
			if l.entries[i].class != c {
				continue
			}
			l.add(i)
			if i == lastParent {
				l.addStates()
			}
		}
	}
}

func (l *List) addStates() {
	for i := range l.entries {
		if l.entries[i].class == state {
			l.add(i)
		}
	}
}

func (l *List) add(i int) {
	if last := len(l.runs) - 1; last >= 0 && l.runs[last].end == i {
		l.runs[last].end++
		return
	}
	l.runs = append(l.runs, run{i, i + 1})
}

// write returns pairs in the order of the runs.
func (l *List) write(pairs []byte) []byte {
	if cap(l.out) < len(pairs) {
		l.out = make([]byte, 0, 2*len(pairs))
	}
	out := append(l.out[:0], pairs[:countSize]...)
	out = l.appendSizes(out, pairs, l.runs)
	l.out = l.appendData(out, pairs, l.runs)
	return l.out
}

func (l *List) appendSizes(out, pairs []byte, runs []run) []byte {
	for _, r := range runs {
		out = append(out, pairs[countSize+sizesSize*r.first:countSize+sizesSize*r.end]...)
	}
	return out
}

func (l *List) appendData(out, pairs []byte, runs []run) []byte {
	for _, r := range runs {
		out = append(out, pairs[l.offset(r.first):l.offset(r.end)]...)
	}
	return out
}

// offset returns where entry i begins, or the end of the list.
func (l *List) offset(i int) uint32 {
	if i < len(l.entries) {
		return l.entries[i].at
	}
	if i == 0 {
		return countSize
	}
	e := &l.entries[i-1]
	return e.at + e.name + e.value + 2
}

// The functions below use the list that Reorder was called with last.

// Find returns the index of the first header of a name (in lower case), or -1.
func (l *List) Find(pairs []byte, name string) int {
	for i := range l.entries {
		e := &l.entries[i]
		if equalFold(pairs[e.at:e.at+e.name], name) {
			return i
		}
	}
	return -1
}

// Value returns the value of the header with this index.
func (l *List) Value(pairs []byte, i int) []byte {
	e := &l.entries[i]
	at := e.at + e.name + 1
	return pairs[at : at+e.value]
}

// Any reports whether any of the headers has one of the names.
func (l *List) Any(pairs []byte, names *Names) bool {
	for i := range l.entries {
		e := &l.entries[i]
		if names.has(pairs[e.at : e.at+e.name]) {
			return true
		}
	}
	return false
}

// Insert returns the list with further headers (name, value) where a trace context
// goes: right after the pseudo headers, a leading host, and what precedes it in a
// gRPC request. The result is valid until the next call of Insert or Reorder.
func (l *List) Insert(pairs []byte, headers [][2]string) []byte {
	l.runs = l.runs[:0]
	l.arrange(head, contentType, -1)
	before := len(l.runs)
	l.runs = append(l.runs, run{}) // keeps the runs before and after the headers apart
	l.arrange(trace, rest, -1)

	out := appendNumber(l.out[:0], uint32(len(l.entries)+len(headers)))
	out = l.appendSizes(out, pairs, l.runs[:before])
	for _, h := range headers {
		out = appendNumber(appendNumber(out, uint32(len(h[0]))), uint32(len(h[1])))
	}
	out = l.appendSizes(out, pairs, l.runs[before:])
	out = l.appendData(out, pairs, l.runs[:before])
	for _, h := range headers {
		out = append(append(out, h[0]...), 0)
		out = append(append(out, h[1]...), 0)
	}
	l.out = l.appendData(out, pairs, l.runs[before:])
	return l.out
}

// number reads a u32. encoding/binary would add reflect to the module.
func number(b []byte) uint32 {
	_ = b[3]
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func appendNumber(b []byte, n uint32) []byte {
	return append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
}
