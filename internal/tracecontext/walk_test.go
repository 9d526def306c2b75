// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// request builds a complete head from header lines.
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
	got := Parse([]byte(head), opts)
	want.Settled = got.Settled // see TestSettled
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse(%.200q) (-want +got):\n%s", head, diff)
	}
}

func TestBeginsRequest(t *testing.T) {
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"} {
		head := strings.Replace(request(w3c), "GET", m, 1)
		want := uint32(strings.Index(head, "traceparent"))
		check(t, head, Options{}, Result{Outcome: Found, Context: w3cContext, Offset: want, Final: true})
	}
	for _, head := range []string{
		"", "GE", "GET", "get / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", " GET / HTTP/1.1\r\n\r\n", "\r\n", "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
		"\nGET / HTTP/1.1\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n",
	} {
		check(t, head, Options{}, Result{})
		if BeginsRequest([]byte(head)) {
			t.Errorf("BeginsRequest(%q)", head)
		}
	}
}

// Methods other than those of RFC 9110 and RFC 5789: registered ones (IANA, "HTTP
// Method Registry"), PURGE of caches, and what only looks like one.
func TestBeginsRequestWithAnyMethod(t *testing.T) {
	for _, m := range []string{
		"PROPFIND", "REPORT", "LOCK", "SEARCH", "QUERY", "PURGE", "M-SEARCH", "VERSION-CONTROL", "UPDATEREDIRECTREF",
		"A", "X_1-", "GETS", strings.Repeat("M", 31),
	} {
		for _, target := range []string{"/x", "*", "http://a/", "HTTP://a/"} {
			head := strings.Replace(request(w3c), "GET /x", m+" "+target, 1)
			want := Result{Outcome: Found, Context: w3cContext, Offset: uint32(strings.Index(head, "traceparent")), Final: true}
			check(t, head, Options{}, want)
			check(t, "\r\n"+head, Options{}, want)
			if !BeginsRequest([]byte(head)) || !BeginsRequest([]byte("\r\n"+head)) {
				t.Errorf("BeginsRequest(%q) = false", head)
			}
		}
		check(t, m+" /x HTTP/1.1", Options{}, Result{}) // perhaps text
	}
	for _, head := range []string{
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PURGE /x\r\n\r\n", "PURGE /x HTTP/2\r\n\r\n", "SELECT * FROM t;\n", "THE QUICK BROWN HTTP/1.1\r\n\r\n",
		"Purge /x HTTP/1.1\r\n\r\n", "PURGE\t/x HTTP/1.1\r\n\r\n", "PUR(GE /x HTTP/1.1\r\n\r\n", "1PURGE /x HTTP/1.1\r\n\r\n", "-P /x HTTP/1.1\r\n\r\n",
		strings.Repeat("M", 32) + " /x HTTP/1.1\r\n\r\n", strings.Repeat("D", 2000), "PURGE", "PURGE ", "X-B3: /",
	} {
		check(t, head, Options{}, Result{})
		if BeginsRequest([]byte(head)) {
			t.Errorf("BeginsRequest(%q)", head)
		}
	}
}

// The formats in an order, and without one.
func TestWhichContext(t *testing.T) {
	const (
		denied = "traceparent: 00-" + hex32 + "-" + hex16 + "-00"
		b3     = "b3: a3ce929d0e0e4736-" + hex16 + "-1" // the low half of hex32
		uber   = "uber-trace-id: 1:2:0:1"
	)
	b3Context := context(FormatB3, "a3ce929d0e0e4736", hex16, Accepted)
	multi := context(FormatB3Multi, hex32, hex16, Accepted)
	deniedContext := context(FormatW3C, hex32, hex16, Denied)
	jaeger := context(FormatJaeger, "1", "2", Accepted)
	second := func(first string) uint32 { return 26 + uint32(len(first)) + 2 }
	for name, c := range map[string]struct {
		order string
		lines []string
		want  Result
	}{
		"first of two":              {"", []string{uber, w3c}, Result{Outcome: Found, Context: jaeger, Offset: 26, Several: true}},
		"unsampled hides nothing":   {"", []string{denied, uber}, Result{Outcome: Found, Context: jaeger, Offset: second(denied), Several: true}},
		"nor does b3: 0":            {"", []string{"b3: 0", uber}, Result{Outcome: Found, Context: jaeger, Offset: second("b3: 0")}},
		"all denied":                {"", []string{denied, "uber-trace-id: 1:2:0:0"}, Result{Outcome: Unsampled, Context: deniedContext, Offset: 26, Several: true}},
		"one in two formats":        {"", []string{w3c, b3}, Result{Outcome: Found, Context: w3cContext, Offset: 26}},
		"two of one format":         {"", []string{uber, "uber-trace-id: 1:3:0:1"}, Result{Outcome: Found, Context: jaeger, Offset: 26, Several: true}},
		"preferred":                 {"b3,w3c", []string{w3c, b3}, Result{Outcome: Found, Context: b3Context, Offset: second(w3c)}},
		"preferred, both encodings": {"b3", []string{uber, b3Trace, b3Span, "x-b3-sampled: 1"}, Result{Outcome: Found, Context: multi, Offset: second(uber)}},
		"first encoding":            {"b3", []string{b3, b3Trace, "x-b3-spanid: 1"}, Result{Outcome: Found, Context: b3Context, Offset: 26, Several: true}},
		"second choice":             {"b3,jaeger", []string{w3c, uber}, Result{Outcome: Found, Context: jaeger, Offset: second(w3c)}},
		"not read":                  {"b3,datadog", []string{w3c, uber, "traceparent: x"}, Result{Outcome: None}},
		"preferred denies":          {"w3c,jaeger", []string{uber, denied}, Result{Outcome: Unsampled, Context: deniedContext, Offset: second(uber), Several: true}},
		"and ends the walk":         {"w3c,jaeger", []string{denied, uber}, Result{Outcome: Unsampled, Context: deniedContext, Offset: 26}},
		"b3: 0 ends it":             {"b3,jaeger", []string{"b3: 0", uber}, Result{Outcome: Unsampled}},
		"second choice denies":      {"jaeger,w3c", []string{denied, uber}, Result{Outcome: Found, Context: jaeger, Offset: second(denied), Several: true}},
		"parts deny": {"b3,w3c", []string{b3Trace, b3Span, "x-b3-sampled: 0", "x-b3-x: 1", w3c},
			Result{Outcome: Unsampled, Context: context(FormatB3Multi, hex32, hex16, Denied), Offset: 26}},
		"parts do not":       {"b3,w3c", []string{b3Trace, b3Span, "x-b3-sampled: 0", "x-b3-flags: 1", w3c}, Result{Outcome: Found, Context: multi, Offset: 26}},
		"denial without IDs": {"datadog,w3c", []string{"x-datadog-sampling-priority: 0", w3c}, Result{Outcome: Unsampled}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Final = true
			check(t, request(c.lines...), Options{Preferred: preferences(t, c.order)}, c.want)
		})
	}
}

// An accepted context, of the most preferred format, needs no further segment.
func TestSettled(t *testing.T) {
	for _, c := range []struct {
		order string
		lines []string
		want  bool
	}{
		{"", nil, false},
		{"", []string{w3c}, true},
		{"", []string{"uber-trace-id: 1:2:0:0", w3c}, true},
		{"", []string{"b3: 1"}, false},
		{"", []string{b3Trace, b3Span}, false}, // a denial may follow
		{"", []string{b3Trace, b3Span, "x-b3-sampled: 1"}, true},
		{"", []string{b3Trace, "x-b3-sampled: 1"}, false},
		{"w3c,b3", []string{w3c}, true},
		{"b3,w3c", []string{w3c}, false},
		{"b3,w3c", []string{w3c, "b3: " + hex16 + "-" + hex16 + "-1"}, true},
	} {
		head := strings.TrimSuffix(request(c.lines...), "\r\n")
		r := Parse([]byte(head), Options{Preferred: preferences(t, c.order)})
		if r.Settled != c.want || r.Final {
			t.Errorf("%q, order %q: %+v", c.lines, c.order, r)
		}
	}
}

// preferences returns the formats of a list of names, as in --context-format.
func preferences(t *testing.T, list string) (preferred []Format) {
	t.Helper()
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		f, err := ParsePreference(name)
		if err != nil {
			t.Fatal(err)
		}
		preferred = append(preferred, f)
	}
	if err := ValidatePreferences(preferred); err != nil {
		t.Fatal(err)
	}
	return preferred
}

func TestPreferences(t *testing.T) {
	for _, name := range []string{"b3multi", "none", "", "zipkin"} {
		if f, err := ParsePreference(name); err == nil {
			t.Errorf("ParsePreference(%q) = %v", name, f)
		}
	}
	if ValidatePreferences([]Format{FormatB3, FormatW3C, FormatB3}) == nil {
		t.Error("a format twice: no error")
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
	more := found(26)
	more.Final = false // a second traceparent may follow
	for name, c := range map[string]struct {
		head string
		want Result
	}{
		"after host":             {request(w3c), found(26)},
		"bare LF":                {strings.ReplaceAll(request(w3c), "\r\n", "\n"), found(24)},
		"any case":               {request(strings.Replace(w3c, "traceparent", "TraceParent", 1)), found(26)},
		"64 blanks":              {request(strings.Replace(w3c, ": ", ":"+strings.Repeat("\t", 64), 1) + strings.Repeat(" ", 64)), found(26)},
		"65 blanks before":       {request(strings.Replace(w3c, ": ", ":"+strings.Repeat(" ", 65), 1)), Result{Outcome: None, Malformed: 1, Final: true}},
		"65 blanks after":        {request("sw8: 1-a-b-1-" + strings.Repeat(" ", 65)), Result{Outcome: None, Malformed: 1, Final: true}},
		"no space":               {request(strings.Replace(w3c, ": ", ":", 1)), found(26)},
		"tabs around":            {request(strings.Replace(w3c, ": ", ":\t \t", 1) + " \t "), found(26)},
		"head goes on":           {strings.TrimSuffix(request(w3c), "\r\n"), more},
		"space before the colon": {request(strings.Replace(w3c, ":", " :", 1)), Result{Outcome: None, Final: true}},
		"folded line":            {request("x: y\r\n " + w3c), Result{Outcome: None, Final: true}},
		"no colon":               {request("traceparent"), Result{Outcome: None, Final: true}},
		"longer name":            {request("x-" + w3c), Result{Outcome: None, Final: true}},
		"after the head":         {request("a: b") + w3c + "\r\n", Result{Outcome: None, Final: true}},
		"not ASCII":              {request("uber-trace-\u0130d: 1:1:0:1"), Result{Outcome: None, Final: true}},
		"second CR":              {request(w3c + "\r"), Result{Outcome: None, Malformed: 1, Final: true}},
		"line without its LF":    {strings.TrimSuffix(request(w3c), "\n\r\n"), Result{Outcome: Truncated}},
		"no context":             {request("Accept: */*"), Result{Outcome: None, Final: true}},
		"malformed, then valid":  {request("b3: 2", w3c), Result{Outcome: Found, Context: w3cContext, Offset: 33, Malformed: 1, Final: true}},
		"traceparent twice":      {request(w3c, w3c), Result{Outcome: None, Malformed: 1, Final: true}},
		"malformed, then again":  {request("traceparent: x", w3c), Result{Outcome: None, Malformed: 2, Final: true}},
		"twice, and another":     {request(w3c, "uber-trace-id: 1:1:0:1", w3c), Result{Outcome: Found, Context: context(FormatJaeger, "1", "1", Accepted), Offset: 26 + uint32(len(w3c)) + 2, Malformed: 1, Final: true}},
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
		want.Final = window >= len(head)
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

const (
	b3Trace    = "x-b3-traceid: " + hex32
	b3Span     = "x-b3-spanid: " + hex16
	b3Parent   = "x-b3-parentspanid: 05e3ac9a4f6e3b90"
	ddTrace    = "x-datadog-trace-id: 18446744073709551615"
	ddParent   = "x-datadog-parent-id: 01"
	ddPriority = "x-datadog-sampling-priority: "
)

func TestSeveralLines(t *testing.T) {
	b3 := func(s Sampling) Context { return context(FormatB3Multi, hex32, hex16, s) }
	datadog := func(s Sampling) Context { return context(FormatDatadog, "ffffffffffffffff", "1", s) }
	second := 26 + uint32(len("x-b3-sampled: 0\r\n"))
	for name, c := range map[string]struct {
		lines []string
		want  Result
	}{
		"as Envoy writes them": {[]string{b3Trace, b3Span, b3Parent, "x-b3-sampled: 1"}, Result{Outcome: Found, Context: b3(Accepted), Offset: 26}},
		"sampled true":         {[]string{b3Span, b3Trace, "X-B3-Sampled: true"}, Result{Outcome: Found, Context: b3(Accepted), Offset: 26}},
		"sampled d":            {[]string{b3Span, b3Trace, "x-b3-sampled: d"}, Result{Outcome: Found, Context: b3(Accepted), Offset: 26}},
		"flags 1":              {[]string{b3Span, b3Trace, "x-b3-flags: 1"}, Result{Outcome: Found, Context: b3(Accepted), Offset: 26}},
		"flags 0":              {[]string{b3Span, b3Trace, "x-b3-flags: 0", "x-b3-sampled: 0"}, Result{Outcome: Unsampled, Context: b3(Denied), Offset: 26}},
		"denied":               {[]string{b3Trace, b3Span, "x-b3-sampled: false"}, Result{Outcome: Unsampled, Context: b3(Denied), Offset: 26}},
		"decision first":       {[]string{"x-b3-sampled: 0", b3Trace, b3Span, "b3: 1"}, Result{Outcome: Unsampled, Context: b3(Denied), Offset: second}},
		"debug wins":           {[]string{"x-b3-sampled: 0", "x-b3-flags: 1", b3Trace, b3Span}, Result{Outcome: Found, Context: b3(Accepted), Offset: second + 15}},
		"debug first":          {[]string{"x-b3-sampled: d", b3Trace, b3Span, "x-b3-sampled: 0"}, Result{Outcome: Found, Context: b3(Accepted), Offset: second}},
		"first decision":       {[]string{"x-b3-sampled: 0", "x-b3-sampled: 1", b3Trace, b3Span}, Result{Outcome: Unsampled, Context: b3(Denied), Offset: second + 17}},
		"short IDs":            {[]string{"x-b3-traceid: F", "x-b3-spanid: 0e"}, Result{Outcome: Found, Context: context(FormatB3Multi, "f", "e", Deferred), Offset: 26}},
		"deferred to the end":  {[]string{b3Trace, b3Span}, Result{Outcome: Found, Context: b3(Deferred), Offset: 26}},
		"another line follows": {[]string{b3Trace, b3Span, "a: b", "X-B3-Sampled: False"}, Result{Outcome: Unsampled, Context: b3(Denied), Offset: 26}},
		"apart":                {[]string{b3Trace, "a: b", b3Span, "X-B3-x", "x-b3-sampled: 0"}, Result{Outcome: Unsampled, Context: b3(Denied), Offset: 26}},
		"other one completed":  {[]string{b3Trace, w3c}, Result{Outcome: Found, Context: w3cContext, Offset: 26 + uint32(len(b3Trace)) + 2}},
		"64 bits": {[]string{"x-b3-traceid: " + strings.ToUpper(hex16), b3Span, "x-b3-sampled: 1"},
			Result{Outcome: Found, Context: context(FormatB3Multi, hex16, hex16, Accepted), Offset: 26}},
		"first valid value": {[]string{b3Trace, "x-b3-traceid: " + hex16, b3Span}, Result{Outcome: Found, Context: b3(Deferred), Offset: 26}},
		"malformed after valid": {[]string{b3Trace, "x-b3-traceid: x", b3Span, "x-b3-sampled: 1"},
			Result{Outcome: Found, Context: b3(Accepted), Offset: 26, Malformed: 1}},
		"malformed parts": {[]string{"x-b3-traceid: " + zero16, "x-b3-traceid: " + hex32 + "0", "x-b3-spanid: " + zero16, "x-b3-spanid: " + hex32, "x-b3-spanid: g" + hex16[1:],
			"x-b3-sampled: 2", "x-b3-sampled:", "x-b3-sampled: D", "x-b3-flags: 2"}, Result{Outcome: None, Malformed: 9}},
		"lone denial":         {[]string{"x-b3-sampled: 0"}, Result{Outcome: Unsampled}},
		"denial and one ID":   {[]string{"x-b3-sampled: 0", b3Trace}, Result{Outcome: Unsampled}},
		"denial loses to W3C": {[]string{"x-b3-sampled: 0", w3c}, Result{Outcome: Found, Context: w3cContext, Offset: second}},
		"lone acceptance":     {[]string{"x-b3-sampled: 1", "x-b3-flags: 1"}, Result{Outcome: None}},
		"lone trace ID":       {[]string{b3Trace}, Result{Outcome: None}},
		"Datadog":             {[]string{ddTrace, ddParent, ddPriority + "1"}, Result{Outcome: Found, Context: datadog(Accepted), Offset: 26}},
		"Datadog kept":        {[]string{ddParent, ddTrace, ddPriority + "2"}, Result{Outcome: Found, Context: datadog(Accepted), Offset: 26}},
		"Datadog dropped":     {[]string{ddTrace, ddParent, "x-datadog-origin: rum", ddPriority + "-1"}, Result{Outcome: Unsampled, Context: datadog(Denied), Offset: 26}},
		"Datadog denied":      {[]string{ddTrace, ddParent, ddPriority + "0"}, Result{Outcome: Unsampled, Context: datadog(Denied), Offset: 26}},
		"Datadog not decided": {[]string{ddTrace, ddParent, "a: b"}, Result{Outcome: Found, Context: datadog(Deferred), Offset: 26}},
		"Datadog after B3":    {[]string{b3Trace, ddTrace, b3Span, ddParent}, Result{Outcome: Found, Context: b3(Deferred), Offset: 26, Several: true}},
		"Datadog's high half": {[]string{"x-datadog-tags: _dd.p.dm=-1,_dd.p.tid=" + hex16, ddTrace, ddParent}, Result{Outcome: Found, Context: context(FormatDatadog, hex16+"ffffffffffffffff", "1", Deferred), Offset: 26 + uint32(len("x-datadog-tags: _dd.p.dm=-1,_dd.p.tid="+hex16)) + 2}},
		"high half of traceparent": {[]string{ddTrace, ddParent, "traceparent: 00-" + hex16 + "ffffffffffffffff-0000000000000001-00"},
			Result{Outcome: Found, Context: context(FormatDatadog, hex16+"ffffffffffffffff", "1", Deferred), Offset: 26}},
		"not of another trace":   {[]string{ddTrace, ddParent, w3c}, Result{Outcome: Found, Context: datadog(Deferred), Offset: 26, Several: true}},
		"Datadog without parent": {[]string{ddTrace, "x-datadog-parent-id: 0"}, Result{Outcome: Found, Context: context(FormatDatadog, "ffffffffffffffff", "0", Deferred), Offset: 26}},
		"malformed tags": {[]string{ddTrace, ddParent, "x-datadog-tags: _dd.p.tid=" + hex16[1:], "x-datadog-tags: a=b,_dd.p.tid=" + hex16 + " ,c=d", "x-datadog-tags: " + strings.Repeat(",", 32) + "_dd.p.tid=" + hex16},
			Result{Outcome: Found, Context: datadog(Deferred), Offset: 26, Malformed: 2}},
		"lone Datadog denial": {[]string{ddPriority + "-1"}, Result{Outcome: Unsampled}},
		"malformed Datadog":   {[]string{"x-datadog-trace-id: 0", "x-datadog-trace-id: 18446744073709551616", "x-datadog-trace-id: 000000000000000000001", "x-datadog-trace-id: a", "x-datadog-parent-id: ", "x-datadog-parent-id: -1", ddPriority + "3", ddPriority + "+1"}, Result{Outcome: None, Malformed: 8}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Final = true
			check(t, request(c.lines...), Options{}, c.want)
		})
	}
}

func TestWindowEndsSeveralLines(t *testing.T) {
	// The IDs are complete: the bytes after the window cannot change them, but may
	// have the decision, so only the limit makes the result final.
	head := strings.TrimSuffix(request(b3Trace, b3Span, "x-b3-sampled: 0"), "0\r\n\r\n")
	want := Result{Outcome: Found, Context: context(FormatB3Multi, hex32, hex16, Deferred), Offset: 26}
	check(t, head, Options{}, want)
	want.Final = true
	check(t, head, Options{Window: len(head)}, want)
	lone := "GET / HTTP/1.1\r\nx-b3-sampled: 0\r\nx-b3"
	check(t, lone, Options{}, Result{Outcome: Unsampled})
}

func TestConfiguredNames(t *testing.T) {
	opts := Options{Headers: []ContextHeader{
		{"X-Trace", FormatW3C}, {"X-Zip", FormatB3}, {"x-uber", FormatJaeger}, {"X-Sky", FormatSkyWalking},
	}}
	value := strings.TrimPrefix(w3c, "traceparent: ")
	check(t, request("x-tRACE: "+value), opts, Result{Outcome: Found, Context: w3cContext, Offset: 26, Final: true})
	check(t, request("x-trace: "+value), Options{}, Result{Outcome: None, Final: true})
	check(t, request("x-zip: 0"), opts, Result{Outcome: Unsampled, Final: true})
	check(t, request("X-Uber: 1:2:0:1"), opts, Result{Outcome: Found, Context: context(FormatJaeger, "1", "2", Accepted), Offset: 26, Final: true})
	check(t, request("x-sky: 3-"), opts, Result{Outcome: None, Malformed: 1, Final: true})
	builtin := Options{Headers: []ContextHeader{{"traceparent", FormatB3}}}
	check(t, request(w3c), builtin, Result{Outcome: Found, Context: w3cContext, Offset: 26, Final: true})
}

func TestParseHeader(t *testing.T) {
	for _, s := range []string{"x-trace=w3c", "a=b3", strings.Repeat("n", 31) + "=skywalking", "X_y.z=jaeger"} {
		h, err := ParseContextHeader(s)
		if err != nil || h.String() != s {
			t.Errorf("ParseContextHeader(%q) = %v, %v", s, h, err)
		}
	}
	for _, s := range []string{"", "x", "=w3c", "x=", "x=zip", "x=b3multi", "x=datadog", "x=none", "a b=w3c", "a:=w3c", "\u00e4=w3c", strings.Repeat("n", 32) + "=w3c"} {
		if h, err := ParseContextHeader(s); err == nil {
			t.Errorf("ParseContextHeader(%q) = %v, want an error", s, h)
		}
	}
	if err := ValidateContextHeaders(make([]ContextHeader, MaxContextHeaders+1)); err == nil {
		t.Error("five headers were accepted")
	}
}

// FuzzParse checks the invariants for any input.
func FuzzParse(f *testing.F) {
	f.Add([]byte(request(w3c)), uint16(1024), uint16(0))
	f.Add([]byte(request(b3Trace, b3Span, b3Parent, "x-b3-sampled: 0")), uint16(0), uint16(DeepMaxLine))
	f.Add([]byte(request("b3: 0", "uber-trace-id: 1:2:0:1")), uint16(40), uint16(8))
	f.Add([]byte(request("sw8: 1-dHI=-c2U=-3", ddTrace, ddParent, ddPriority+"-1")), uint16(100), uint16(64))
	f.Fuzz(func(t *testing.T, head []byte, window, maxLine uint16) {
		before := bytes.Clone(head)
		opts := Options{Window: int(window), MaxLine: int(maxLine), Headers: []ContextHeader{{"X-Sky", FormatSkyWalking}}}
		r := Parse(head, opts)
		if !bytes.Equal(head, before) {
			t.Fatal("the input was changed")
		}
		checkInvariants(t, head, opts, r)
		if r.Final {
			longer := Parse(append(before, "x-b3-sampled: 0\r\n\r\n"...), opts)
			if longer != r {
				t.Fatalf("final %+v, but with more bytes %+v", r, longer)
			}
		}
	})
}

func checkInvariants(t *testing.T, head []byte, opts Options, r Result) {
	t.Helper()
	if r.BeginsRequest != BeginsRequest(head) && opts.Window == 0 && opts.MaxLine == 0 {
		t.Fatalf("BeginsRequest: %+v", r)
	}
	if !r.BeginsRequest && r != (Result{}) {
		t.Fatalf("not a request, but %+v", r)
	}
	hasContext := r.Context != Context{}
	if hasContext && (r.Context.TraceID.IsZero() || r.Context.SpanID.IsZero() && r.Context.Format != FormatDatadog || r.Context.Format == FormatNone) {
		t.Fatalf("half a context: %+v", r)
	}
	switch r.Outcome {
	case Found:
		if !hasContext || r.Context.Sampling == Denied {
			t.Fatalf("found: %+v", r)
		}
	case Unsampled:
		if hasContext && r.Context.Sampling != Denied {
			t.Fatalf("unsampled: %+v", r)
		}
	default:
		if hasContext {
			t.Fatalf("%v with a context: %+v", r.Outcome, r)
		}
	}
	if !hasContext && r.Offset != 0 {
		t.Fatalf("an offset without a context: %+v", r)
	}
	head = skipEmptyLine(head)
	if hasContext && (head[r.Offset-1] != '\n' || opts.Window > 0 && int(r.Offset) >= opts.Window) {
		t.Fatalf("no line begins at the offset: %+v", r)
	}
}
