// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/layertrace/layertrace/internal/testkit"
)

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		state  State
		detail string
	}{
		"there":     {nil, OK, "found"},
		"missing":   {fmt.Errorf("attach: %w", ebpf.ErrNotSupported), Missing, "Linux has it since 6.6"},
		"refused":   {errors.New("no"), Missing, "no"},
		"not tried": {fmt.Errorf("%w: x", errUnknown), Unknown, "x"},
	} {
		f := feature{name: "f", since: "6.6", try: func() (string, error) { return "found", test.err }}
		if c := f.check(); c.State != test.state || !strings.Contains(c.Detail, test.detail) {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestVerdict(t *testing.T) {
	checks := func(missing ...string) []Check {
		var all []Check
		for _, f := range allFeatures() {
			c := Check{Name: f.name, Needed: f.needed, For: f.use, State: OK}
			for _, m := range missing {
				if m == f.name {
					c.State, c.Detail = Missing, "gone"
				}
			}
			all = append(all, c)
		}
		return all
	}
	for _, test := range []struct {
		missing []string
		capture bool
		mode    string
		reason  string
	}{
		{nil, true, "tcx", ""},
		{[]string{"tcx", "kprobe", "sockops"}, true, "clsact", ""},
		{[]string{"tcx", "clsact"}, true, "socket-filter", ""},
		{[]string{"tcx", "clsact", "socket-filter"}, false, "", "none of tcx"},
		{[]string{"ring-buffer"}, false, "", "ring-buffer: gone"},
	} {
		r := Report{Checks: checks(test.missing...)}
		r.conclude()
		if r.Capture != test.capture || r.Mode != test.mode || !strings.Contains(r.Reason, test.reason) {
			t.Errorf("without %v: capture %v, mode %q, reason %q", test.missing, r.Capture, r.Mode, r.Reason)
		}
	}
	r := Report{Checks: checks("sockops", "kprobe")}
	r.conclude()
	var text bytes.Buffer
	if err := r.WriteText(&text, 0); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "off without sockops: --tcp-option") || strings.Contains(text.String(), "off without kprobe") {
		t.Errorf("text:\n%s", text.String())
	}
}

// The verdict comes first, and no line is wider than the terminal.
func TestTextFitsTheTerminal(t *testing.T) {
	r := Report{Kernel: "6.12.0-amd64 x86_64", Left: []string{"veth1", "eth0"}, UnseenProblem: strings.Repeat("a word ", 30)}
	for _, f := range allFeatures() {
		r.Checks = append(r.Checks, Check{Name: f.name, Needed: f.needed, For: f.use, State: OK})
	}
	last := &r.Checks[len(r.Checks)-1]
	last.State, last.Detail = Missing, strings.Repeat("verifier says no, ", 20)+"at the end"
	r.conclude()
	for _, width := range []int{80, 120} {
		var text bytes.Buffer
		if err := r.WriteText(&text, width); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(text.String(), "The agent can capture here (--mode auto selects tcx).\nKernel 6.12.0-amd64 x86_64 has 23 of the 24 features that layertrace uses.\n- off without memlock: ") {
			t.Errorf("width %d:\n%s", width, text.String())
		}
		if words := strings.Join(strings.Fields(text.String()), " "); !strings.Contains(words, strings.Join(strings.Fields(last.Detail), " ")) {
			t.Errorf("width %d: a part of the detail is missing:\n%s", width, text.String())
		}
		for line := range strings.Lines(text.String()) {
			if columns := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); columns > width {
				t.Errorf("width %d: %d columns: %s", width, columns, line)
			}
		}
	}
}

// The checks leave nothing in the kernel.
func TestExamineLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to try anything")
	}
	before := programs(t)
	r := Examine(t.Context(), "")
	if !r.Capture {
		t.Fatalf("cannot capture: %s", r.Reason)
	}
	for _, c := range r.Checks {
		if c.State == Unknown {
			t.Errorf("%s is unknown: %s", c.Name, c.Detail)
		}
	}
	if root, err := cgroup2(); err == nil {
		if left, err := filepath.Glob(filepath.Join(root, fmt.Sprintf("layertrace-doctor-%d-*", os.Getpid()))); err != nil || len(left) != 0 {
			t.Errorf("cgroups left: %v (%v)", left, err)
		}
	}
	// Other processes may be trying the same on this device.
	testkit.Eventually(t, "lo has no more programs than before", func() bool { return programs(t) <= before })
}

// programs counts the TCX programs on this namespace's loopback device.
func programs(t *testing.T) int {
	t.Helper()
	q, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return 0 // no TCX here
	}
	return len(q.Programs)
}
