// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// unread asks the kernel how much of what came to a connection's end was not read
// yet; close it. It is the laboratory's own way to see that an Envoy reads.
type unread struct {
	socket        *nl.SocketHandle
	local, remote netip.AddrPort
}

func openUnread(space *sandbox.Namespace, local, remote netip.AddrPort) (*unread, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.NsHandle(space.FD()), netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag(7) in %s: %w", space.Name, err)
	}
	return &unread{socket: &nl.SocketHandle{Socket: socket}, local: local, remote: remote}, nil
}

// Close closes the netlink socket.
func (u *unread) Close() { u.socket.Close() }

// Where struct inet_diag_msg of include/uapi/linux/inet_diag.h has the bytes that
// were received and not read.
const rqueueAt = 56

// bytes returns how many there are.
func (u *unread) bytes() (uint32, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: u.socket}
	req.AddRawData(diagRequest(u.local, u.remote))
	answers, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err == nil && (len(answers) != 1 || len(answers[0]) < rqueueAt+4) {
		err = errors.New("not one answer")
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the socket %v of %v by sock_diag(7): %w", u.local, u.remote, err)
	}
	return binary.NativeEndian.Uint32(answers[0][rqueueAt:]), nil
}

// Between two looks at a queue, and how long they go on.
const (
	look      = 50 * time.Microsecond
	lookUntil = 2 * time.Second
)

// readAt waits until all is read, and returns when that was: between two looks.
func (u *unread) readAt() (time.Time, error) {
	began := time.Now()
	for before := began; ; {
		left, err := u.bytes()
		now := time.Now()
		switch {
		case err != nil:
			return time.Time{}, err
		case left == 0:
			return before.Add(now.Sub(before) / 2), nil
		case now.Sub(began) > lookUntil:
			return time.Time{}, fmt.Errorf("wait for %v to read: %d bytes are unread after %v", u.local, left, lookUntil)
		}
		before = now
		// Go's timers are not as fine.
		pause := unix.NsecToTimespec(int64(look))
		if err := unix.Nanosleep(&pause, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return time.Time{}, fmt.Errorf("sleep: %w", err)
		}
	}
}

// diagRequest is struct inet_diag_req_v2 for one TCP socket over IPv4.
func diagRequest(local, remote netip.AddrPort) []byte {
	msg := []byte{unix.AF_INET, unix.IPPROTO_TCP, 0, 0}
	msg = binary.NativeEndian.AppendUint32(msg, ^uint32(0)) // in any state
	msg = binary.BigEndian.AppendUint16(msg, local.Port())
	msg = binary.BigEndian.AppendUint16(msg, remote.Port())
	for _, addr := range []netip.Addr{local.Addr(), remote.Addr()} {
		var field [16]byte
		copy(field[:], addr.AsSlice())
		msg = append(msg, field[:]...)
	}
	msg = binary.NativeEndian.AppendUint32(msg, 0)           // at any interface
	return binary.NativeEndian.AppendUint64(msg, ^uint64(0)) // INET_DIAG_NOCOOKIE, twice
}
