// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"runtime"
	"testing"
)

func TestReadMemoryFollowsAnAllocation(t *testing.T) {
	const size = 64 << 20
	before, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, size)
	for i := 0; i < size; i += 4096 {
		block[i] = 1
	}
	after, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(block)
	if after.Resident < size || after.Resident <= before.Resident || after.Peak < after.Resident {
		t.Errorf("before %+v, after %d more bytes %+v", before, size, after)
	}
}

func TestReadMemoryOfNoProcess(t *testing.T) {
	if memory, err := ReadMemory(1 << 30); err == nil {
		t.Errorf("%+v and no error", memory)
	}
}
