// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/layertrace/layertrace/bpf"
)

// The stack in bytes that a function and all that it calls may take together (MAX_BPF_STACK
// of include/linux/filter.h), and the unit in which kernels before 6.8 count each function's;
// later ones count in units of 16 (round_up_stack_depth of kernel/bpf/verifier.c).
const (
	stackMax  = 512
	stackUnit = 32
)

// TestStack adds up the stack of the deepest calls as older kernels do: this one accepts
// more.
func TestStack(t *testing.T) {
	for object, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"capture": bpf.LoadCapture, "device": bpf.LoadDevice, "encrypted": bpf.LoadEncrypted, "socket": bpf.LoadSocket, "driver": bpf.LoadDriver, "sockops": bpf.LoadSockops,
	} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for name, program := range spec.Programs {
			t.Run(object+"/"+name, func(t *testing.T) {
				deepest, calls := deepestCalls(program.Instructions)
				t.Logf("%d bytes: %s", deepest, strings.Join(calls, " > "))
				if deepest > stackMax {
					t.Errorf("before Linux 6.8 the stack is %d bytes, want at most %d", deepest, stackMax)
				}
			})
		}
	}
}

// function is a part of a program with a stack of its own.
type function struct {
	depth int // in bytes
	calls []string
	// The deepest calls from here, once they are known.
	sum  int
	path []string
}

// deepestCalls returns the calls in a program that take the most stack, and how much.
func deepestCalls(code asm.Instructions) (int, []string) {
	called := map[string]bool{}
	for i := range code {
		if code[i].IsFunctionReference() { // also the body of a loop
			called[code[i].Reference()] = true
		}
	}
	functions := map[string]*function{}
	var f *function
	for i := range code {
		if name := code[i].Symbol(); i == 0 || called[name] {
			f = &function{}
			functions[name] = f
		}
		f.depth = max(f.depth, depthOf(code, i))
		if code[i].IsFunctionReference() {
			f.calls = append(f.calls, code[i].Reference())
		}
	}
	return deepestFrom(functions, code[0].Symbol())
}

func deepestFrom(functions map[string]*function, name string) (int, []string) {
	f := functions[name]
	if f.path != nil {
		return f.sum, f.path
	}
	own := (max(f.depth, 1) + stackUnit - 1) / stackUnit * stackUnit
	below, path := 0, []string(nil)
	for _, other := range f.calls {
		if sum, p := deepestFrom(functions, other); sum > below {
			below, path = sum, p
		}
	}
	f.sum, f.path = own+below, append([]string{fmt.Sprintf("%s %d", name, own)}, path...)
	return f.sum, f.path
}

// depthOf returns how far below the frame pointer, R10, instruction i reads, writes, or
// computes an address.
func depthOf(code asm.Instructions, i int) int {
	in := code[i]
	switch class := in.OpCode.Class(); {
	case class == asm.LdXClass && in.Src == asm.R10, class.IsStore() && in.Dst == asm.R10:
		return -int(in.Offset)
	case class == asm.ALU64Class && in.OpCode.ALUOp() == asm.Add && in.OpCode.Source() == asm.ImmSource && i > 0:
		before := code[i-1]
		if before.Dst == in.Dst && before.Src == asm.R10 && before.OpCode.Class() == asm.ALU64Class && before.OpCode.ALUOp() == asm.Mov {
			return -int(in.Constant)
		}
	}
	return 0
}
