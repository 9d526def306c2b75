// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"
)

// dropReasons are the running kernel's names, by number: they differ between
// versions.
var dropReasons = sync.OnceValue(func() map[uint32]string {
	names := map[uint32]string{}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return names // the numbers stand for them
	}
	var enum *btf.Enum
	if err := kernel.TypeByName("skb_drop_reason", &enum); err != nil {
		return names
	}
	for _, v := range enum.Values {
		names[uint32(v.Value)] = strings.ToLower(strings.TrimPrefix(v.Name, "SKB_DROP_REASON_"))
	}
	return names
})

// dropReason names a reason, or gives its number.
func dropReason(reason uint32) string {
	if name, ok := dropReasons()[reason]; ok {
		return name
	}
	return strconv.FormatUint(uint64(reason), 10)
}
