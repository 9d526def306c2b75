// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// sysBTF has the types of a kernel built with BTF.
const sysBTF = "/sys/kernel/btf/vmlinux"

// Preflight returns an error with advice if privileges or BTF are missing. It
// takes microseconds.
func Preflight() error {
	if _, err := privileges(); err != nil {
		return err
	}
	_, err := btfPresent()
	return err
}

// wanted are the capabilities that everything needs. The socket filter also
// needs CAP_NET_RAW, which its own check finds out. CAP_SYS_ADMIN includes CAP_BPF
// and CAP_PERFMON, also on kernels without those (before 5.8).
var wanted = []struct {
	name string
	bit  int
	by   int // a capability that includes it
}{
	{"CAP_BPF", unix.CAP_BPF, unix.CAP_SYS_ADMIN},
	{"CAP_PERFMON", unix.CAP_PERFMON, unix.CAP_SYS_ADMIN},
	{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, unix.CAP_NET_ADMIN},
}

func privileges() (string, error) {
	effective, err := effectiveCapabilities()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errUnknown, err)
	}
	var missing []string
	for _, w := range wanted {
		if effective&(1<<w.bit|1<<w.by) == 0 {
			missing = append(missing, w.name)
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("not privileged, %s missing: run as root (sudo), or give the process these capabilities", strings.Join(missing, ", "))
	}
	return fmt.Sprintf("user %d", os.Geteuid()), nil
}

func effectiveCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // 32 bits each
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read this process's capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

func btfPresent() (string, error) {
	f, err := os.Open(sysBTF)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("this kernel has no BTF (%s): use a kernel built with CONFIG_DEBUG_INFO_BTF=y, and mount /sys into a container", sysBTF)
	}
	if err != nil {
		return "", fmt.Errorf("read the kernel's BTF: %w", err)
	}
	return sysBTF, f.Close()
}

// memlock raises the limit if the kernel still uses it.
func memlock() (string, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return "", fmt.Errorf("raise RLIMIT_MEMLOCK: %w; give CAP_SYS_RESOURCE or ulimit -l unlimited", err)
	}
	return "", nil
}
