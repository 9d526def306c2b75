// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

// pages are the HTML of all reports made by hand.
func pages(t *testing.T) map[string]string {
	t.Helper()
	made := map[string]string{}
	for name, r := range reports() {
		var b bytes.Buffer
		if err := r.WriteHTML(&b); err != nil {
			t.Fatal(err)
		}
		made[name] = b.String()
	}
	var b bytes.Buffer
	if err := slowTail().WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	made["comparison"] = b.String()
	return made
}

// No page wants anything from elsewhere, and what came from spans stays text.
func TestHTMLIsSelfContained(t *testing.T) {
	elsewhere := regexp.MustCompile(`(?i)<(script|link|img|iframe)|\b(src|href|srcset)=|url\(|@import|https?://`)
	for name, page := range pages(t) {
		if name == "hostile" {
			page = regexp.MustCompile(`(title|aria-label)="[^"]*"`).ReplaceAllString(page, "") // text, whatever stands in it
		}
		if found := elsewhere.FindString(strings.ReplaceAll(page, "src=x", "")); found != "" {
			t.Errorf("%s: the page has %s", name, found)
		}
		if strings.Contains(page, "ZgotmplZ") {
			t.Errorf("%s: the template refused a value", name)
		}
	}
}

func TestHTMLOfSeveralReports(t *testing.T) {
	var b bytes.Buffer
	if err := WriteHTML(&b, slowNetwork(), noBaseline()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<title>2 traces explained</title>", `id="verdict-1"`, `id="hop-4"`} {
		if strings.Count(b.String(), want) != 1 {
			t.Errorf("%s is there %d times", want, strings.Count(b.String(), want))
		}
	}
}
