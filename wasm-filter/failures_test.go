// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"testing"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

var errHost = errors.New("host call failed")

// brokenHost is a proxy of which single calls fail.
type brokenHost struct {
	getFails, setFails, panics, countersFail, configFails bool

	replaced bool
	counted  map[string]int
	warnings []string
}

func (h *brokenHost) configuration() ([]byte, error) {
	if h.configFails {
		return nil, errHost
	}
	return nil, nil
}

func (h *brokenHost) requestHeaders() ([][2]string, error) {
	switch {
	case h.panics:
		panic("a header list that is cut off")
	case h.getFails:
		return nil, errHost
	}
	return stock, nil
}

func (h *brokenHost) setRequestHeaders([][2]string) error {
	if h.setFails {
		return errHost
	}
	h.replaced = true
	return nil
}

func (h *brokenHost) defineCounter(name string) (func(), error) {
	if h.countersFail {
		return nil, errHost
	}
	return func() { h.counted[name]++ }, nil
}

func (h *brokenHost) warn(message string) { h.warnings = append(h.warnings, message) }

// TestHostFailures checks that no failure of the proxy stops a request, and
// that each is counted or told.
func TestHostFailures(t *testing.T) {
	for name, test := range map[string]struct {
		host             brokenHost
		replaced         bool
		errors, warnings int
	}{
		"none":            {brokenHost{}, true, 0, 0},
		"get headers":     {brokenHost{getFails: true}, false, 1, 0},
		"replace headers": {brokenHost{setFails: true}, false, 1, 0},
		"panic":           {brokenHost{panics: true}, false, 1, 0},
		"counters":        {brokenHost{countersFail: true}, true, 0, 2},
		"configuration":   {brokenHost{configFails: true}, false, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := &test.host
			h.counted = map[string]int{}
			p := &plugin{host: h}
			if status := p.OnPluginStart(0); status != types.OnPluginStartStatusOK {
				t.Errorf("start of the plugin: status %v, want OK", status)
			}
			if action := p.NewHttpContext(1).OnHttpRequestHeaders(len(stock), true); action != types.ActionContinue {
				t.Errorf("the filter answered %v, want Continue", action)
			}
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
