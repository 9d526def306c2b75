// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"
)

func TestNameIsTakenOnce(t *testing.T) {
	first, err := takeName("unittest")
	if err != nil {
		t.Fatal(err)
	}
	if second, err := takeName("unittest"); err == nil {
		_ = second.Close()
		t.Error("a name was taken twice")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := takeName("unittest")
	if err != nil {
		t.Fatalf("take a released name: %v", err)
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	for _, name := range []string{"", "a-b", "A", "../x", "a b"} {
		if nameForm.MatchString(name) {
			t.Errorf("%q was accepted", name)
		}
	}
}
