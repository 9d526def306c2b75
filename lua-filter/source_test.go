// SPDX-License-Identifier: Apache-2.0

package luafilter

import (
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"
)

// e2e/reorder tests the effect of the settings on a real Envoy.
func TestSource(t *testing.T) {
	for name, test := range map[string]struct {
		config Config
		first  string // line; none: the script alone
	}{
		"defaults": {Config{}, ""},
		"formats":  {Config{Formats: []string{"w3c", "b3"}}, `local settings = {formats = {"w3c", "b3"}}`},
		"all": {Config{Formats: []string{"b3"}, Headers: []string{"X-Own", "a'b"}},
			`local settings = {formats = {"b3"}, headers = {"X-Own", "a'b"}}`},
	} {
		got, err := Source(test.config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		prefix, found := strings.CutSuffix(got, script)
		if want := strings.TrimPrefix(test.first+"\n", "\n"); !found || prefix != want {
			t.Errorf("%s: %q before the script, want %q", name, prefix, want)
		}
	}
}

func TestSourceRefuses(t *testing.T) {
	for _, c := range []Config{
		{Formats: []string{"w3c", "zipkin"}},
		{Headers: []string{""}},
		{Headers: []string{`x"] os.exit() --`}},
		{Headers: []string{"x\ny"}},
		{Headers: []string{"Host"}},
	} {
		if got, err := Source(c); err == nil {
			t.Errorf("%q is accepted: %q", c, got[:40])
		}
	}
}

// The table of formats in the script is generated; this looks for each in it.
func TestFormats(t *testing.T) {
	for _, g := range formats.Groups() {
		if !strings.Contains(script, "\n  "+g.Name+" = {") {
			t.Errorf("the script does not know %s", g.Name)
		}
		for _, name := range slices.Concat(g.Headers, g.Prefixes) {
			if !strings.Contains(script, name) {
				t.Errorf("the script does not know %s of %s", name, g.Name)
			}
		}
	}
}
