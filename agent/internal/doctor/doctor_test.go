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
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "off without sockops: --tcp-option") || strings.Contains(text.String(), "off without kprobe") {
		t.Errorf("text:\n%s", text.String())
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
