// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"fmt"
	"slices"
	"strings"
)

// Limits of configured header names, for the BPF programs as well.
const (
	MaxContextHeaders   = 4  // names
	MaxContextHeaderLen = 31 // bytes of one name
)

// ContextHeader is a configured request header whose value is a whole trace
// context in one of the single-header formats.
type ContextHeader struct {
	Name   string
	Format Format
}

// ParseContextHeader parses NAME=FORMAT, the value of --context-header, and
// validates it.
func ParseContextHeader(s string) (ContextHeader, error) {
	name, format, ok := strings.Cut(s, "=")
	if !ok {
		return ContextHeader{}, fmt.Errorf("context header %q: want NAME=FORMAT, such as x-trace=w3c", s)
	}
	f, err := ParseFormat(format)
	if err != nil {
		return ContextHeader{}, fmt.Errorf("context header %q: %w", s, err)
	}
	h := ContextHeader{Name: name, Format: f}
	return h, h.Validate()
}

// String is the inverse of ParseContextHeader.
func (h ContextHeader) String() string { return h.Name + "=" + h.Format.String() }

// Validate checks that the name is a token (RFC 9110, section 5.6.2) within the
// limits, and that the format uses a single header.
func (h ContextHeader) Validate() error {
	if len(h.Name) < 1 || len(h.Name) > MaxContextHeaderLen {
		return fmt.Errorf("context header %q: the name must have 1 to %d bytes", h, MaxContextHeaderLen)
	}
	if i := strings.IndexFunc(h.Name, notTokenChar); i >= 0 {
		return fmt.Errorf("context header %q: invalid character %q in the name", h, h.Name[i])
	}
	if !slices.Contains(singleHeaderFormats, h.Format) {
		return fmt.Errorf("context header %q: format %q is not one of %v", h, h.Format, singleHeaderFormats)
	}
	return nil
}

var singleHeaderFormats = []Format{FormatW3C, FormatB3, FormatJaeger, FormatSW8}

// ValidateContextHeaders validates each header and their number.
func ValidateContextHeaders(headers []ContextHeader) error {
	if len(headers) > MaxContextHeaders {
		return fmt.Errorf("%d context headers: at most %d are possible", len(headers), MaxContextHeaders)
	}
	for _, h := range headers {
		if err := h.Validate(); err != nil {
			return err
		}
	}
	return nil
}

func notTokenChar(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}
