// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"fmt"
	"strings"
)

// Limits of configured names, as in docs/trace-context.md.
const (
	MaxHeaders       = 4  // configured names in all
	MaxHeaderNameLen = 31 // bytes of one name
)

// Header is a configured name whose value is read in one of the formats that
// stand in a single line.
type Header struct {
	Name   string
	Format Format // FormatW3C, FormatB3, FormatJaeger or FormatSW8
}

// ParseHeader reads NAME=FORMAT, as on the command line.
func ParseHeader(s string) (Header, error) {
	name, format, ok := strings.Cut(s, "=")
	if !ok {
		return Header{}, fmt.Errorf("context header %q: write it as NAME=FORMAT", s)
	}
	f, err := ParseFormat(format)
	if err != nil {
		return Header{}, fmt.Errorf("context header %q: %w", s, err)
	}
	h := Header{Name: name, Format: f}
	return h, h.Validate()
}

// String is the inverse of ParseHeader.
func (h Header) String() string { return h.Name + "=" + h.Format.String() }

// Validate checks that the name is a token of RFC 9110, section 5.6.2, within
// the limits, and that the format stands in a single line.
func (h Header) Validate() error {
	if len(h.Name) < 1 || len(h.Name) > MaxHeaderNameLen {
		return fmt.Errorf("context header %q: the name must have 1 to %d bytes", h.Name, MaxHeaderNameLen)
	}
	if i := strings.IndexFunc(h.Name, isNoToken); i >= 0 {
		return fmt.Errorf("context header %q: no header name can hold %q", h.Name, h.Name[i])
	}
	switch h.Format {
	case FormatW3C, FormatB3, FormatJaeger, FormatSW8:
		return nil
	}
	return fmt.Errorf("context header %q: format %s does not stand in one line (choose from w3c, b3, jaeger, sw8)", h.Name, h.Format)
}

// ValidateHeaders checks each header and their number.
func ValidateHeaders(headers []Header) error {
	if len(headers) > MaxHeaders {
		return fmt.Errorf("%d context headers are configured, at most %d are possible", len(headers), MaxHeaders)
	}
	for _, h := range headers {
		if err := h.Validate(); err != nil {
			return err
		}
	}
	return nil
}

func isNoToken(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}
