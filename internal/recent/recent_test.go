// SPDX-License-Identifier: Apache-2.0

package recent

import "testing"

// What is used stays, and is made once; the table does not grow.
func TestTableKeepsWhatIsUsed(t *testing.T) {
	const size = 4
	made := map[int]int{}
	table := New(size, func(k int) int { made[k]++; return -k })
	for k := range 100 {
		for _, used := range []int{k, 0} {
			if got := table.Get(used); got != -used {
				t.Fatalf("key %d has the value %d", used, got)
			}
		}
		if n := len(table.young) + len(table.old); n > 2*size {
			t.Fatalf("%d values after %d keys, want at most %d", n, k+1, 2*size)
		}
	}
	if made[0] != 1 || made[1] != 1 {
		t.Errorf("the values of 0 and 1 were made %d and %d times, want 1", made[0], made[1])
	}
	table.Get(1)
	if made[1] != 2 {
		t.Error("a key that was not used for long was kept")
	}
}

func TestTableWithoutGarbage(t *testing.T) {
	table := New(4, func(k [9]byte) string { return string(k[:]) })
	if n := testing.AllocsPerRun(100, func() { table.Get([9]byte{1}); table.Get([9]byte{2}) }); n != 0 {
		t.Errorf("%v allocations for known keys", n)
	}
}
