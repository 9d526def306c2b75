// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"testing"
)

var errHost = errors.New("host call failed")

// brokenHost is a proxy of which single calls fail.
type brokenHost struct {
	getFails, setFails, cut, countersFail, configFails bool

	replaced bool
	names    []string // of the counters; their index is the ID
	counted  map[string]int
	warnings []string
}

func (h *brokenHost) configuration() ([]byte, error) {
	if h.configFails {
		return nil, errHost
	}
	return nil, nil
}

func (h *brokenHost) property(string) ([]byte, error) { return nil, errHost }

func (h *brokenHost) requestHeaders() ([]byte, error) {
	pairs := encodePairs(stock)
	switch {
	case h.getFails:
		return nil, errHost
	case h.cut:
		return pairs[:len(pairs)-1], nil
	}
	return pairs, nil
}

func (h *brokenHost) setRequestHeaders([]byte) error {
	if h.setFails {
		return errHost
	}
	h.replaced = true
	return nil
}

func (h *brokenHost) defineCounter(name string) (uint32, error) {
	if h.countersFail {
		return 0, errHost
	}
	h.names = append(h.names, name)
	return uint32(len(h.names) - 1), nil
}

func (h *brokenHost) increment(id uint32) { h.counted[h.names[id]]++ }

func (h *brokenHost) warn(message string) { h.warnings = append(h.warnings, message) }

// TestHostFailures checks that no failure of the proxy changes a request, and
// that each is counted or told.
func TestHostFailures(t *testing.T) {
	for name, test := range map[string]struct {
		host             brokenHost
		replaced         bool
		errors, warnings int
	}{
		"none":            {brokenHost{}, true, 0, 0},
		"get headers":     {brokenHost{getFails: true}, false, 1, 0},
		"cut headers":     {brokenHost{cut: true}, false, 1, 0},
		"replace headers": {brokenHost{setFails: true}, false, 1, 0},
		"counters":        {brokenHost{countersFail: true}, true, 0, 4},
		"configuration":   {brokenHost{configFails: true}, false, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := &test.host
			h.counted = map[string]int{}
			v := vm{host: h}
			v.configure()
			v.request(1)
			if h.replaced != test.replaced {
				t.Errorf("headers replaced: %v, want %v", h.replaced, test.replaced)
			}
			if got := h.counted[counterErrors]; got != test.errors {
				t.Errorf("%s is %d, want %d", counterErrors, got, test.errors)
			}
			if len(h.warnings) != test.warnings {
				t.Errorf("warnings %q, want %d", h.warnings, test.warnings)
			}
		})
	}
}
