// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

// forms are what the placeholders stand for.
var forms = map[string]string{
	"TRACE": "[0-9a-f]{32}",
	"SPAN":  "[0-9a-f]{16}",
	"UUID":  "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}

// metadata is a value so long that files and messages have {METADATA} for it.
var metadata = strings.NewReplacer(strings.Repeat("m", proxy.MetadataSize), "{METADATA}")

var placeholder = regexp.MustCompile(`\{([A-Z]+)(?:\.[0-9]+)?\}`)

// Compare returns nil when the heads are what the file says, and otherwise an
// error that shows both.
func (c *Case) Compare(placement string, heads []upstream.Head) error {
	if len(heads) == 0 {
		return fmt.Errorf("%s: no request reached the upstream", placement)
	}
	s := c.find(placement, heads[0].Protocol)
	if s == nil {
		return fmt.Errorf("case %s says nothing of %s %s", c.Name, placement, heads[0].Protocol)
	}
	if len(heads) != len(s.attempts) {
		return fmt.Errorf("%d requests reached the upstream, want %d", len(heads), len(s.attempts))
	}
	m := matcher{values: map[string]string{}, names: map[string]string{}}
	for i, head := range heads {
		if err := m.head(s.attempts[i], head); err != nil {
			return fmt.Errorf("attempt %d: %w\nwant:\n%s\non the wire:\n%s", i+1, err, Text(s.attempts[i]), Text(head))
		}
	}
	return nil
}

// matcher compares heads and remembers what the placeholders stood for.
type matcher struct {
	values map[string]string // placeholder -> value
	names  map[string]string // value -> placeholder
}

func (m *matcher) head(want, got upstream.Head) error {
	if want.RequestLine != got.RequestLine {
		return fmt.Errorf("request line %q, want %q", got.RequestLine, want.RequestLine)
	}
	for i, f := range got.Fields {
		if i >= len(want.Fields) {
			return fmt.Errorf("field %d, %q, is too much", i+1, f.Name)
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
		form, random := forms[want[at[2]:at[3]]]
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

// bind holds a placeholder to one value, and a value to one placeholder.
func (m *matcher) bind(key, value string) error {
	if before, bound := m.values[key]; bound && before != value {
		return fmt.Errorf("%s is %q here and %q before", key, value, before)
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

// Text writes a head as the golden files do, but for random values.
func Text(head upstream.Head) string {
	var b strings.Builder
	if head.RequestLine != "" {
		b.WriteString(head.RequestLine + "\n")
	}
	for _, f := range head.Fields {
		b.WriteString(strings.TrimSuffix(f.Name+": "+metadata.Replace(f.Value), " ") + "\n")
	}
	return b.String()
}
