// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// otherBytes is the amount of other memory that is written to, and of other code that
	// runs, between two messages: as much as fills the second-level cache of most CPUs, as
	// an application's own work does.
	otherBytes = 2 << 20
	cacheLine  = 64
)

// otherWork is what runs between two messages and takes their place in the caches. Data
// leaves the first-level cache of instructions alone, code that of data; both fill those
// of the other levels.
type otherWork struct {
	kind string
	data []byte
	code func()
}

func newOtherWork(kind string) (*otherWork, error) {
	o := &otherWork{kind: kind}
	switch kind {
	case "none", "data", "code", "both":
	default:
		return nil, fmt.Errorf("--other-work=%s: want none, data, code or both", kind)
	}
	if kind == "data" || kind == "both" {
		o.data = make([]byte, otherBytes)
	}
	if kind == "code" || kind == "both" {
		code, err := jumps(otherBytes)
		if err != nil {
			return nil, fmt.Errorf("--other-work=%s: %w", kind, err)
		}
		o.code = code
	}
	return o, nil
}

// jumps returns a function of that size that jumps from each cache line to the next one.
// It uses no register and no stack, so Go can call it as its own.
func jumps(size int) (func(), error) {
	if runtime.GOARCH != "amd64" {
		return nil, errors.New("its code is for x86-64")
	}
	code, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("map memory for code: %w", err)
	}
	const jmp, jmpLen, ret = 0xe9, 5, 0xc3
	for at := 0; at < size; at += cacheLine {
		copy(code[at:], []byte{jmp, cacheLine - jmpLen, 0, 0, 0})
	}
	code[size-cacheLine] = ret
	if err := unix.Mprotect(code, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		return nil, fmt.Errorf("make memory executable: %w", err)
	}
	// A function value points to a pointer to its code.
	closure := &struct{ entry *byte }{&code[0]}
	return *(*func())(unsafe.Pointer(&closure)), nil
}

func (o *otherWork) run() {
	for at := 0; at < len(o.data); at += cacheLine {
		o.data[at]++
	}
	if o.code != nil {
		o.code()
	}
}
