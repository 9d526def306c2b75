// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// Older kernels lack features that are tested: these tests are skipped there, and
// say why. The suite that runs on several kernels knows which.

// needsWrites is for what the kernel tells when processes write.
func needsWrites(t *testing.T) {
	t.Helper()
	_, err := HaveWrites()
	needs(t, err)
}

// tellsWrites is for tests that expect other times of such a kernel.
func tellsWrites() bool {
	_, err := HaveWrites()
	return err == nil
}

// needsReceivers is for what it tells of whom a packet was for that it drops.
func needsReceivers(t *testing.T) {
	t.Helper()
	needs(t, HaveTracepoint("kfree_skb", receiverOfDrop))
}

// needsTCX is for its hook at interfaces.
func needsTCX(t *testing.T) {
	t.Helper()
	nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(netlink.TC_ACT_UNSPEC)), asm.Return()},
	})
	must(t, err)
	defer nothing.Close()
	const lo = 1 // the first interface of each namespace
	l, err := link.AttachTCX(link.TCXOptions{Interface: lo, Attach: ebpf.AttachTCXIngress, Program: nothing})
	if err == nil {
		must(t, l.Close())
	}
	needs(t, err)
}

func needs(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skipf("the kernel lacks it: %v", err)
	}
	must(t, err)
}
