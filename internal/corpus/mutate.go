// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	"bytes"
	"math/rand/v2"
	"net/textproto"
	"slices"
	"strings"
)

// Mutate returns a changed copy of a head, the same one for the same seed. Most
// of its one to four changes hit the lines of trace contexts.
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

// mutations are the possible changes; a repeated one is more likely.
var mutations = []func(*mutator){
	(*mutator).flipBit, (*mutator).setByte, (*mutator).insertByte, (*mutator).deleteByte,
	(*mutator).deleteRange, (*mutator).truncate, (*mutator).changeCase,
	(*mutator).duplicateLine, (*mutator).swapLines, (*mutator).deleteLine, (*mutator).bareLF,
	(*mutator).insertLine, (*mutator).insertLine, (*mutator).insertLine, (*mutator).insertLong,
	(*mutator).spliceValue, (*mutator).spliceValue, (*mutator).spliceValue,
	(*mutator).replaceValue, (*mutator).replaceValue, (*mutator).replaceValue,
	(*mutator).changeMethod, (*mutator).swapTwice, (*mutator).replaceLine, (*mutator).replaceLine,
}

// special are the bytes that mean more than text to a parser.
const special = "\r\n\r\n:: \t--%=,;0019adfgzAFGZ\x00\x7f\xff"

func (m *mutator) anyByte() byte {
	if m.IntN(3) > 0 {
		return special[m.IntN(len(special))]
	}
	return byte(m.IntN(256))
}

// at returns an offset, mostly one in the line of a trace context.
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

// changeCase inverts the case of a run of letters.
func (m *mutator) changeCase() {
	at := m.at()
	for i := at; i < min(len(m.head), at+1+m.IntN(20)); i++ {
		if c := m.head[i] | 0x20; c >= 'a' && c <= 'z' {
			m.head[i] ^= 0x20
		}
	}
}

// bareLF removes the CR of some line ends, or of all.
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

// line is a range of the head, LF included.
type line struct{ start, end int }

func (m *mutator) lines() []line {
	var lines []line
	for start := 0; start < len(m.head); {
		end := len(m.head)
		if i := bytes.IndexByte(m.head[start:], '\n'); i >= 0 {
			end = start + i + 1
		}
		lines = append(lines, line{start, end})
		start = end
	}
	return lines
}

// contextLines returns the lines that look like trace headers.
func (m *mutator) contextLines() []line {
	return slices.DeleteFunc(m.lines(), func(l line) bool {
		name, _, _ := strings.Cut(strings.ToLower(string(m.head[l.start:l.end])), ":")
		return !slices.ContainsFunc([]string{"trace", "b3", "sw8", "datadog"}, func(part string) bool {
			return strings.Contains(name, part)
		})
	})
}

// pick returns a line, mostly one of a trace header.
func (m *mutator) pick() line {
	lines := m.lines()
	if contexts := m.contextLines(); len(contexts) > 0 && m.IntN(3) > 0 {
		lines = contexts
	}
	return lines[m.IntN(len(lines))]
}

// lineStart returns the start of a line, mostly one after the request line.
func (m *mutator) lineStart() int {
	lines := m.lines()
	if len(lines) > 1 && m.IntN(10) > 0 {
		lines = lines[1:]
	}
	return lines[m.IntN(len(lines))].start
}

func (m *mutator) duplicateLine() {
	l := m.pick()
	m.head = slices.Insert(m.head, m.lineStart(), bytes.Clone(m.head[l.start:l.end])...)
}

func (m *mutator) deleteLine() {
	l := m.pick()
	m.head = slices.Delete(m.head, l.start, l.end)
}

func (m *mutator) swapLines() {
	a, b := m.pick(), m.pick()
	if a.start > b.start {
		a, b = b, a
	}
	if a.end > b.start {
		return // the same one
	}
	m.head = slices.Concat(m.head[:a.start], m.head[b.start:b.end], m.head[a.end:b.start], m.head[a.start:a.end], m.head[b.end:])
}

// insertLong inserts a long line, around the limits: so that the rest is beyond
// the window, or the line is longer than deep mode reads.
func (m *mutator) insertLong() {
	length := []int{100, 400, 480, 500, 512, 600, 900, 1024, 3000}[m.IntN(9)] + m.IntN(40)
	text := "x-long: " + strings.Repeat("l", length) + "\r\n"
	m.head = slices.Insert(m.head, m.lineStart(), []byte(text)...)
}

// known are the headers that the parsers know, each with values that are valid,
// at a limit, or just beyond it.
var known = []struct {
	name   string
	values []string
}{
	{"traceparent", []string{
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
		"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
	}},
	{"b3", []string{
		"4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
		"a3ce929d0e0e4736-00F067AA0BA902B7-0",
		"4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
		"a3ce929d0e0e4736-00f067aa0ba902b7-d-05e3ac9a4f6e3b90",
		"a3ce929d0e0e4736-00f067aa0ba902b7-0-05e3ac9a4f6e3b9", "0", "1", "d", "D",
		"4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-05e3ac9a4f6e3b90",
	}},
	{"uber-trace-id", []string{
		"4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1",
		"1:1::0", "ABC%3A1%3a0:1", "0:0:0:1", "a%3Ab%3Ac%3A02", "1:1:1:001",
	}},
	{"sw8", []string{"1-dHI=-c2U=-3-x", "0-dHI=-c2U=-99999999", "1-a-b-123456789", "0-a-b-1", "1-a-b",
		"1-" + strings.Repeat("YQ==", 64) + "-" + strings.Repeat("Yg==", 64) + "-1", "1-" + strings.Repeat("YQ==", 64) + "a-b-1",
	}},
	{"x-amzn-trace-id", []string{
		"Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1",
		"Sampled=0; Parent=00F067AA0BA902B7; Root=1-4BF92F35-77b34da6a3ce929d0e0e4736", "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736",
		"Self=1-1-1;Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=?", "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=0000000000000000",
		"Root=2-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7", "Parent=00f067aa0ba902b7;Parent=;Sampled=;Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Root=",
		strings.Repeat(";", 14) + "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7", strings.Repeat("a=b;", 16), "",
	}},
	{"x-cloud-trace-context", []string{
		"4bf92f3577b34da6a3ce929d0e0e4736/67667974448284343;o=1", "4BF92F3577B34DA6A3CE929D0E0E4736/1;o=0", "4bf92f3577b34da6a3ce929d0e0e4736/1",
		"4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f3577b34da6a3ce929d0e0e4736/0;o=1", "4bf92f3577b34da6a3ce929d0e0e4736/18446744073709551616;o=1",
		"4bf92f3577b34da6a3ce929d0e0e4736;o=1", "4bf92f3577b34da6a3ce929d0e0e4736/1;o=12", "00000000000000000000000000000000/1;o=1", "",
	}},
	{"x-b3-traceid", []string{"4bf92f3577b34da6a3ce929d0e0e4736", "A3CE929D0E0E4736", "0000000000000000", "4bf92f3577b34da6a", "F", "04bf92f3577b34da6a3ce929d0e0e4736"}},
	{"x-b3-spanid", []string{"00f067aa0ba902b7", "00F067AA0BA902B7", "0000000000000000", "00f067aa0ba902b", "e", "000f067aa0ba902b7", "05e3ac9a4f6e3b90"}},
	{"x-b3-sampled", []string{"0", "1", "true", "false", "d", "D", "True", "FALSE", "fals", ""}},
	{"x-b3-flags", []string{"0", "1", "2"}},
	{"x-b3-parentspanid", []string{"05e3ac9a4f6e3b90"}},
	{"x-datadog-trace-id", []string{"18446744073709551615", "18446744073709551616", "00000000000000000001", "000000000000000000001", "0", "12345", "11803532876627986230"}},
	{"x-datadog-parent-id", []string{"18446744073709551615", "99999999999999999999", "7", "-7", "0", "67667974448284343", ""}},
	{"x-datadog-tags", []string{
		"_dd.p.dm=-4,_dd.p.tid=4bf92f3577b34da6", "_dd.p.tid=4BF92F3577B34DA6,_dd.p.tid=x", "_dd.p.tid=4bf92f3577b34da", "_dd.p.tid=0000000000000000",
		"_dd.p.tid=", strings.Repeat("a,", 31) + "_dd.p.tid=4bf92f3577b34da6", strings.Repeat("a,", 32) + "_dd.p.tid=4bf92f3577b34da6", "",
	}},
	{"x-datadog-sampling-priority", []string{"-1", "0", "1", "2", "3", "01"}},
	// These only look like known ones.
	{"x-datadog-origin", []string{"rum"}},
	{"tracestate", []string{"a=b"}},
	{"traceparent-", []string{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
	{"x-b3-", []string{"1"}},
	{"b", []string{"0"}},
	{"", []string{"0"}},
}

// changeMethod replaces the method, or what is before it.
func (m *mutator) changeMethod() {
	method := m.from([]string{
		"PROPFIND ", "QUERY ", "VERSION-CONTROL ", "M-SEARCH ", "UPDATEREDIRECTREF ", "A ", "X_1 ", "ABCDEFG ", "ABCDEFGH ", "get ", "Get ", "1GET ",
		strings.Repeat("M", 31) + " ", strings.Repeat("M", 32) + " ", "PURGE\t", "PURGE", "HTTP/1.1 ", "\r\nGET ", "\r\nPURGE ", "\nGET ", "\r\n\r\nGET ", "\r\n",
	})
	if end := bytes.IndexByte(m.head, ' '); end >= 0 {
		m.head = slices.Replace(m.head, 0, end+1, []byte(method)...)
	}
	if m.IntN(4) == 0 {
		m.head = slices.Insert(m.head, min(len(m.head), len(method)), []byte(m.from([]string{"*", "http://a", "HTTP://a", "a", " "}))...)
	}
}

// swapTwice reorders more than one line.
func (m *mutator) swapTwice() {
	m.swapLines()
	if len(m.head) > 0 {
		m.swapLines()
	}
}

// valueOf returns a value for a header, mostly one of its own.
func (m *mutator) valueOf(name string) string {
	header := known[m.IntN(len(known))]
	if m.IntN(5) > 0 {
		for _, k := range known {
			if strings.EqualFold(k.name, name) {
				header = k
			}
		}
	}
	return m.from(header.values)
}

var (
	lineEnds = []string{"\r\n", "\r\n", "\r\n", "\n", "\r\r\n", " \t\r\n", blanks(64) + "\r\n", blanks(65) + "\n"}
	colons   = []string{": ", ":", ":\t ", " :", ":: ", ":" + blanks(64), ":" + blanks(65)}
)

// blanks returns blanks; the parsers skip at most 64 around a value.
func blanks(n int) string { return strings.Repeat("\t ", n)[:n] }

func (m *mutator) from(list []string) string { return list[m.IntN(len(list))] }

// insertLine inserts a line with a known name and a value that may fit it.
func (m *mutator) insertLine() {
	name, colon := known[m.IntN(len(known))].name, ": "
	value := m.valueOf(name)
	if m.IntN(3) == 0 {
		name = textproto.CanonicalMIMEHeaderKey(name)
	}
	if m.IntN(4) == 0 {
		colon = m.from(colons)
	}
	text := name + colon + value + m.from(lineEnds)
	m.head = slices.Insert(m.head, m.lineStart(), []byte(text)...)
}

// replaceLine puts a line with a known name in place of another one, mostly with one
// that no recorded head has.
func (m *mutator) replaceLine() {
	l := m.pick()
	k := known[m.IntN(len(known))]
	for i := 0; i < 40 && !strings.HasPrefix(k.name, "x-amzn-") && !strings.HasPrefix(k.name, "x-cloud-"); i++ {
		k = known[m.IntN(len(known))]
	}
	m.head = slices.Replace(m.head, l.start, l.end, []byte(k.name+": "+m.from(k.values)+m.from(lineEnds))...)
}

// value returns a line's name and the range of its value without blanks and
// line end.
func (m *mutator) value() (name string, start, end int, ok bool) {
	l := m.pick()
	colon := bytes.IndexByte(m.head[l.start:l.end], ':')
	if colon < 0 {
		return "", 0, 0, false
	}
	value := bytes.TrimSpace(m.head[l.start+colon+1 : l.end])
	start = l.start + colon + 1 + bytes.Index(m.head[l.start+colon+1:l.end], value)
	return string(m.head[l.start : l.start+colon]), start, start + len(value), true
}

// replaceValue replaces a line's value by another known one.
func (m *mutator) replaceValue() {
	if name, start, end, ok := m.value(); ok {
		m.head = slices.Replace(m.head, start, end, []byte(m.valueOf(name))...)
	}
}

// spliceValue changes one part of a value (between separators): to zeros, to an invalid digit, shorter, longer, or in case.
func (m *mutator) spliceValue() {
	name, start, end, ok := m.value()
	if !ok || start == end {
		return
	}
	parts := splitKeep(string(m.head[start:end]))
	i := m.IntN(len(parts))
	part := parts[i]
	switch m.IntN(7) {
	case 0:
		part = strings.Repeat("0", len(part))
	case 1:
		at := m.IntN(len(part))
		part = part[:at] + string("gG/:@`{ \x00"[m.IntN(9)]) + part[at+1:]
	case 2:
		part = part[:m.IntN(len(part))]
	case 3:
		part += part[:m.IntN(len(part)+1)]
	case 4:
		part = strings.ToUpper(part)
	case 5:
		part = strings.Repeat("0", m.IntN(40)) + part
	default:
		part = m.valueOf(name)
	}
	parts[i] = part
	m.head = slices.Replace(m.head, start, end, []byte(strings.Join(parts, ""))...)
}

// splitKeep splits before and after each separator of a format.
func splitKeep(s string) []string {
	var parts []string
	for len(s) > 0 {
		i := strings.IndexAny(s, "-:;,=/")
		switch {
		case i < 0:
			return append(parts, s)
		case i == 0:
			i = 1
		}
		parts = append(parts, s[:i])
		s = s[i:]
	}
	return parts
}
