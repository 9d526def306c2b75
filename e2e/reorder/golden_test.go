// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"strings"
	"testing"
	"testing/fstest"
)

const file = `A retry.
-- setup --
first attempt: 503
-- client --
x-empty:
-- stock, patch http/1.1 --
GET / HTTP/1.1
host: wire.test
x-b3-traceid: {TRACE}
x-b3-spanid: {SPAN}
x-empty:

GET / HTTP/1.1
host: wire.test
x-b3-traceid: {TRACE}
x-b3-spanid: {SPAN.2}
x-empty:
-- stock http/2 --
:method: GET
traceparent: 00-{TRACE}-{SPAN}-01
`

const (
	trace      = "0af7651916cd43dd8448eb211c80319c"
	span, next = "b7ad6b7169203331", "c8ad6b7169203331"
)

func newAttempt(trace, span string) Head {
	return Head{Protocol: HTTP1, RequestLine: "GET / HTTP/1.1", Fields: []Field{
		{Name: "host", Value: "wire.test"}, {Name: "x-b3-traceid", Value: trace}, {Name: "x-b3-spanid", Value: span}, {Name: "x-empty"},
	}}
}

func loadText(t *testing.T, text string) (Case, error) {
	t.Helper()
	cases, err := LoadCases(fstest.MapFS{"zipkin/retry.txtar": {Data: []byte(text)}}, "zipkin")
	if err != nil {
		return Case{}, err
	}
	return cases[0], nil
}

func TestCompare(t *testing.T) {
	c, err := loadText(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "retry" || c.Comment != "A retry." || c.Setup.FirstAttempt != "503" || len(c.Client) != 1 {
		t.Errorf("read %+v", c)
	}
	swapped := newAttempt(trace, span)
	swapped.Fields[1], swapped.Fields[2] = swapped.Fields[2], swapped.Fields[1]
	short, long, line := newAttempt(trace, span), newAttempt(trace, span), newAttempt(trace, span)
	short.Fields = short.Fields[:3]
	long.Fields = append(long.Fields, Field{Name: "x-more"})
	line.RequestLine = "GET /other HTTP/1.1"
	http2 := Head{Protocol: HTTP2, Fields: []Field{
		{Name: ":method", Value: "GET"}, {Name: "traceparent", Value: "00-" + trace + "-" + span + "-00"},
	}}

	for name, test := range map[string]struct {
		placement string
		heads     []Head
		want      string // part of the error, "" for none
	}{
		"agrees":             {"stock", []Head{newAttempt(trace, span), newAttempt(trace, next)}, ""},
		"shared section":     {"patch", []Head{newAttempt(trace, span), newAttempt(trace, next)}, ""},
		"order":              {"stock", []Head{swapped, newAttempt(trace, next)}, `field 2 is "x-b3-spanid", want "x-b3-traceid"`},
		"missing field":      {"stock", []Head{short, newAttempt(trace, next)}, `"x-empty", is missing`},
		"additional field":   {"stock", []Head{long, newAttempt(trace, next)}, `"x-more", is unexpected`},
		"request line":       {"stock", []Head{line, newAttempt(trace, next)}, "request line"},
		"form":               {"stock", []Head{newAttempt(trace, "XYZ"), newAttempt(trace, next)}, `value "XYZ", want "{SPAN}"`},
		"zero":               {"stock", []Head{newAttempt(trace, "0000000000000000"), newAttempt(trace, next)}, "all zero"},
		"same for different": {"stock", []Head{newAttempt(trace, span), newAttempt(trace, span)}, "are both"},
		"different for the same": {"stock", []Head{newAttempt(trace, span), newAttempt(strings.Replace(trace, "0a", "1a", 1), next)},
			"and was \"" + trace + "\" before"},
		"too few attempts":  {"stock", []Head{newAttempt(trace, span)}, "1 requests reached the upstream, want 2"},
		"none":              {"stock", nil, "no request"},
		"unknown placement": {"other", []Head{newAttempt(trace, span)}, "no section for other"},
		"text around it":    {"stock", []Head{http2}, `-00", want "00-{TRACE}-{SPAN}-01"`},
	} {
		err := c.Compare(test.placement, test.heads)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, change := range map[string][2]string{
		"no comment":           {"A retry.\n", ""},
		"unknown setting":      {"first attempt: 503", "first attempt: 404"},
		"line without a colon": {"x-empty:\n-- stock,", "x-empty\n-- stock,"},
		"no protocol":          {"-- stock http/2 --", "-- stock --"},
		"unknown protocol":     {"-- stock http/2 --", "-- stock http/3 --"},
		"placement twice":      {"-- stock http/2 --", "-- stock http/1.1 --"},
	} {
		if _, err := loadText(t, strings.Replace(file, change[0], change[1], 1)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := LoadCases(fstest.MapFS{}, "zipkin"); err == nil {
		t.Error("no files: accepted")
	}
}
