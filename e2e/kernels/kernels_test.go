// SPDX-License-Identifier: Apache-2.0

package kernels

import (
	"reflect"
	"testing"
)

const console = "SeaBIOS\r\n=== command doctor\r\nkernel 6.1\r\n=== exit code 1\r\n" +
	"=== command probe.test -test.v\r\n" +
	"=== RUN   TestOne\r\n    --- FAIL: TestOne (0.1s)\r\n--- PASS: TestOne (0.10s)\r\n" +
	"=== RUN   TestTwo\r\n    needs_test.go:20: the kernel lacks it: no TCX\r\n--- SKIP: TestTwo (0.00s)\r\n" +
	"=== RUN   TestThree\r\n    x_test.go:1: in the namespace:\r\n" +
	"        === RUN   TestThree\r\n        === RUN   TestThree/tcx\r\n" +
	"            needs_test.go:44: the kernel lacks it: no hook\r\n        === RUN   TestThree/clsact\r\n" +
	"        --- PASS: TestThree (0.10s)\r\n            --- SKIP: TestThree/tcx (0.00s)\r\n            --- PASS: TestThree/clsact (0.00s)\r\n" +
	"--- PASS: TestThree (0.10s)\r\n" +
	"=== RUN   TestFour\r\n    x_test.go:1: in the namespace:\r\n        === RUN   TestFour\r\n" +
	"            needs_test.go:9: the kernel lacks it: no TCX\r\n        --- SKIP: TestFour (0.00s)\r\n        PASS\r\n" +
	"    x_test.go:1: the kernel lacks it: no TCX\r\n--- SKIP: TestFour (0.10s)\r\n" +
	"PASS\r\n=== exit code 0\r\n=== command cut off\r\n"

func TestParse(t *testing.T) {
	got := parse(console)
	if len(got) != 2 || got[0] != (Result{"doctor", "kernel 6.1\n", "1"}) || got[1].Code != "0" {
		t.Fatalf("got %q", got)
	}
	tests, err := ReadTests(got[1])
	want := Tests{Passed: 2, Skipped: map[string]string{
		"TestTwo": "the kernel lacks it: no TCX", "TestThree/tcx": "the kernel lacks it: no hook",
		"TestFour": "the kernel lacks it: no TCX",
	}}
	if err != nil || !reflect.DeepEqual(tests, want) {
		t.Errorf("got %+v, %v, want %+v", tests, err, want)
	}
}

func TestReadTestsThatEndedOtherwise(t *testing.T) {
	for name, r := range map[string]Result{
		"none ran":          {"x", "PASS\n", "0"},
		"panic in the last": {"x", "--- PASS: TestOne (0.10s)\npanic: x\n", "2"},
		"failed, but 0":     {"x", "--- PASS: TestOne (0.10s)\n--- FAIL: TestTwo (0.10s)\n", "0"},
	} {
		if got, err := ReadTests(r); err == nil {
			t.Errorf("%s: no error, %+v", name, got)
		}
	}
}

func TestMessagesOfAFailedTest(t *testing.T) {
	got, err := ReadTests(Result{"x", "=== RUN   TestOne\n    a_test.go:1: fine\n--- PASS: TestOne (0.1s)\n" +
		"=== RUN   TestTwo\n    x_test.go:2: in the namespace:\n        === RUN   TestTwo\n            b_test.go:7: 3 turns, want 4\n" +
		"        --- FAIL: TestTwo (0.1s)\n--- FAIL: TestTwo (0.2s)\nFAIL\n", "1"})
	want := Tests{Passed: 1, Skipped: map[string]string{}, Failed: []string{"TestTwo"}, Messages: []string{"b_test.go:7: 3 turns, want 4"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
