// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// Names that the verdict asks for.
const (
	namePrivileges   = "privileges"
	nameTCX          = "tcx"
	nameClsact       = "clsact"
	nameSocketFilter = "socket-filter"
)

const (
	useCapture = "capture"
	useOptions = "--tcp-option"
	useLayers  = "--spans=layers"
)

// list returns all checks in the order in which they are shown. Kprobes are
// not used: a locked-down kernel has none; the line only tells such a kernel.
func list() []feature {
	return []feature{
		{namePrivileges, true, "loading and attaching anything", "", privileges},
		{"btf", true, "reading kernel types", "", btfPresent},
		{"ring-buffer", true, useCapture + ": exchanges from kernel to agent", "5.8", only(haveMap(ebpf.RingBuf))},
		{"lru-hash", true, useCapture + ": connections", "4.10", only(haveMap(ebpf.LRUHash))},
		{"lpm-trie", true, useCapture + ": trusted prefixes", "4.11", only(haveMap(ebpf.LPMTrie))},
		{"per-cpu-array", true, useCapture + ": counters", "4.6", only(haveMap(ebpf.PerCPUArray))},
		{"bounded-loops", true, useCapture + ": reading header lines", "5.3", only(features.HaveBoundedLoops)},
		{"atomic-cmpxchg", true, useCapture + ": reporting each exchange once", "5.12 (BPF CPU v3 atomics)", only(cmpxchg)},
		{"map-walk", true, useCapture + ": reporting idle exchanges", "5.14", only(mapWalk)},
		{nameTCX, false, "--mode tcx, the cheapest hook", "6.6", only(tryTCX)},
		{nameClsact, false, "--mode clsact, the hook of older kernels", "4.5", only(tryClsact)},
		{nameSocketFilter, false, "--mode socket-filter, the fallback hook", "3.19", only(trySocketFilter)},
		{"capture-programs", true, useCapture + ": all of the above at once", "", only(tryCapture)},
		{"cgroup2", false, useLayers + " and " + useOptions + ": choosing the sockets", "", cgroup2},
		{"sockops", false, useOptions + ": hook", "4.13", only(trySockops)},
		{"header-options", false, useOptions + ": writing and reading", "5.10", only(headerOptions)},
		{"sk-storage", false, useLayers + " and " + useOptions + ": what belongs to a socket", "5.2", only(haveMap(ebpf.SkStorage))},
		{"cgroup-skb", false, useLayers + ": sockets; protocol stack and application stay one layer", "4.10", only(tryCgroupSKB)},
		{"tp-tcp-write", false, useLayers + ": when processes write (tcp_sendmsg_locked or sock_send_length, and cgroup_mkdir); a sender's queue counts as the application's", "6.3", only(tryWrites)},
		{"tp-tcp-read", false, useLayers + ": when processes read (tcp_rcv_space_adjust); a receiver's queue counts as the application's", "5.5", only(tryTracepoint("tcp_rcv_space_adjust", 1))},
		{"tp-driver", false, useLayers + ": when drivers get packets (qdisc_dequeue); the node driver counts as relay network", "5.5", only(tryTracepoint("qdisc_dequeue", 4))},
		{"tp-drop", false, useLayers + ": packets that are dropped, and why (kfree_skb)", "5.17", only(tryTracepoint("kfree_skb", 3))},
		{"layer-programs", false, useLayers + ": all of its programs that this kernel has hooks for", "", only(tryLayers)},
		{"kprobe", false, "", "", only(tryKprobe)},
		{"memlock", false, "maps on kernels before 5.11; later ones do not need it", "", memlock},
	}
}

func haveMap(t ebpf.MapType) func() error {
	return func() error { return features.HaveMapType(t) }
}

// mapWalk asks for a program that walks a map when user space runs it.
func mapWalk() error { return features.HaveProgramHelper(ebpf.Syscall, asm.FnForEachMapElem) }

// headerOptions asks for the helpers that reserve, write and read TCP options.
func headerOptions() error {
	for _, helper := range []asm.BuiltinFunc{asm.FnReserveHdrOpt, asm.FnStoreHdrOpt, asm.FnLoadHdrOpt} {
		if err := features.HaveProgramHelper(ebpf.SockOps, helper); err != nil {
			return err
		}
	}
	return nil
}
