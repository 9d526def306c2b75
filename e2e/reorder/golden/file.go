// SPDX-License-Identifier: Apache-2.0

// Package golden reads the files of e2e/testdata/wire, which say what has to
// stand on the wire, and compares request heads with them. The README beside
// the files is the definition of their format.
package golden

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

// Case is one file: a request and what it looks like behind each placement.
type Case struct {
	// Name is the file's name without .txtar, Comment its first lines.
	Name, Comment string
	Setup         Setup
	// Client are the headers that the client sends behind host.
	Client []upstream.Field

	sections []section
}

// section is what placements have in common with one protocol.
type section struct {
	placements []string
	protocol   proxy.Protocol
	attempts   []upstream.Head // values may hold placeholders
}

// Load reads the cases of one tracer (dir/*.txtar), ordered by name.
func Load(files fs.FS, dir string) ([]Case, error) {
	names, err := fs.Glob(files, path.Join(dir, "*.txtar"))
	if err != nil {
		return nil, fmt.Errorf("look for golden files: %w", err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no golden files (*.txtar) in %s", dir)
	}
	cases := make([]Case, 0, len(names))
	for _, name := range names {
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read a golden file: %w", err)
		}
		c, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("golden file %s: %w", name, err)
		}
		c.Name = strings.TrimSuffix(path.Base(name), ".txtar")
		cases = append(cases, c)
	}
	slices.SortFunc(cases, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return cases, nil
}

func parse(data []byte) (Case, error) {
	archive := txtar.Parse(data)
	c := Case{Comment: strings.TrimSpace(string(archive.Comment)), Setup: Setup{Filters: 1}}
	if c.Comment == "" {
		return c, errors.New("begins with no comment that says what the case is")
	}
	for _, file := range archive.Files {
		text, err := string(file.Data), error(nil)
		switch file.Name {
		case "setup":
			err = c.Setup.parse(text)
		case "client":
			c.Client, err = parseFields(text)
		default:
			err = c.parseSection(file.Name, text)
		}
		if err != nil {
			return c, fmt.Errorf("section %q: %w", file.Name, err)
		}
	}
	return c, nil
}

// parseSection reads a section named "PLACEMENT[, PLACEMENT ...] PROTOCOL".
func (c *Case) parseSection(name, text string) error {
	at := strings.LastIndexByte(name, ' ')
	if at < 0 {
		return errors.New("want placements and a protocol in the name")
	}
	s := section{protocol: proxy.Protocol(name[at+1:])}
	if s.protocol != proxy.HTTP1 && s.protocol != proxy.HTTP2 {
		return fmt.Errorf("protocol %q: want %s or %s", s.protocol, proxy.HTTP1, proxy.HTTP2)
	}
	for placement := range strings.SplitSeq(name[:at], ",") {
		placement = strings.TrimSpace(placement)
		if c.find(placement, s.protocol) != nil {
			return fmt.Errorf("%s %s stands in two sections", placement, s.protocol)
		}
		s.placements = append(s.placements, placement)
	}
	for block := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		head := upstream.Head{Protocol: s.protocol}
		if s.protocol == proxy.HTTP1 {
			head.RequestLine, block, _ = strings.Cut(block, "\n")
		}
		var err error
		if head.Fields, err = parseFields(block); err != nil {
			return err
		}
		s.attempts = append(s.attempts, head)
	}
	c.sections = append(c.sections, s)
	return nil
}

func parseFields(text string) ([]upstream.Field, error) {
	var fields []upstream.Field
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		end := 0 // of the name; a pseudo header's begins with a colon
		if line != "" {
			end = strings.IndexByte(line[1:], ':') + 1
		}
		if end == 0 {
			return nil, fmt.Errorf("line %q is no header field", line)
		}
		fields = append(fields, upstream.Field{Name: line[:end], Value: strings.TrimPrefix(line[end+1:], " ")})
	}
	return fields, nil
}

func (c *Case) find(placement string, protocol proxy.Protocol) *section {
	for i, s := range c.sections {
		if s.protocol == protocol && slices.Contains(s.placements, placement) {
			return &c.sections[i]
		}
	}
	return nil
}

// Want returns what has to reach the upstream, one head per attempt, with
// placeholders in values; nil when the file does not say.
func (c *Case) Want(placement string, protocol proxy.Protocol) []upstream.Head {
	if s := c.find(placement, protocol); s != nil {
		return s.attempts
	}
	return nil
}
