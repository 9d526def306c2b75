// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"context"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pages are the HTML of all reports made by hand.
func pages(t *testing.T) map[string]string {
	t.Helper()
	made := map[string]string{}
	for name, r := range reports() {
		var b bytes.Buffer
		if err := WriteHTML(&b, r); err != nil {
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

// No page loads anything, and names from spans stay text.
func TestHTMLIsSelfContained(t *testing.T) {
	elsewhere := regexp.MustCompile(`(?i)<(script|link|img|iframe)|\b(src|href|srcset)=|url\(|@import|https?://`)
	for name, page := range pages(t) {
		if name == "hostile" {
			page = regexp.MustCompile(`(title|aria-label)="[^"]*"`).ReplaceAllString(page, "") // text, whatever it contains
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

// TestBrowser loads the pages into a real browser without a network: it makes an
// element of each hop, shows the verdict, and logs no errors.
func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser per page takes a minute")
	}
	browser := needBrowser(t)
	all, comparison := reports(), slowTail()
	for name, page := range pages(t) {
		t.Run(name, func(t *testing.T) {
			hops, rows, verdict := 0, 0, comparison.Verdict
			if r := all[name]; r != nil {
				hops, verdict = len(r.Hops), r.Verdict
			} else {
				rows = len(comparison.Layers)
			}
			file := filepath.Join(t.TempDir(), name+".html")
			if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
				t.Fatal(err)
			}
			dom := browser.dom(t, file)
			if got := strings.Count(dom, `<details class="hop`); got != hops {
				t.Errorf("%d hops on the page, want %d", got, hops)
			}
			if got := strings.Count(dom, `<tr class="delta`); got != rows {
				t.Errorf("%d compared layers on the page, want %d", got, rows)
			}
			if !strings.Contains(html.UnescapeString(dom), "<p>"+printable(verdict.Text)+"</p>") {
				t.Errorf("the page does not show the verdict %q", verdict.Text)
			}
			if strings.Contains(dom, "<title>owned") || strings.Contains(dom, "<script") || strings.Contains(dom, "<img") {
				t.Error("a name became a part of the page")
			}
			browser.picture(t, file)
		})
	}
}

// chromium is the path of the program.
type chromium string

func needBrowser(t *testing.T) chromium {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	return chromium(path)
}

// run opens a file in the browser and fails on messages in the page's console.
func (c chromium) run(t *testing.T, file string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args = append(args, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
		"--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--user-data-dir="+t.TempDir(), "file://"+file)
	cmd := exec.CommandContext(ctx, string(c), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("chromium: %v\n%s", err, stderr.String())
	}
	for line := range strings.Lines(stderr.String()) {
		if strings.Contains(line, ":CONSOLE:") || strings.Contains(line, ":CONSOLE(") {
			t.Errorf("the page's console: %s", line)
		}
	}
	return stdout.String()
}

func (c chromium) dom(t *testing.T, file string) string { return c.run(t, file, "--dump-dom") }

// picture checks that something is drawn. LAYERTRACE_PICTURES names a folder that
// keeps the pictures, to look at after changing the page.
func (c chromium) picture(t *testing.T, file string) {
	t.Helper()
	folder := os.Getenv("LAYERTRACE_PICTURES")
	if folder == "" {
		folder = t.TempDir()
	}
	for _, wide := range []int{1280, 480} {
		name := filepath.Join(folder, strings.TrimSuffix(filepath.Base(file), ".html")+"-"+strconv.Itoa(wide)+".png")
		c.run(t, file, "--screenshot="+name, "--hide-scrollbars", "--window-size="+strconv.Itoa(wide)+",1400")
		if info, err := os.Stat(name); err != nil || info.Size() < 5000 {
			t.Errorf("no picture: %v", err)
		}
	}
}
