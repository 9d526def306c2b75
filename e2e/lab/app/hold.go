// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen returns a listener whose connections leave received bytes in the receive
// queue for the time in s. They read or peek at nothing meanwhile; they only query
// the number of unread bytes.
func (s *State) Listen(inner net.Listener) net.Listener { return &listener{inner, s} }

type listener struct {
	net.Listener
	state *State
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	sys, ok := conn.(syscall.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("hold back the bytes of a %T: it has no file descriptor", conn), conn.Close())
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &held{conn, raw, l.state}, nil
}

type held struct {
	net.Conn
	raw   syscall.RawConn
	state *State
}

// Read waits for bytes, leaves them in the queue for the hold time, and reads.
func (c *held) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return c.Conn.Read(p)
	}
	waiting := 0
	err := c.raw.Read(func(fd uintptr) bool {
		waiting = unread(int(fd))
		// The end of the stream has no bytes, but must be read.
		return waiting > 0 || readable(int(fd))
	})
	if err != nil {
		return 0, err
	}
	if hold := c.state.hold(); hold > 0 && waiting > 0 {
		received := time.Now()
		time.Sleep(hold) // the fault
		c.state.held(c.RemoteAddr().String(), time.Since(received))
	}
	return c.Conn.Read(p)
}

// unread returns how many bytes are in a socket's receive queue.
func unread(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

// readable reports whether a read would not block, even if only for an error.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
}

type connKey struct{}

// ConnContext is for http.Server: it lets Whole find the connection.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// Whole writes a response so that TCP sends it in one piece, whatever its length.
// The server alone would write a long one in several.
func Whole(w http.ResponseWriter, r *http.Request, body []byte) error {
	conn, ok := r.Context().Value(connKey{}).(*held)
	if !ok {
		_, err := w.Write(body)
		return err
	}
	if err := conn.cork(1); err != nil {
		return err
	}
	_, err := w.Write(body)
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	if err != nil {
		return err
	}
	return conn.cork(0)
}

func (c *held) cork(on int) (err error) {
	if ctl := c.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on)
	}); ctl != nil {
		return ctl
	}
	return err
}

// Reset ends a connection by RST, in the middle of what was written. The bytes that
// TCP has not sent yet are lost.
func Reset(w http.ResponseWriter) error {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take the connection over: %w", err)
	}
	inner, ok := conn.(*held)
	if !ok {
		return errors.Join(fmt.Errorf("reset a %T: not a connection of Listen", conn), conn.Close())
	}
	if ctl := inner.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}); ctl != nil {
		err = ctl
	}
	return errors.Join(err, conn.Close())
}
