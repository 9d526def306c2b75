// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

func TestUnread(t *testing.T) {
	space, err := sandbox.NewNamespace(fmt.Sprintf("lt-unread%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := space.Delete(); err != nil {
			t.Error(err)
		}
	})
	var listener net.Listener
	if err := space.Do(func() (err error) {
		listener, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := space.DialContext(t.Context(), "tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	local, remote := addrPort(server.LocalAddr()), addrPort(server.RemoteAddr())
	queue, err := openUnread(space, local, remote)
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	expect := func(want uint32) {
		t.Helper()
		if err := sandbox.Await(t.Context(), "bytes to be unread", 5*time.Second, time.Millisecond, func(context.Context) error {
			got, err := queue.bytes()
			if err == nil && got != want {
				err = fmt.Errorf("%d, want %d", got, want)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	expect(0)
	if _, err := client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	expect(100)
	for _, left := range []uint32{40, 0} {
		if _, err := server.Read(make([]byte, 60)); err != nil {
			t.Fatal(err)
		}
		expect(left)
	}
	if _, err := client.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	expect(10)
	read := make(chan time.Time, 1)
	time.AfterFunc(20*time.Millisecond, func() {
		if _, err := server.Read(make([]byte, 10)); err != nil {
			t.Error(err)
		}
		read <- time.Now()
	})
	before := time.Now()
	at, err := queue.readAt()
	if after := <-read; err != nil || at.Before(before.Add(20*time.Millisecond)) {
		t.Errorf("read %v after it was asked, by the reader %v (%v)", at.Sub(before), after.Sub(before), err)
	}
	queue.local = netip.AddrPortFrom(local.Addr(), local.Port()^1)
	if got, err := queue.bytes(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("of no connection: %d, %v", got, err)
	}
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
