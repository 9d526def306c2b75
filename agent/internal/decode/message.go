// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

// maxHead is the size in bytes up to which heads are read. Servers accept no more than
// 8 to 64 KiB by default.
const maxHead = 64 << 10

// maxLine bounds the line of a chunk's size, and a line of a trailer.
const maxLine = 16 << 10

// phase is where in a message a parser is.
type phase uint8

const (
	between    phase = iota // before a message
	inHead                  // in the start line or the header fields
	inBody                  // in a body with a length
	inSize                  // in the line of a chunk's size
	inChunk                 // in a chunk's data, or in the line end after it
	inTrailer               // after the last chunk
	untilClose              // in a body that ends with the connection
	inTunnel                // no HTTP any more, for good
	astray                  // where a message begins is not known
)

// parser follows the messages of one direction (RFC 9112). It keeps no more of them than
// the head.
type parser struct {
	phase phase
	head  []byte
	// line is the beginning of an unfinished line outside of the head.
	line []byte
	// left is the number of bytes of the body or chunk that are to come.
	left uint64
	// lineStart is where in head the unfinished line begins.
	lineStart int
}

// event is what a parser found.
type event uint8

const (
	noEvent    event = iota // all bytes were read
	headEnds                // head is complete
	headTooBig              // head has reached maxHead
	bodyEnds                // the message is complete
	broken                  // this is not HTTP/1
)

// feed reads bytes of a message up to the next event, and returns how many it read.
func (p *parser) feed(b []byte) (n int, e event) {
	for n < len(b) {
		used, e := p.step(b[n:])
		n += used
		if e != noEvent {
			return n, e
		}
	}
	return n, noEvent
}

func (p *parser) step(b []byte) (used int, e event) {
	switch p.phase {
	case inHead:
		return p.readHead(b)
	case inBody:
		used = int(min(uint64(len(b)), p.left))
		p.left -= uint64(used)
		if p.left == 0 {
			return used, bodyEnds
		}
		return used, noEvent
	case inSize:
		line, used := p.readLine(b)
		if line == nil {
			return used, p.tooLong()
		}
		size, ok := chunkSize(line)
		switch {
		case !ok:
			return used, broken
		case size == 0:
			p.phase = inTrailer
		default:
			p.phase, p.left = inChunk, size
		}
		return used, noEvent
	case inChunk:
		used = int(min(uint64(len(b)), p.left))
		p.left -= uint64(used)
		if p.left > 0 || used == len(b) {
			return used, noEvent
		}
		line, more := p.readLine(b[used:])
		used += more
		switch {
		case line == nil && len(p.line) > 1, len(line) > 0:
			return used, broken
		case line != nil:
			p.phase = inSize
		}
		return used, noEvent
	case inTrailer:
		line, used := p.readLine(b)
		switch {
		case line == nil:
			return used, p.tooLong()
		case len(line) == 0:
			return used, bodyEnds
		}
		return used, noEvent
	}
	return len(b), noEvent // untilClose, inTunnel, astray: the caller's
}

// readHead reads up to the end of a line of the head.
func (p *parser) readHead(b []byte) (used int, e event) {
	used = len(b)
	end := bytes.IndexByte(b, '\n')
	if end >= 0 {
		used = end + 1
	}
	if room := maxHead - len(p.head); used > room {
		p.head = append(p.head, b[:room]...)
		return room, headTooBig
	}
	p.head = append(p.head, b[:used]...)
	if end < 0 {
		return used, noEvent
	}
	line := bytes.TrimSuffix(p.head[p.lineStart:len(p.head)-1], []byte("\r"))
	p.lineStart = len(p.head)
	if len(line) == 0 {
		return used, headEnds
	}
	return used, noEvent
}

// readLine returns a line without its end, nil if it is not complete yet. It is valid
// until the next call.
func (p *parser) readLine(b []byte) (line []byte, used int) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		p.line = append(p.line, b...)
		return nil, len(b)
	}
	line = append(p.line, b[:end]...)
	p.line = p.line[:0]
	return bytes.TrimSuffix(line, []byte("\r")), end + 1
}

func (p *parser) tooLong() event {
	if len(p.line) > maxLine {
		return broken
	}
	return noEvent
}

// chunkSize parses the line before a chunk; extensions are ignored (RFC 9112, section
// 7.1).
func chunkSize(line []byte) (size uint64, ok bool) {
	digits, _, _ := bytes.Cut(line, []byte(";"))
	size, err := strconv.ParseUint(string(bytes.Trim(digits, " \t")), 16, 62)
	return size, err == nil
}

// begin begins a message.
func (p *parser) begin() { *p = parser{phase: inHead, head: p.head[:0], line: p.line[:0]} }

// body begins the message's body and reports whether it is over at once.
func (p *parser) body(f framing) (over bool) {
	p.phase, p.left, p.line = f.phase, f.length, p.line[:0]
	if f.phase == inBody && f.length == 0 {
		p.phase = between
		return true
	}
	return false
}

// skip leaves out bytes that were not captured, and reports whether the parser still
// knows where it is. over is set if the message ends with them.
func (p *parser) skip(n uint64) (ok, over bool) {
	switch {
	case p.phase == inBody && n <= p.left:
		p.left -= n
		return true, p.left == 0
	case p.phase == inChunk && n <= p.left:
		p.left -= n
		return true, false
	}
	return p.phase == untilClose || p.phase == inTunnel, false
}

// framing is how the end of a body is known: inBody with its length, inSize (chunks), or
// untilClose.
type framing struct {
	phase  phase
	length uint64
}

// requestFraming returns the framing of a request's body (RFC 9112, section 6.3). ok is
// false if the fields contradict: then the end is not known.
func requestFraming(head []byte) (f framing, ok bool) {
	fields := framingFields(head)
	switch {
	case fields.odd:
		return framing{}, false
	case fields.chunked:
		return framing{phase: inSize}, true
	case fields.encoded:
		return framing{}, false // chunked must be the last coding
	case fields.hasLength:
		return framing{inBody, fields.length}, !fields.invalid
	}
	return framing{phase: inBody}, !fields.invalid
}

// responseFraming returns the framing of the body of a final response to a request with
// a method, "" if that is unknown (RFC 9112, section 6.3).
func responseFraming(head []byte, method string, status int) (f framing, ok bool) {
	fields := framingFields(head)
	switch {
	case method == http.MethodHead, status == http.StatusNoContent, status == http.StatusNotModified:
		return framing{phase: inBody}, true
	case fields.odd:
		return framing{}, false
	case fields.chunked:
		return framing{phase: inSize}, true
	case fields.encoded:
		return framing{phase: untilClose}, true
	case fields.invalid:
		return framing{}, false
	case fields.hasLength:
		return framing{inBody, fields.length}, true
	}
	return framing{phase: untilClose}, true
}

type fields struct {
	chunked, encoded   bool // chunked is the last transfer coding; there is one
	hasLength, invalid bool
	// odd: one of them is in a form that recipients read differently (RFC 9112, sections
	// 5.1 and 5.2).
	odd    bool
	length uint64
}

// framingFields reads Transfer-Encoding and Content-Length of a head.
func framingFields(head []byte) (f fields) {
	_, rest, _ := bytes.Cut(head, []byte("\n"))
	framed := false // the line before is one of the fields
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') { // it continues the line before
			f.odd = f.odd || framed
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		name := bytes.TrimRight(field, " \t")
		framed = bytes.EqualFold(name, []byte("Transfer-Encoding")) || bytes.EqualFold(name, []byte("Content-Length"))
		f.odd = f.odd || framed && len(name) < len(field)
		switch text := strings.TrimSpace(string(value)); {
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			last := text[strings.LastIndexByte(text, ',')+1:]
			f.chunked, f.encoded = strings.EqualFold(strings.TrimSpace(last), "chunked"), true
		case bytes.EqualFold(name, []byte("Content-Length")):
			for one := range strings.SplitSeq(text, ",") { // a list of the same (section 6.3)
				length, err := strconv.ParseUint(strings.TrimSpace(one), 10, 62)
				if err != nil || f.hasLength && length != f.length {
					f.invalid = true
				}
				f.hasLength, f.length = true, length
			}
		}
	}
	return f
}

// likeness is how much some bytes look like the start of a message.
type likeness uint8

const (
	unlike   likeness = iota
	possible          // as far as it goes: the start line is not complete
	like
)

// beginsRequest judges the first bytes of a request: a method, which is any token, a
// target, and a version (RFC 9112, section 3).
func beginsRequest(b []byte) likeness {
	line, _, complete := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	method, rest, found := bytes.Cut(line, []byte(" "))
	for _, c := range method {
		if !isTokenByte(c) {
			return unlike
		}
	}
	if found && len(method) == 0 || len(method) > maxMethod || complete && !found {
		return unlike
	}
	target, version, _ := bytes.Cut(rest, []byte(" "))
	for _, c := range target {
		if c < '!' || c == 0x7f { // bytes above are not allowed, and sent nevertheless
			return unlike
		}
	}
	const want = "HTTP/1."
	if complete {
		if len(target) > 0 && len(version) == len(want)+1 && bytes.HasPrefix(version, []byte(want)) && isDigit(version[len(want)]) {
			return like
		}
		return unlike
	}
	if n := min(len(version), len(want)); string(version[:n]) != want[:n] || len(version) > len(want)+1 {
		return unlike
	}
	return possible
}

// looksLikeMethod reports whether data begins with a token and a space.
func looksLikeMethod(b []byte) bool {
	method, _, ok := bytes.Cut(b[:min(len(b), maxMethod+1)], []byte(" "))
	return ok && len(method) > 0 && !bytes.ContainsFunc(method, func(r rune) bool { return r > 0x7e || !isTokenByte(byte(r)) })
}

// hasTarget reports whether an unfinished head is at least in the request's target. Less
// may as well be other data.
func hasTarget(head []byte) bool {
	at := bytes.IndexByte(head, ' ')
	return at > 0 && at+1 < len(head)
}

// maxMethod is more than the longest registered method, UPDATEREDIRECTREF, has.
const maxMethod = 32

// beginsResponse judges the first bytes of a response: "HTTP/1.", a digit, a space and
// three digits.
func beginsResponse(b []byte) likeness {
	const form = "HTTP/1.d ddd"
	for i := range min(len(b), len(form)) {
		if form[i] == 'd' && !isDigit(b[i]) || form[i] != 'd' && b[i] != form[i] {
			return unlike
		}
	}
	if len(b) < len(form) {
		return possible
	}
	return like
}

// statusOf returns the status code of a response, 0 without one.
func statusOf(head []byte) int {
	if beginsResponse(head) != like {
		return 0
	}
	return int(head[9]-'0')*100 + int(head[10]-'0')*10 + int(head[11]-'0')
}

// requestLine returns method and path, without query, of a complete request line.
func requestLine(head []byte) (method, path string) {
	line, _, _ := strings.Cut(string(head[:min(len(head), maxHead)]), "\n")
	method, rest, _ := strings.Cut(line, " ")
	target, _, _ := strings.Cut(rest, " ")
	if method == http.MethodConnect {
		return method, "" // its target is an authority
	}
	if !strings.HasPrefix(target, "/") { // absolute form (RFC 9112, section 3.2.2)
		if _, after, ok := strings.Cut(target, "://"); ok {
			target = "/"
			if at := strings.IndexAny(after, "/?#"); at >= 0 && after[at] == '/' {
				target = after[at:]
			}
		}
	}
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		target = target[:i]
	}
	return method, target
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// isTokenByte reports whether a byte may be in a token (RFC 9110, section 5.6.2).
func isTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// isInterim reports whether another response follows this one (RFC 9110, section 15.2).
// 101 is the last response in HTTP.
func isInterim(code int) bool {
	return code >= 100 && code < 200 && code != http.StatusSwitchingProtocols
}
