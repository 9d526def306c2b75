// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/txtar"
)

// Case is a golden file of e2e/testdata/wire: a request, and its form after each
// placement. The README there defines the format.
type Case struct {
	// Name is the file's name without .txtar, Comment its first lines.
	Name, Comment string
	Setup         Setup
	// Client are the headers that the client sends after host.
	Client []Field

	sections []section
}

// section is what several placements send with one protocol.
type section struct {
	placements []string
	protocol   Protocol
	attempts   []Head // values may have placeholders
}

// LoadCases reads the cases of one tracer (dir/*.txtar), sorted by name.
func LoadCases(files fs.FS, dir string) ([]Case, error) {
	names, err := fs.Glob(files, path.Join(dir, "*.txtar"))
	if err != nil {
		return nil, fmt.Errorf("list golden files: %w", err)
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
		c, err := parseCase(data)
		if err != nil {
			return nil, fmt.Errorf("golden file %s: %w", name, err)
		}
		c.Name = strings.TrimSuffix(path.Base(name), ".txtar")
		cases = append(cases, c)
	}
	slices.SortFunc(cases, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return cases, nil
}

func parseCase(data []byte) (Case, error) {
	archive := txtar.Parse(data)
	c := Case{Comment: strings.TrimSpace(string(archive.Comment)), Setup: Setup{Filters: 1}}
	if c.Comment == "" {
		return c, errors.New("no comment at the start that describes the case")
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
	s := section{protocol: Protocol(name[at+1:])}
	if s.protocol != HTTP1 && s.protocol != HTTP2 {
		return fmt.Errorf("protocol %q: want %s or %s", s.protocol, HTTP1, HTTP2)
	}
	for placement := range strings.SplitSeq(name[:at], ",") {
		placement = strings.TrimSpace(placement)
		if c.find(placement, s.protocol) != nil {
			return fmt.Errorf("%s %s is in two sections", placement, s.protocol)
		}
		s.placements = append(s.placements, placement)
	}
	for block := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		head := Head{Protocol: s.protocol}
		if s.protocol == HTTP1 {
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

func parseFields(text string) ([]Field, error) {
	var fields []Field
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		end := 0 // of the name; a pseudo header's begins with a colon
		if line != "" {
			end = strings.IndexByte(line[1:], ':') + 1
		}
		if end == 0 {
			return nil, fmt.Errorf("line %q is not a header field", line)
		}
		fields = append(fields, Field{Name: line[:end], Value: strings.TrimPrefix(line[end+1:], " ")})
	}
	return fields, nil
}

func (c *Case) find(placement string, protocol Protocol) *section {
	for i, s := range c.sections {
		if s.protocol == protocol && slices.Contains(s.placements, placement) {
			return &c.sections[i]
		}
	}
	return nil
}

// Want returns what must reach the upstream, a head per attempt, with placeholders
// in values; nil when the file does not have it.
func (c *Case) Want(placement string, protocol Protocol) []Head {
	if s := c.find(placement, protocol); s != nil {
		return s.attempts
	}
	return nil
}

// Setup is how a case differs from the default: a traced and sampled GET request, a
// response with status 200, and one filter with its default configuration.
type Setup struct {
	// NoTracer: Envoy has no tracing configuration ("tracer: none").
	NoTracer bool
	// UntracedRoute: the route's sampling rates are all 0 ("route: untraced").
	UntracedRoute bool
	// Unsampled: traces begin unsampled ("sampling: 0").
	Unsampled bool
	// UpstreamSpans: the tracer begins a span for each attempt ("upstream spans: on").
	UpstreamSpans bool
	// OwnFormatOnly: the filter moves the tracer's own format only ("formats: own").
	OwnFormatOnly bool
	// Headers are further headers that the filter moves ("headers: X-Own").
	Headers []string
	// Refused: the configuration of the Wasm filter has an unknown key
	// ("configuration: refused").
	Refused bool
	// Filters is how often the filter is in the chain ("filters: 2").
	Filters int
	// FirstAttempt is the response to the first attempt if not 200: "503" or "reset".
	FirstAttempt string
	// Body is the length of a body in bytes ("body: 100000"), sent by POST.
	Body int
}

func (s *Setup) parse(text string) error {
	fields, err := parseFields(text)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if err := s.set(f.Name, f.Value); err != nil {
			return err
		}
	}
	return nil
}

func (s *Setup) set(key, value string) (err error) {
	switch setting := key + ": " + value; {
	case setting == "tracer: none":
		s.NoTracer = true
	case setting == "route: untraced":
		s.UntracedRoute = true
	case setting == "sampling: 0":
		s.Unsampled = true
	case setting == "upstream spans: on":
		s.UpstreamSpans = true
	case setting == "formats: own":
		s.OwnFormatOnly = true
	case setting == "configuration: refused":
		s.Refused = true
	case key == "headers":
		s.Headers = strings.Split(value, ", ")
	case setting == "first attempt: 503", setting == "first attempt: reset":
		s.FirstAttempt = value
	case key == "filters":
		s.Filters, err = strconv.Atoi(value)
	case key == "body":
		s.Body, err = strconv.Atoi(value)
	default:
		err = fmt.Errorf("unknown setting %q", setting)
	}
	return err
}

// String returns the settings that a listener of Envoy depends on.
func (s Setup) String() string {
	var parts []string
	for _, p := range []struct {
		set  bool
		name string
	}{
		{s.NoTracer, "no-tracer"}, {s.UntracedRoute, "untraced-route"}, {s.Unsampled, "unsampled"}, {s.UpstreamSpans, "upstream-spans"},
		{s.OwnFormatOnly, "own-format"}, {len(s.Headers) > 0, "headers"}, {s.Refused, "refused"},
		{s.Filters != 1, fmt.Sprintf("%d-filters", s.Filters)},
	} {
		if p.set {
			parts = append(parts, p.name)
		}
	}
	return strings.Join(parts, ",")
}

// placeholderForms are the values that placeholders match.
var placeholderForms = map[string]string{
	"TRACE": "[0-9a-f]{32}",
	"SPAN":  "[0-9a-f]{16}",
	"UUID":  "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}

// metadata abbreviates a long value in files and messages as {METADATA}.
var metadata = strings.NewReplacer(strings.Repeat("m", metadataSize), "{METADATA}")

var placeholder = regexp.MustCompile(`\{([A-Z]+)(?:\.[0-9]+)?\}`)

// Compare returns an error with both versions unless the heads equal the file's.
func (c *Case) Compare(placement string, heads []Head) error {
	if len(heads) == 0 {
		return fmt.Errorf("%s: no request reached the upstream", placement)
	}
	s := c.find(placement, heads[0].Protocol)
	if s == nil {
		return fmt.Errorf("case %s has no section for %s %s", c.Name, placement, heads[0].Protocol)
	}
	if len(heads) != len(s.attempts) {
		return fmt.Errorf("%d requests reached the upstream, want %d", len(heads), len(s.attempts))
	}
	m := matcher{values: map[string]string{}, names: map[string]string{}}
	for i, head := range heads {
		if err := m.head(s.attempts[i], head); err != nil {
			return fmt.Errorf("attempt %d: %w\nwant:\n%s\non the wire:\n%s", i+1, err, headText(s.attempts[i]), headText(head))
		}
	}
	return nil
}

// matcher compares heads and records the values of placeholders.
type matcher struct {
	values map[string]string // placeholder -> value
	names  map[string]string // value -> placeholder
}

func (m *matcher) head(want, got Head) error {
	if want.RequestLine != got.RequestLine {
		return fmt.Errorf("request line %q, want %q", got.RequestLine, want.RequestLine)
	}
	for i, f := range got.Fields {
		if i >= len(want.Fields) {
			return fmt.Errorf("field %d, %q, is unexpected", i+1, f.Name)
		}
		if f.Name != want.Fields[i].Name {
			return fmt.Errorf("field %d is %q, want %q", i+1, f.Name, want.Fields[i].Name)
		}
		if err := m.value(want.Fields[i].Value, f.Value); err != nil {
			return fmt.Errorf("field %d, %s: %w", i+1, f.Name, err)
		}
	}
	if len(got.Fields) < len(want.Fields) {
		return fmt.Errorf("field %d, %q, is missing", len(got.Fields)+1, want.Fields[len(got.Fields)].Name)
	}
	return nil
}

func (m *matcher) value(want, got string) error {
	var pattern strings.Builder
	var keys []string
	end := 0
	for _, at := range placeholder.FindAllStringSubmatchIndex(want, -1) {
		form, random := placeholderForms[want[at[2]:at[3]]]
		if !random {
			continue
		}
		pattern.WriteString(regexp.QuoteMeta(want[end:at[0]]) + "(" + form + ")")
		keys = append(keys, want[at[0]:at[1]])
		end = at[1]
	}
	pattern.WriteString(regexp.QuoteMeta(want[end:]))
	groups := regexp.MustCompile("^" + pattern.String() + "$").FindStringSubmatch(metadata.Replace(got))
	if groups == nil {
		return fmt.Errorf("value %q, want %q", got, want)
	}
	for i, key := range keys {
		if err := m.bind(key, groups[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// bind requires that a placeholder has one value, and a value one placeholder.
func (m *matcher) bind(key, value string) error {
	if before, bound := m.values[key]; bound && before != value {
		return fmt.Errorf("%s is %q here and was %q before", key, value, before)
	}
	if other, bound := m.names[value]; bound && other != key {
		return fmt.Errorf("%s and %s are both %q", key, other, value)
	}
	if strings.Trim(value, "0") == "" {
		return fmt.Errorf("%s is all zero", key)
	}
	m.values[key], m.names[value] = value, key
	return nil
}

// headText formats a head as in the golden files, except for random values.
func headText(head Head) string {
	var b strings.Builder
	if head.RequestLine != "" {
		b.WriteString(head.RequestLine + "\n")
	}
	for _, f := range head.Fields {
		b.WriteString(strings.TrimSuffix(f.Name+": "+metadata.Replace(f.Value), " ") + "\n")
	}
	return b.String()
}
