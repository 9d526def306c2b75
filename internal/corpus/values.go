// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	"bytes"
	"net/textproto"
	"slices"
	"strings"
)

// own are the headers that the parsers know with values as they hold them:
// valid, at a limit, or just beyond it.
var own = []struct {
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
		"a3ce929d0e0e4736-00f067aa0ba902b7-0-05e3ac9a4f6e3b9", "0", "1",
	}},
	{"uber-trace-id", []string{
		"4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1",
		"1:1::0", "ABC%3A1%3a0:1", "0:0:0:1", "a%3Ab%3Ac%3A02", "1:1:1:001",
	}},
	{"sw8", []string{"1-dHI=-c2U=-3-x", "0-dHI=-c2U=-99999999", "1-a-b-123456789", "0-a-b-1", "1-a-b"}},
	{"x-b3-traceid", []string{"4bf92f3577b34da6a3ce929d0e0e4736", "A3CE929D0E0E4736", "0000000000000000", "4bf92f3577b34da6a"}},
	{"x-b3-spanid", []string{"00f067aa0ba902b7", "00F067AA0BA902B7", "0000000000000000", "00f067aa0ba902b"}},
	{"x-b3-sampled", []string{"0", "1", "true", "false", "d", "D", "True", ""}},
	{"x-b3-flags", []string{"0", "1", "2"}},
	{"x-b3-parentspanid", []string{"05e3ac9a4f6e3b90"}},
	{"x-datadog-trace-id", []string{"18446744073709551615", "18446744073709551616", "00000000000000000001", "000000000000000000001", "0", "12345"}},
	{"x-datadog-parent-id", []string{"18446744073709551615", "99999999999999999999", "7", "-7", ""}},
	{"x-datadog-sampling-priority", []string{"-1", "0", "1", "2", "3", "01"}},
	// Those are only like the known ones.
	{"x-datadog-origin", []string{"rum"}},
	{"tracestate", []string{"a=b"}},
	{"traceparent-", []string{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
	{"x-b3-", []string{"1"}},
	{"b", []string{"0"}},
	{"", []string{"0"}},
}

// valueOf returns a value for the header: mostly one of its own.
func (m *mutator) valueOf(name string) string {
	known := own[m.IntN(len(own))]
	if m.IntN(5) > 0 {
		for _, o := range own {
			if strings.EqualFold(o.name, name) {
				known = o
			}
		}
	}
	return m.from(known.values)
}

var (
	lineEnds = []string{"\r\n", "\r\n", "\r\n", "\n", "\r\r\n", " \t\r\n", blanks(64) + "\r\n", blanks(65) + "\n"}
	colons   = []string{": ", ":", ":\t ", " :", ":: ", ":" + blanks(64), ":" + blanks(65)}
)

// blanks are around the number that may stand at the ends of a value.
func blanks(n int) string { return strings.Repeat("\t ", n)[:n] }

func (m *mutator) from(list []string) string { return list[m.IntN(len(list))] }

// insertLine puts a line with a known name and a value that may fit somewhere.
func (m *mutator) insertLine() {
	name, colon := own[m.IntN(len(own))].name, ": "
	value := m.valueOf(name)
	if m.IntN(3) == 0 {
		name = textproto.CanonicalMIMEHeaderKey(name)
	}
	if m.IntN(4) == 0 {
		colon = m.from(colons)
	}
	text := name + colon + value + m.from(lineEnds)
	m.head = slices.Insert(m.head, m.place(), []byte(text)...)
}

// value returns a line's name and the range of its value, spaces and line end
// left out.
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

// replaceValue gives a line another value out of the list.
func (m *mutator) replaceValue() {
	if name, start, end, ok := m.value(); ok {
		m.head = slices.Replace(m.head, start, end, []byte(m.valueOf(name))...)
	}
}

// spliceValue changes one part of a value, as parts are told apart in any of
// the formats: to zeros, to what is no hex digit, shorter, longer or to the
// other case.
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

// splitKeep cuts in front of and behind each "-" and ":".
func splitKeep(s string) []string {
	var parts []string
	for len(s) > 0 {
		i := strings.IndexAny(s, "-:")
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
