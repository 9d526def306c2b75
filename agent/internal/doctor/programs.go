// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// load loads a program that returns value and does nothing.
func load(t ebpf.ProgramType, attach ebpf.AttachType, to string, value int32) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "doctor", Type: t, AttachType: attach, AttachTo: to, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, value), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load a %s program: %w", t, err)
	}
	return p, nil
}

// cmpxchg loads a program that compares and exchanges 8 bytes of its stack.
func cmpxchg() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "doctor", Type: ebpf.SocketFilter, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 0),
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.R10, -8, asm.R1, asm.DWord),
			asm.CmpXchg.Mem(asm.R10, asm.R1, asm.DWord, -8),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		return fmt.Errorf("load a program with an atomic compare-and-exchange: %w", err)
	}
	return p.Close()
}
