// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// packetSocket runs a program as the paper did (section 6.2): a socket filter
// on a packet socket. The program lets nothing through, so the socket never
// holds a packet.
type packetSocket int

func attachSocketFilter(ifindex int, program *ebpf.Program) (attachment, error) {
	// Protocol 0 until the filter is on: no packet may reach the queue.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket (CAP_NET_RAW): %w", err)
	}
	s := packetSocket(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, program.FD()); err != nil {
		if errors.Is(err, unix.ENOMEM) {
			err = fmt.Errorf("%w: the program has to fit the memory for a socket's options (sysctl net.core.optmem_max=131072, the default of newer kernels)", err)
		}
		return nil, errors.Join(fmt.Errorf("attach socket filter: %w", err), s.Close())
	}
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind packet socket: %w", err), s.Close())
	}
	return s, nil
}

// Close closes the socket, which ends the filter.
func (s packetSocket) Close() error { return unix.Close(int(s)) }
