// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// request builds a head from header lines, with the end of the head.
func request(lines ...string) string {
	return "GET /x HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(lines, "", ""), "\r\n")
}

const (
	hex16  = "00f067aa0ba902b7"
	hex32  = "4bf92f3577b34da6a3ce929d0e0e4736"
	zero16 = "0000000000000000"
	w3c    = "traceparent: 00-" + hex32 + "-" + hex16 + "-01"
)

var w3cContext = Context{traceIDFromHex(hex32), spanIDFromHex(hex16), Accepted, FormatW3C}

func context(f Format, trace, span string, s Sampling) Context {
	return Context{traceIDFromHex(trace), spanIDFromHex(span), s, f}
}

func check(t *testing.T, head string, opts Options, want Result) {
	t.Helper()
	if want.Outcome != None || want.Final {
		want.BeginsRequest = true
	}
	if diff := cmp.Diff(want, Parse([]byte(head), opts)); diff != "" {
		t.Errorf("Parse(%.200q) (-want +got):\n%s", head, diff)
	}
}

func TestBeginsRequest(t *testing.T) {
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"} {
		head := strings.Replace(request(w3c), "GET", m, 1)
		want := uint32(strings.Index(head, "traceparent"))
		check(t, head, Options{}, Result{Outcome: Found, Context: w3cContext, Offset: want, Final: true})
	}
	for _, head := range []string{"", "GE", "GET", "get / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", " GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n", "GETS / HTTP/1.1\r\n\r\n"} {
		check(t, head, Options{}, Result{})
	}
}

func TestRequestLine(t *testing.T) {
	for line, want := range map[string]Outcome{
		"GET / HTTP/1.1":       None,
		"GET / HTTP/1.0":       None,
		"GET / HTTP/1.9":       None,
		"GET  HTTP/1.1":        None,
		"GET / HTTP/2.0":       Unparsable,
		"GET / HTTP/1.":        Unparsable,
		"GET / HTTP/1.x":       Unparsable,
		"GET / HTTP/1.1 ":      Unparsable,
		"GET / http/1.1":       Unparsable,
		"GET /":                Unparsable,
		"GET ":                 Unparsable,
		"GET \x00\xff\x17\x03": Unparsable,
	} {
		check(t, line+"\r\n\r\n", Options{}, Result{Outcome: want, Final: true})
		check(t, line+"\n\n", Options{}, Result{Outcome: want, Final: true})
		check(t, line, Options{}, Result{Outcome: Truncated})
	}
}

func TestLines(t *testing.T) {
	found := func(offset uint32) Result {
		return Result{Outcome: Found, Context: w3cContext, Offset: offset, Final: true}
	}
	for name, c := range map[string]struct {
		head string
		want Result
	}{
		"behind host":            {request(w3c), found(26)},
		"bare LF":                {strings.ReplaceAll(request(w3c), "\r\n", "\n"), found(24)},
		"any case":               {request(strings.Replace(w3c, "traceparent", "TraceParent", 1)), found(26)},
		"64 blanks":              {request(strings.Replace(w3c, ": ", ":"+strings.Repeat("\t", 64), 1) + strings.Repeat(" ", 64)), found(26)},
		"65 blanks in front":     {request(strings.Replace(w3c, ": ", ":"+strings.Repeat(" ", 65), 1)), Result{Outcome: None, Malformed: 1, Final: true}},
		"65 blanks behind":       {request("sw8: 1-a-b-1-" + strings.Repeat(" ", 65)), Result{Outcome: None, Malformed: 1, Final: true}},
		"no space":               {request(strings.Replace(w3c, ": ", ":", 1)), found(26)},
		"tabs around":            {request(strings.Replace(w3c, ": ", ":\t \t", 1) + " \t "), found(26)},
		"head goes on":           {strings.TrimSuffix(request(w3c), "\r\n"), found(26)},
		"space before the colon": {request(strings.Replace(w3c, ":", " :", 1)), Result{Outcome: None, Final: true}},
		"folded line":            {request("x: y\r\n " + w3c), Result{Outcome: None, Final: true}},
		"no colon":               {request("traceparent"), Result{Outcome: None, Final: true}},
		"longer name":            {request("x-" + w3c), Result{Outcome: None, Final: true}},
		"behind the head":        {request("a: b") + w3c + "\r\n", Result{Outcome: None, Final: true}},
		"not ASCII":              {request("uber-trace-\u0130d: 1:1:0:1"), Result{Outcome: None, Final: true}},
		"second CR":              {request(w3c + "\r"), Result{Outcome: None, Malformed: 1, Final: true}},
		"line without its LF":    {strings.TrimSuffix(request(w3c), "\n\r\n"), Result{Outcome: Truncated}},
		"no context":             {request("Accept: */*"), Result{Outcome: None, Final: true}},
		"malformed, then valid":  {request("b3: 1", w3c), Result{Outcome: Found, Context: w3cContext, Offset: 33, Malformed: 1, Final: true}},
		"first of two":           {request(w3c, "b3: 0"), found(26)},
	} {
		t.Run(name, func(t *testing.T) { check(t, c.head, Options{}, c.want) })
	}
}

func TestWindow(t *testing.T) {
	head := request(w3c)
	end := strings.Index(head, w3c) + len(w3c) + len("\r\n")
	for window := len("GET "); window <= len(head); window++ {
		want := Result{Outcome: Truncated, Final: true}
		if window >= end {
			want = Result{Outcome: Found, Context: w3cContext, Offset: 26, Final: true}
		}
		check(t, head, Options{Window: window}, want)
		want.Final = window >= end
		check(t, head[:window], Options{Window: len(head) + 1}, want)
	}
}

func TestMaxLine(t *testing.T) {
	opts := Options{MaxLine: DeepMaxLine}
	long := "cookie: " + strings.Repeat("c", DeepMaxLine)
	check(t, request(long, w3c), opts, Result{Outcome: Found, Context: w3cContext, Offset: 26 + uint32(len(long)) + 2, Final: true})
	padded := strings.Replace(w3c, "00-", "01-", 1) + "-"
	padded += strings.Repeat("x", DeepMaxLine-len(padded))
	check(t, request(padded), opts, Result{Outcome: Found, Context: w3cContext, Offset: 26, Final: true})
	check(t, request(padded+"x"), opts, Result{Outcome: None, Final: true})
	check(t, "GET /"+long+" HTTP/7\r\n\r\n", opts, Result{Outcome: None, Final: true})
	b3 := context(FormatB3Multi, hex32, hex16, Denied)
	check(t, request("x-b3-traceid: "+hex32, "x-b3-spanid: "+hex16, long, "x-b3-sampled: 0"), opts,
		Result{Outcome: Unsampled, Context: b3, Offset: 26, Final: true})
}
