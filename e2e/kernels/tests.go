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
	// Skipped has a reason for each test, and each part of one, that the kernel or
	// the machine lacks something for.
	Skipped map[string]string
	Failed  []string
}

// What is indented ran inside of another test, or in its namespace.
var outcome = regexp.MustCompile(`(?m)^( *)--- (PASS|FAIL|SKIP): (\S+) `)

// reason is what a test says when it skips itself.
var reason = regexp.MustCompile(`\S+_test\.go:\d+: (.*)`)

// ReadTests reads the outcome of a test binary. Output that shows no test, or an
// end that does not fit the tests, is an error.
func ReadTests(r Result) (Tests, error) {
	t := Tests{Skipped: map[string]string{}}
	for _, m := range outcome.FindAllStringSubmatchIndex(r.Output, -1) {
		inside, name := m[2] < m[3], r.Output[m[6]:m[7]]
		switch how := r.Output[m[4]:m[5]]; {
		case how == "SKIP" && (!inside || strings.Contains(name, "/")):
			t.Skipped[name] = whySkipped(r.Output[:m[0]], name)
		case inside: // the test around it tells
		case how == "PASS":
			t.Passed++
		default:
			t.Failed = append(t.Failed, name)
		}
	}
	if t.Passed == 0 || (r.Code == "0") != (len(t.Failed) == 0) {
		return t, fmt.Errorf("%s ended with code %s, %d tests passed, %d failed", r.Command, r.Code, t.Passed, len(t.Failed))
	}
	return t, nil
}

// whySkipped is what a test said, as it ran last in the output before its end.
func whySkipped(output, name string) string {
	if i := strings.LastIndex(output, "=== RUN   "+name+"\n"); i >= 0 {
		if said := reason.FindStringSubmatch(output[i:]); said != nil {
			return said[1]
		}
	}
	return "it does not say why"
}
