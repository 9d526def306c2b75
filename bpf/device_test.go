// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/layertrace/layertrace/bpf"
)

// Offsets of struct __sk_buff (include/uapi/linux/bpf.h) that the device's programs may
// read: none leads to the packet's bytes, as data, data_meta and data_end do.
var harmlessFields = map[int16]string{0: "len", 4: "pkt_type", 16: "protocol", 40: "ifindex"}

// packetReaders are the only functions that may read a packet, with the helper that they
// call for it and the longest header.
var packetReaders = map[string]asm.BuiltinFunc{
	"load_header": asm.FnSkbLoadBytes,
	"read_header": asm.FnProbeReadKernel,
}

// harmlessHelpers read no packet.
var harmlessHelpers = map[asm.BuiltinFunc]bool{
	asm.FnMapLookupElem: true, asm.FnMapUpdateElem: true, asm.FnMapDeleteElem: true, asm.FnForEachMapElem: true,
	asm.FnKtimeGetNs: true, asm.FnRingbufReserve: true, asm.FnRingbufSubmit: true, asm.FnRingbufQuery: true,
}

// TestDeviceReadsOnlyHeaders walks the instructions of the device's programs. None has the
// address of a packet's bytes; the only two functions that read them refuse more than 40
// bytes, the longest IPv6 header and the longest TCP options, and each call asks for the
// length of a header, or for that of the options.
func TestDeviceReadsOnlyHeaders(t *testing.T) {
	spec, err := bpf.LoadDevice()
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range spec.Programs {
		if program.AttachType == ebpf.AttachTraceIter { // it gets no packet
			continue
		}
		t.Run(name, func(t *testing.T) {
			function, reads, dequeues := "", 0, program.Type == ebpf.Tracing
			for i, in := range program.Instructions {
				if s := in.Symbol(); s != "" && isFunction(program.Instructions, s) {
					function = s
				}
				switch {
				case in.OpCode.Class() == asm.LdClass && (in.OpCode.Mode() == asm.AbsMode || in.OpCode.Mode() == asm.IndMode):
					t.Errorf("instruction %d of %s reads the packet directly: %v", i, function, in)
				case in.IsBuiltinCall():
					helper := asm.BuiltinFunc(in.Constant)
					allowed := harmlessHelpers[helper] || packetReaders[function] == helper
					// The tracepoint's own argument, not a packet: see dequeue_batch.
					if dequeues && function == "dequeue_batch" && helper == asm.FnProbeReadKernel {
						allowed = true
					}
					if !allowed {
						t.Errorf("instruction %d of %s calls %v", i, function, helper)
					}
				case in.IsFunctionCall() && packetReaders[in.Reference()] != 0:
					reads++
					checkLength(t, program.Instructions, i, function)
				}
			}
			if reads == 0 {
				t.Error("found no read of a header: the test looks at the wrong functions")
			}
			if !dequeues {
				checkContext(t, program.Instructions)
			}
		})
	}
}

// isFunction reports whether a symbol is called as a function or is a program.
func isFunction(all asm.Instructions, symbol string) bool {
	if strings.HasPrefix(symbol, "device_") {
		return true
	}
	for _, in := range all {
		if in.IsFunctionCall() && in.Reference() == symbol {
			return true
		}
	}
	return false
}

// headerLengths are those of the structures that the programs read: an IPv6 extension
// header's start, a protocol number, IPv4, TCP and IPv6 headers.
var headerLengths = map[int64]bool{2: true, 20: true, 40: true}

// checkLength checks the length that a call of a reader asks for: the last value of its
// register before the call. In find_option it is the length of the options, which comes
// from the header, and which load_header bounds.
func checkLength(t *testing.T, all asm.Instructions, call int, function string) {
	t.Helper()
	register := asm.R4 // load_header(skb, off, to, len)
	if all[call].Reference() == "read_header" {
		register = asm.R2 // read_header(to, len, from)
	}
	for i := call - 1; i >= 0; i-- {
		in := all[i]
		if in.Dst != register || in.OpCode.Class().IsStore() || in.OpCode.Class().IsJump() {
			continue
		}
		constant := in.OpCode.Class().IsALU() && in.OpCode.ALUOp() == asm.Mov && in.OpCode.Source() == asm.ImmSource
		if !constant && function == "find_option" {
			return
		}
		if !constant || !headerLengths[in.Constant] {
			t.Errorf("instruction %d of %s reads a length of %v", call, function, in)
		}
		return
	}
	t.Errorf("instruction %d of %s: found no length", call, function)
}

// checkContext checks the fields of struct __sk_buff that a program reads. Its address is
// in R1 at the start of each function, and in copies of it.
func checkContext(t *testing.T, all asm.Instructions) {
	t.Helper()
	read := map[int16]bool{}
	holds := map[asm.Register]bool{}
	for i, in := range all {
		if s := in.Symbol(); strings.HasPrefix(s, "device_") || s == "load_header" || s == "find_option" {
			holds = map[asm.Register]bool{asm.R1: true}
		} else if s != "" && isFunction(all, s) {
			holds = map[asm.Register]bool{}
		}
		class := in.OpCode.Class()
		switch {
		case class == asm.LdXClass && holds[in.Src]:
			read[in.Offset] = true
			delete(holds, in.Dst)
			if harmlessFields[in.Offset] == "" {
				t.Errorf("instruction %d reads offset %d of the context: %v", i, in.Offset, in)
			}
		case class.IsALU() && in.OpCode.ALUOp() == asm.Mov && in.OpCode.Source() == asm.RegSource:
			holds[in.Dst] = holds[in.Src]
		case class.IsALU() || class == asm.LdXClass || class == asm.LdClass:
			delete(holds, in.Dst)
		case in.IsBuiltinCall() || in.IsFunctionCall():
			for r := asm.R0; r <= asm.R5; r++ {
				delete(holds, r)
			}
		}
	}
	if !read[16] {
		t.Error("found no read of the protocol: the test does not follow the context")
	}
}
