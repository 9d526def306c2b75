// SPDX-License-Identifier: Apache-2.0

package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Tap is an open packet socket.
type Tap struct {
	file *os.File
	done chan error
}

// Open watches an interface: handle is called for each TCP segment with data
// that passes, in either direction, with the kernel's time. What leaves is seen
// behind the interface's queue. The segment's Data is valid during the call.
func Open(space *sandbox.Namespace, nic string, handle func(Segment)) (*Tap, error) {
	t := &Tap{done: make(chan error, 1)}
	err := space.Do(func() (err error) {
		t.file, err = open(nic)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s in %s: %w", nic, space.Name, err)
	}
	go func() { t.done <- t.read(handle) }()
	return t, nil
}

func open(nic string) (*os.File, error) {
	link, err := net.InterfaceByName(nic)
	if err != nil {
		return nil, err
	}
	// Protocol 0: nothing comes before it is bound to the interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = errors.Join(
		os.NewSyscallError("setsockopt SO_RCVBUFFORCE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)),
		os.NewSyscallError("setsockopt SO_TIMESTAMPNS", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)),
	)
	if err == nil {
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "packet socket"), nil
}

// read hands over what comes until Close, and then what is left.
func (t *Tap) read(handle func(Segment)) error {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	frame, control := make([]byte, 1<<17), make([]byte, 128)
	drain := func(fd uintptr) bool {
		for {
			n, controls, _, _, err := unix.Recvmsg(int(fd), frame, control, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				failed = os.NewSyscallError("recvmsg", err)
				return true
			}
			if segment, ok := Parse(frame[:n]); ok {
				segment.Time = stamp(control[:controls])
				handle(segment)
			}
		}
	}
	if err := raw.Read(drain); failed == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	// The deadline has passed, which Read looks at first; Control does not.
	return errors.Join(failed, raw.Control(func(fd uintptr) { drain(fd) }))
}

// stamp is the kernel's time of a packet.
func stamp(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			seconds := binary.NativeEndian.Uint64(m.Data)
			return time.Unix(int64(seconds), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// Close hands over what has passed until now, and ends the watch. A packet that
// the kernel had no room for is an error.
func (t *Tap) Close() error {
	err := t.file.SetReadDeadline(time.Unix(1, 0))
	if err == nil {
		err = <-t.done
	}
	err = errors.Join(err, t.dropped(), t.file.Close())
	if err != nil {
		return fmt.Errorf("end the watch of an interface: %w", err)
	}
	return nil
}

func (t *Tap) dropped() error {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return err
	}
	var stats *unix.TpacketStats
	if ctl := raw.Control(func(fd uintptr) {
		stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); ctl != nil {
		return ctl
	}
	if err == nil && stats.Drops > 0 {
		err = fmt.Errorf("%d packets were missed", stats.Drops)
	}
	return err
}
