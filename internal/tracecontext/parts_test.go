// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"strings"
	"testing"
)

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
		"decision in front":    {[]string{"x-b3-sampled: 0", b3Trace, b3Span, "b3: 1"}, Result{Outcome: Unsampled, Context: b3(Denied), Offset: second}},
		"first decision":       {[]string{"x-b3-sampled: 0", "x-b3-flags: 1", b3Trace, b3Span}, Result{Outcome: Unsampled, Context: b3(Denied), Offset: second + 15}},
		"deferred to the end":  {[]string{b3Trace, b3Span}, Result{Outcome: Found, Context: b3(Deferred), Offset: 26}},
		"another line follows": {[]string{b3Trace, b3Span, "a: b", "x-b3-sampled: 0"}, Result{Outcome: Found, Context: b3(Deferred), Offset: 26}},
		"which is not read":    {[]string{b3Trace, b3Span, w3c}, Result{Outcome: Found, Context: b3(Deferred), Offset: 26}},
		"apart":                {[]string{b3Trace, "a: b", b3Span, "X-B3-x", "x-b3-sampled: 0"}, Result{Outcome: Unsampled, Context: b3(Denied), Offset: 26}},
		"other one completed":  {[]string{b3Trace, w3c}, Result{Outcome: Found, Context: w3cContext, Offset: 26 + uint32(len(b3Trace)) + 2}},
		"64 bits": {[]string{"x-b3-traceid: " + strings.ToUpper(hex16), b3Span, "x-b3-sampled: 1"},
			Result{Outcome: Found, Context: context(FormatB3Multi, hex16, hex16, Accepted), Offset: 26}},
		"first valid value": {[]string{b3Trace, "x-b3-traceid: " + hex16, b3Span}, Result{Outcome: Found, Context: b3(Deferred), Offset: 26}},
		"malformed behind valid": {[]string{b3Trace, "x-b3-traceid: 1", b3Span, "x-b3-sampled: 1"},
			Result{Outcome: Found, Context: b3(Accepted), Offset: 26, Malformed: 1}},
		"malformed parts": {[]string{"x-b3-traceid: " + zero16, "x-b3-traceid: " + hex32[:31], "x-b3-spanid: " + zero16, "x-b3-spanid: " + hex32, "x-b3-spanid: g" + hex16[1:],
			"x-b3-sampled: 2", "x-b3-sampled:", "x-b3-sampled: True", "x-b3-flags: 2"}, Result{Outcome: None, Malformed: 9}},
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
		"Datadog behind B3":   {[]string{b3Trace, ddTrace, b3Span, ddParent}, Result{Outcome: Found, Context: b3(Deferred), Offset: 26}},
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
	// The IDs are there: what the window cut off cannot change them, but it
	// could have held the decision, so only the limit makes the result final.
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
