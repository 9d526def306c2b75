// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"fmt"
	"regexp"
	"strings"
)

// Tests is how the tests of a binary that ran with -test.v ended.
type Tests struct {
	Passed int
	// Skipped has a reason for each test that the kernel, or the machine, lacks
	// something for.
	Skipped map[string]string
	Failed  []string
}

// A test of its own; one that runs inside of another is indented.
var outcome = regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\S+) `)

// reason is what a test says when it skips itself.
var reason = regexp.MustCompile(`\S+_test\.go:\d+: (.*)`)

// ReadTests reads the outcome of a test binary. Output that shows no test, or an
// end that does not fit the tests, is an error.
func ReadTests(r Result) (Tests, error) {
	t := Tests{Skipped: map[string]string{}}
	for _, m := range outcome.FindAllStringSubmatchIndex(r.Output, -1) {
		name := r.Output[m[4]:m[5]]
		switch r.Output[m[2]:m[3]] {
		case "PASS":
			t.Passed++
		case "FAIL":
			t.Failed = append(t.Failed, name)
		default:
			t.Skipped[name] = "it does not say why"
			before := r.Output[:m[0]]
			if i := strings.LastIndex(before, "=== RUN   "+name+"\n"); i >= 0 {
				if said := reason.FindStringSubmatch(before[i:]); said != nil {
					t.Skipped[name] = said[1]
				}
			}
		}
	}
	if t.Passed == 0 || (r.Code == "0") != (len(t.Failed) == 0) {
		return t, fmt.Errorf("%s ended with code %s, %d tests passed, %d failed", r.Command, r.Code, t.Passed, len(t.Failed))
	}
	return t, nil
}
