// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
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

func attempt(trace, span string) upstream.Head {
	return upstream.Head{Protocol: proxy.HTTP1, RequestLine: "GET / HTTP/1.1", Fields: []upstream.Field{
		{Name: "host", Value: "wire.test"}, {Name: "x-b3-traceid", Value: trace}, {Name: "x-b3-spanid", Value: span}, {Name: "x-empty"},
	}}
}

func load(t *testing.T, text string) (Case, error) {
	t.Helper()
	cases, err := Load(fstest.MapFS{"zipkin/retry.txtar": {Data: []byte(text)}}, "zipkin")
	if err != nil {
		return Case{}, err
	}
	return cases[0], nil
}

func TestCompare(t *testing.T) {
	c, err := load(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "retry" || c.Comment != "A retry." || c.Setup.FirstAttempt != "503" || len(c.Client) != 1 {
		t.Errorf("read %+v", c)
	}
	swapped := attempt(trace, span)
	swapped.Fields[1], swapped.Fields[2] = swapped.Fields[2], swapped.Fields[1]
	short, long, line := attempt(trace, span), attempt(trace, span), attempt(trace, span)
	short.Fields = short.Fields[:3]
	long.Fields = append(long.Fields, upstream.Field{Name: "x-more"})
	line.RequestLine = "GET /other HTTP/1.1"
	http2 := upstream.Head{Protocol: proxy.HTTP2, Fields: []upstream.Field{
		{Name: ":method", Value: "GET"}, {Name: "traceparent", Value: "00-" + trace + "-" + span + "-00"},
	}}

	for name, test := range map[string]struct {
		placement string
		heads     []upstream.Head
		want      string // part of the error; none: they agree
	}{
		"agrees":             {"stock", []upstream.Head{attempt(trace, span), attempt(trace, next)}, ""},
		"shared section":     {"patch", []upstream.Head{attempt(trace, span), attempt(trace, next)}, ""},
		"order":              {"stock", []upstream.Head{swapped, attempt(trace, next)}, `field 2 is "x-b3-spanid", want "x-b3-traceid"`},
		"missing field":      {"stock", []upstream.Head{short, attempt(trace, next)}, `"x-empty", is missing`},
		"additional field":   {"stock", []upstream.Head{long, attempt(trace, next)}, `"x-more", is too much`},
		"request line":       {"stock", []upstream.Head{line, attempt(trace, next)}, "request line"},
		"form":               {"stock", []upstream.Head{attempt(trace, "XYZ"), attempt(trace, next)}, `value "XYZ", want "{SPAN}"`},
		"zero":               {"stock", []upstream.Head{attempt(trace, "0000000000000000"), attempt(trace, next)}, "all zero"},
		"same for different": {"stock", []upstream.Head{attempt(trace, span), attempt(trace, span)}, "are both"},
		"different for the same": {"stock", []upstream.Head{attempt(trace, span), attempt(strings.Replace(trace, "0a", "1a", 1), next)},
			"and \"" + trace + "\" before"},
		"too few attempts":  {"stock", []upstream.Head{attempt(trace, span)}, "1 requests reached the upstream, want 2"},
		"none":              {"stock", nil, "no request"},
		"unknown placement": {"other", []upstream.Head{attempt(trace, span)}, "says nothing of other"},
		"text around it":    {"stock", []upstream.Head{http2}, `-00", want "00-{TRACE}-{SPAN}-01"`},
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
		if _, err := load(t, strings.Replace(file, change[0], change[1], 1)); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	if _, err := Load(fstest.MapFS{}, "zipkin"); err == nil {
		t.Error("no files: not refused")
	}
}
