// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/layertrace/layertrace/bpf"
)

// A kernel whose kfree_skb has three arguments takes the program, which leaves
// the receiver alone then. icmp_send has arguments of the same kinds and stands
// in for the older kfree_skb.
func TestDropWithoutAReceiver(t *testing.T) {
	const point = "icmp_send"
	must(t, HaveTracepoint(point, receiverOfDrop-1))
	if HaveTracepoint(point, receiverOfDrop) == nil {
		t.Fatalf("%s has %d arguments: choose another", point, receiverOfDrop)
	}
	for _, told := range []bool{false, true} {
		spec, err := bpf.LoadSocket()
		must(t, err)
		for name := range spec.Programs {
			if name != bpf.SocketProgSocketDrop {
				delete(spec.Programs, name)
			}
		}
		spec.Programs[bpf.SocketProgSocketDrop].AttachTo = point
		must(t, setAll(spec, map[string]any{bpf.SocketVarHaveRxSk: told}))
		collection, err := ebpf.NewCollection(spec)
		if err == nil {
			collection.Close()
		}
		if (err == nil) == told {
			t.Errorf("the receiver is told: %v; loading: %v", told, err)
		}
	}
}
