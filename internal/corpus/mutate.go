// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	"bytes"
	"math/rand/v2"
	"slices"
)

// Mutate returns a changed copy of a head, always the same one for a seed. Of
// its one to four changes most hit the lines of trace contexts.
func Mutate(seed uint64, head []byte) []byte {
	m := mutator{Rand: rand.New(rand.NewPCG(seed, 0x6c61796572)), head: bytes.Clone(head)}
	for range 1 + m.IntN(4) {
		if len(m.head) == 0 {
			break
		}
		mutations[m.IntN(len(mutations))](&m)
	}
	return m.head
}

type mutator struct {
	*rand.Rand
	head []byte
}

// mutations are the changes, the frequent ones several times.
var mutations = []func(*mutator){
	(*mutator).flipBit, (*mutator).setByte, (*mutator).insertByte, (*mutator).deleteByte,
	(*mutator).deleteRange, (*mutator).truncate, (*mutator).changeCase,
	(*mutator).duplicateLine, (*mutator).swapLines, (*mutator).deleteLine, (*mutator).bareLF,
	(*mutator).insertLine, (*mutator).insertLine, (*mutator).insertLine, (*mutator).insertLong,
	(*mutator).spliceValue, (*mutator).spliceValue, (*mutator).spliceValue,
	(*mutator).replaceValue, (*mutator).replaceValue, (*mutator).replaceValue,
}

// telling are the bytes that a parser takes for more than text.
const telling = "\r\n\r\n:: \t--%=,;0019adfgzAFGZ\x00\x7f\xff"

func (m *mutator) anyByte() byte {
	if m.IntN(3) > 0 {
		return telling[m.IntN(len(telling))]
	}
	return byte(m.IntN(256))
}

// at returns a place, mostly one within the line of a trace context.
func (m *mutator) at() int {
	if m.IntN(4) > 0 {
		if lines := m.contextLines(); len(lines) > 0 {
			l := lines[m.IntN(len(lines))]
			return l.start + m.IntN(l.end-l.start)
		}
	}
	return m.IntN(len(m.head))
}

func (m *mutator) flipBit() { m.head[m.at()] ^= 1 << m.IntN(8) }
func (m *mutator) setByte() { m.head[m.at()] = m.anyByte() }

func (m *mutator) insertByte() { m.head = slices.Insert(m.head, m.at(), m.anyByte()) }

func (m *mutator) deleteByte() {
	at := m.at()
	m.head = slices.Delete(m.head, at, at+1)
}

func (m *mutator) deleteRange() {
	at := m.at()
	m.head = slices.Delete(m.head, at, min(len(m.head), at+1+m.IntN(40)))
}

func (m *mutator) truncate() { m.head = m.head[:m.at()] }

// changeCase turns a run of letters into the other case.
func (m *mutator) changeCase() {
	at := m.at()
	for i := at; i < min(len(m.head), at+1+m.IntN(20)); i++ {
		if c := m.head[i] | 0x20; c >= 'a' && c <= 'z' {
			m.head[i] ^= 0x20
		}
	}
}

// bareLF takes the CR away from some line ends, or from all.
func (m *mutator) bareLF() {
	all := m.IntN(2) == 0
	var out []byte
	for i, c := range m.head {
		if c == '\r' && i+1 < len(m.head) && m.head[i+1] == '\n' && (all || m.IntN(3) == 0) {
			continue
		}
		out = append(out, c)
	}
	m.head = out
}
