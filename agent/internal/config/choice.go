// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
)

// choice is a flag with a fixed set of values.
type choice struct {
	dst     *string
	allowed []string
}

func newChoice(dst *string, def string, allowed ...string) *choice {
	*dst = def
	return &choice{dst: dst, allowed: allowed}
}

// Set takes one of the allowed values.
func (c *choice) Set(s string) error {
	v, err := oneOf(c.allowed)(s)
	if err != nil {
		return err
	}
	*c.dst = v
	return nil
}

// String returns the present value.
func (c *choice) String() string { return *c.dst }

// Type names the allowed values in help texts.
func (c *choice) Type() string { return strings.Join(c.allowed, "|") }

func oneOf(allowed []string) func(string) (string, error) {
	return func(s string) (string, error) {
		for _, a := range allowed {
			if a == s {
				return s, nil
			}
		}
		if near := nearest(s, allowed); near != "" {
			return "", fmt.Errorf("%q is not one of %s; did you mean %s?", s, strings.Join(allowed, ", "), near)
		}
		return "", fmt.Errorf("%q is not one of %s", s, strings.Join(allowed, ", "))
	}
}
